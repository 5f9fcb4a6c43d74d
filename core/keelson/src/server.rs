//! `keelson server`: a control-plane member in the foreground.

use std::time::Instant;

use anyhow::Context;
use keelson_apiserver::ApiServer;
use keelson_apiserver::identity::Identity;
use keelson_apiserver::server::Config;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::ServerOptions;

/// Runs until it is asked to end.
pub(crate) async fn run(options: ServerOptions) -> anyhow::Result<()> {
    let began = Instant::now();
    let data_dir = options.data.data_dir;
    std::fs::create_dir_all(&data_dir).with_context(|| {
        format!("create {}: choose a folder you may write to with --data-dir", data_dir.display())
    })?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut config = Config {
        names: options.tls_sans,
        service_cidr: options.service_cidr,
        git_version: crate::GIT_VERSION.to_owned(),
        ..Config::new(data_dir.clone(), options.bind)
    };
    options.api_server.apply(&mut config)?;
    tokio::spawn(crate::memory::give_back());
    let server = ApiServer::start(config).await?;
    let kubeconfig = data_dir.join("kubeconfig");
    let url = format!("https://{}", server.address());
    server.keep_kubeconfig(kubeconfig.clone(), &url)?;
    let stop = CancellationToken::new();
    let running = server.components().begin("scheduler");
    let scheduler = keelson_scheduler::run(
        keelson_scheduler::Config::default(),
        server.client(Identity::user("system:kube-scheduler", &[])),
        stop.clone(),
    );
    let scheduler = tokio::spawn(async move {
        let _running = running;
        scheduler.await
    });
    println!("API server ready at {url} after {} ms", began.elapsed().as_millis());
    println!("  export KUBECONFIG={}", kubeconfig.display());
    println!("  kubectl get namespaces");
    tokio::pin!(scheduler);
    let ended = tokio::select! {
        _ = interrupted.recv() => None,
        _ = terminated.recv() => None,
        ended = &mut scheduler => Some(ended),
    };
    println!("Stopping");
    stop.cancel();
    // What it has under way goes through the server, which ends after it.
    let ended = match ended {
        Some(ended) => ended,
        None => scheduler.await,
    };
    server.shutdown().await;
    ended.context("the scheduler failed")?.context("the scheduler ended")
}
