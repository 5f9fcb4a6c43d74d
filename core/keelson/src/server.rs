//! `keelson server`: a control-plane member in the foreground.

use std::time::Instant;

use anyhow::Context;
use keelson_apiserver::ApiServer;
use keelson_apiserver::identity::MASTERS;
use keelson_apiserver::server::Config;
use tokio::signal::unix::{SignalKind, signal};

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
    let config = Config {
        data_dir: data_dir.clone(),
        bind: options.bind,
        names: options.tls_sans,
        service_cidr: options.service_cidr,
        git_version: crate::GIT_VERSION.to_owned(),
    };
    let server = ApiServer::start(config).await?;
    let kubeconfig = data_dir.join("kubeconfig");
    let url = format!("https://{}", server.address());
    let text = server.pki().kubeconfig(&url, "kubernetes-admin", &[MASTERS])?;
    server.pki().write_kubeconfig(&kubeconfig, &text)?;
    println!("API server ready at {url} after {} ms", began.elapsed().as_millis());
    println!("  export KUBECONFIG={}", kubeconfig.display());
    println!("  kubectl get namespaces");
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    println!("Stopping");
    server.shutdown().await;
    Ok(())
}
