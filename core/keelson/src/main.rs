//! Kubernetes, rebuilt: one binary that is the whole cluster. It only parses and starts.

use std::process::ExitCode;

use clap::Parser;

mod cli;
mod image;
mod server;

/// What Keelson serves, as `/version` tells it.
const GIT_VERSION: &str = concat!("v1.36.0+keelson-", env!("CARGO_PKG_VERSION"));

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "pod-process") {
        // A pod's own process: small, with one thread, and apart from all else.
        log(tracing::Level::WARN);
        keelson_runtime::pod_process::main(arguments);
    }
    let command = cli::Cli::parse();
    log(if command.verbose { tracing::Level::DEBUG } else { tracing::Level::INFO });
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keelson: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log(level: tracing::Level) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("{level},openraft=warn")));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

fn run(command: cli::Cli) -> anyhow::Result<()> {
    // Only one provider is compiled in; that another was installed cannot be.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match command.command {
        cli::Command::Server(options) => runtime()?.block_on(server::run(options)),
        cli::Command::Image(command) => image::run(command),
        cli::Command::Version => {
            println!("keelson {} (Kubernetes {GIT_VERSION})", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
