//! The kubelet's HTTPS server: logs, exec, attach, port-forward, and what the node and its pods use.
//!
//! - `peer`: who asks; `access`: who is let in, and what they may do; `recent`: answers to that; `failure`: how it is refused
//! - `logs`, `streaming`, `stats`, `insight`, `system_logs`: the endpoints; `idle`: streams that are silent
//! - `resource_metrics`, `container_metrics` (pure): what was looked at, as metrics
//!
//! **Invariant: every request is authenticated and authorized**, health too, before anything is looked at for it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use http::{Request, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::pods::Pods;
use crate::runtime_client::RuntimeClient;
use crate::usage::{Meter, UsageError};

mod access;
mod container_metrics;
mod counted;
mod failure;
mod idle;
mod insight;
mod logs;
mod peer;
mod recent;
mod resource_metrics;
mod stats;
mod streaming;
mod system_logs;
mod zpages;

use access::Access;
use counted::Counted;
use failure::Failure;
use peer::Peer;

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS: usize = 512;
/// How long a client may take for a handshake, and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// The clients' authority is no PEM of that kind.
    #[error("read the clients' authority of the kubelet's server")]
    Authority(#[source] rustls_pki_types::pem::Error),
    /// They do not fit each other.
    #[error("set up TLS of the kubelet's server")]
    Tls(#[from] rustls::Error),
    /// The clients' authority cannot be used.
    #[error("set up the verification of the kubelet's clients")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The address is taken, as a rule.
    #[error("listen on {bind} for the kubelet's server")]
    Listen {
        /// The configured address.
        bind: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// What the endpoints need.
struct Node {
    config: Arc<Config>,
    pods: Arc<Pods>,
    runtime: RuntimeClient,
    meter: Arc<Meter>,
    metrics: Arc<Metrics>,
    /// When it began.
    since: jiff::Timestamp,
}

fn tls(config: &Config) -> Result<rustls::ServerConfig, ServerError> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(config.client_ca.as_bytes()) {
        roots.add(authority.map_err(ServerError::Authority)?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Who has no certificate may have a token.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let verifier = verifier.allow_unauthenticated().build()?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::clone(&config.serving));
    // Streams are upgraded connections, which HTTP/2 does not have.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

/// Runs what waits for the disk or the kernel beside the tasks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, UsageError> {
    tokio::task::spawn_blocking(work).await.map_err(UsageError::Broken)
}

async fn unknown() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "404 page not found")
}

fn routes(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(insight::health))
        .route("/healthz/ping", get(async || "ok"))
        .route("/metrics", get(insight::metrics))
        .route("/metrics/cadvisor", get(insight::containers))
        .route("/metrics/probes", get(insight::probes))
        .route("/metrics/resource", get(insight::resources))
        .route("/configz", get(insight::settings))
        .route("/statusz", get(zpages::status))
        .route("/flagz", get(zpages::settings))
        .route("/pods", get(insight::pods))
        .route("/pods/", get(insight::pods))
        .route("/runningpods", get(insight::running_pods))
        .route("/runningpods/", get(insight::running_pods))
        .route("/logs", get(system_logs::folder))
        .route("/logs/", get(system_logs::folder))
        .route("/logs/{*path}", get(system_logs::file))
        .route("/stats/summary", get(stats::summary))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::serve))
        .route("/exec/{namespace}/{pod}/{container}", any(streaming::exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(streaming::exec))
        .route("/attach/{namespace}/{pod}/{container}", any(streaming::attach))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", any(streaming::attach))
        .route("/portForward/{namespace}/{pod}", any(streaming::port_forward))
        .route("/portForward/{namespace}/{pod}/{uid}", any(streaming::port_forward))
        .fallback(unknown)
        .with_state(node)
}

/// Listens, and serves until `shutdown`.
pub(crate) async fn run(
    config: Arc<Config>,
    pods: Arc<Pods>,
    runtime: RuntimeClient,
    client: kube::Client,
    metrics: Arc<Metrics>,
    meter: Arc<Meter>,
    shutdown: CancellationToken,
) -> Result<(), ServerError> {
    let acceptor = TlsAcceptor::from(Arc::new(tls(&config)?));
    let bind = config.bind;
    let listener = TcpListener::bind(bind).await.map_err(|source| ServerError::Listen { bind, source })?;
    let access = Arc::new(Access::new(client, &config.node_name, &config.settings));
    let counted = Arc::clone(&metrics);
    let routes =
        routes(Arc::new(Node { config, pods, runtime, meter, metrics, since: jiff::Timestamp::now() }));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            accepted = async {
                // Never closed.
                let place = Arc::clone(&places).acquire_owned().await.ok();
                listener.accept().await.map(|(stream, _)| (stream, place))
            } => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let (acceptor, routes, shutdown) = (acceptor.clone(), routes.clone(), shutdown.clone());
                let (access, counted) = (Arc::clone(&access), Arc::clone(&counted));
                tokio::spawn(async move {
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = serve(acceptor, stream, access, counted, routes) => {}
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, as a rule: a pause lets some be closed.
                tracing::warn!(%error, "a connection to the kubelet could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    access: Arc<Access>,
    metrics: Arc<Metrics>,
    routes: Router,
) {
    if let Err(error) = idle::guard(&stream) {
        tracing::debug!(%error, "a connection to the kubelet ended before it began");
        return;
    }
    let stream = match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake with the kubelet failed");
            return;
        }
        Err(_) => return,
    };
    let chain = stream.get_ref().1.peer_certificates();
    let certificate = chain.and_then(|chain| chain.first());
    let peer = certificate.and_then(Peer::of).map(Arc::new);
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (routes, access, peer) = (routes.clone(), Arc::clone(&access), peer.clone());
        let metrics = Arc::clone(&metrics);
        async move {
            let under_way = metrics.requests.begin(request.method(), request.uri().path());
            let response = answer(routes, &access, peer, request.map(Body::new)).await;
            Ok::<_, Infallible>(response.map(|body| Counted::new(body, under_way)))
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await {
        tracing::debug!(%error, "a connection to the kubelet ended");
    }
}

async fn answer(
    routes: Router,
    access: &Access,
    peer: Option<Arc<Peer>>,
    mut request: Request<Body>,
) -> Response {
    let path = request.uri().path().to_owned();
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let allowed = async {
        let peer = access.authenticate(peer.as_ref(), &headers).await?;
        access.authorize(&peer, &method, &path).await?;
        Ok::<_, Failure>(peer)
    };
    let peer = match allowed.await {
        Ok(peer) => peer,
        Err(refusal) => return refusal.into_response(),
    };
    // Whoever is asked in turn gets nobody's token.
    request.headers_mut().remove(header::AUTHORIZATION);
    let upgrade = request.headers().get(header::UPGRADE).is_some();
    tracing::debug!(path, upgrade, user = peer.user, "request to the kubelet");
    match routes.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests;
