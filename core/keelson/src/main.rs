//! Kubernetes, rebuilt: one binary that is the whole cluster. It only parses and starts.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Mutex;

use clap::Parser;

mod agent;
mod api_server_options;
mod background;
mod cli;
mod cluster;
mod cni;
mod components;
mod connection;
mod demo_web;
mod down;
mod etcd_options;
mod facts;
mod image;
mod join;
mod join_token;
mod machine;
mod members;
mod memory;
mod node_ready;
mod node_routes;
mod pod_network;
mod progress;
mod rebuild;
mod server;
mod snapshot;
mod store_options;
mod token;
mod up;

/// What Keelson serves, as `/version` tells it.
const GIT_VERSION: &str = concat!("v1.36.0+keelson-", env!("CARGO_PKG_VERSION"));

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if let Some(kind) = cni::plugin::wanted(arguments.next()) {
        return cni::plugin::main(kind);
    }
    match arguments.next() {
        // A pod's own process: small, with one thread, and apart from all else.
        Some(first) if first == "pod-process" => {
            log_of_a_pod();
            keelson_runtime::pod_process::main(arguments);
        }
        // What a container of the program's own image does that is told nothing.
        Some(first) if first == "pause" => keelson_runtime::pod_process::pause(),
        _ => {}
    }
    let command = cli::Cli::parse();
    log(if command.verbose { tracing::Level::DEBUG } else { tracing::Level::INFO });
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress::complain(format_args!("keelson: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn log(level: tracing::Level) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        // A member that is missed would be told of ten times a second; the store says so once.
        let quiet = "openraft=warn,openraft::core::heartbeat=error,libcgroups=error";
        tracing_subscriber::EnvFilter::new(format!("{level},{quiet}"))
    });
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    // What cannot be logged, as the disk is full, is lost. To complain of that on the standard error would end the process.
    log.with_writer(std::io::stderr).log_internal_errors(false).init();
}

/// The log of a pod's process. It keeps the way to where it goes for itself: what becomes a container has another
/// standard error, which belongs to the container.
fn log_of_a_pod() {
    if let Ok(file) = std::io::stderr().as_fd().try_clone_to_owned() {
        // A start that fails is answered with its reason, and is the matter of whoever asked.
        let filter = tracing_subscriber::EnvFilter::new("warn,libcontainer=off,libcgroups=error");
        let writer = Mutex::new(std::fs::File::from(file));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(writer);
        log.log_internal_errors(false).init();
    }
}

fn run(command: cli::Cli) -> anyhow::Result<()> {
    // Only one provider is compiled in; that another was installed cannot be.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match command.command {
        cli::Command::Up(options) => up::run(&options),
        cli::Command::Down(options) => down::down(&options),
        cli::Command::Reset(options) => down::reset(&options),
        cli::Command::DemoWeb(options) => runtime()?.block_on(demo_web::run(options.port)),
        cli::Command::Server(options) => runtime()?.block_on(server::run(options)),
        cli::Command::Members(command) => runtime()?.block_on(members::run(command)),
        cli::Command::Agent(options) => agent::run(&options),
        cli::Command::Token(command) => runtime()?.block_on(token::run(command)),
        cli::Command::Snapshot(command) => snapshot::run(command),
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
