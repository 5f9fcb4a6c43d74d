//! TLS, and who is at the other end of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Connections;
use super::serving::Serving;
use super::{Config, StartError};
use crate::audit::attempted;
use crate::authentication::certificate::{Authorities, Peer};
use crate::authentication::options;
use crate::http::{ApiState, Failure, compression, handle};
use crate::insight::trace::Trace;
use crate::pki::{Pki, Renewed};

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS: usize = 4096;

/// The authorities of clients and of proxies.
fn authorities(config: &Config, pki: &Pki) -> Result<Authorities, StartError> {
    let authentication = &config.authentication;
    let mut bundles = vec![pki.authority().to_owned()];
    for path in &authentication.client_ca_files {
        bundles.push(options::read(path)?);
    }
    let proxies = authentication.request_header.as_ref().map(|it| options::read(&it.ca_file)).transpose()?;
    let clients: Vec<&str> = bundles.iter().map(String::as_str).collect();
    Authorities::new(&clients, proxies.as_deref()).map_err(StartError::Tls)
}

/// What this server shows, and whose certificates it takes.
pub(super) fn certificates(
    config: &Config,
    pki: &Arc<Pki>,
) -> Result<(Arc<Serving>, Authorities), StartError> {
    let first = config.service_cidr.hosts().next();
    let mut names: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut addresses = vec![std::net::Ipv4Addr::LOCALHOST.into()];
    addresses.extend(first.map(std::net::IpAddr::V4));
    addresses.extend(config.advertise);
    let bound = config.bind.ip();
    addresses.extend(Some(bound).filter(|ip| !ip.is_unspecified() && !addresses.contains(ip)));
    for name in &config.names {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(name.clone()),
        }
    }
    let own = Renewed::serving(pki, "apiserver", &names, &addresses)?;
    Ok((Serving::new(own, &config.serving)?, authorities(config, pki)?))
}

pub(super) fn tls(
    serving: Arc<Serving>,
    authorities: &Authorities,
) -> Result<rustls::ServerConfig, StartError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(StartError::Tls)?
        .with_client_cert_verifier(authorities.verifier())
        .with_cert_resolver(serving);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

/// Listens, and serves until it is told to stop; then what is under way has some time to end.
pub(super) async fn start(
    state: Arc<ApiState>,
    config: &Config,
    tls: rustls::ServerConfig,
    authorities: Authorities,
    stop: CancellationToken,
) -> Result<(SocketAddr, tokio::task::JoinHandle<()>), StartError> {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listen = |source| StartError::Listen { bind: config.bind, source };
    let listener = TcpListener::bind(config.bind).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let limits = config.limits.clone();
    let patience = limits.request_timeout;
    let connections = Arc::new(Connections { state, acceptor, authorities, limits, stop });
    let task = tokio::spawn(async move {
        let running = TaskTracker::new();
        accept(listener, &connections, &running).await;
        running.close();
        if tokio::time::timeout(patience, running.wait()).await.is_err() {
            tracing::warn!(connections = running.len(), "connections that do not end are left");
        }
    });
    Ok((address, task))
}

async fn accept(listener: TcpListener, connections: &Arc<Connections>, running: &TaskTracker) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = connections.stop.cancelled() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connections = Arc::clone(connections);
                running.spawn(async move {
                    connections.serve(stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, as a rule: a pause lets some be closed.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Who a client is by the certificate that it has shown.
pub(super) fn peer(authorities: &Authorities, stream: &TlsStream<TcpStream>) -> Arc<Peer> {
    Arc::new(authorities.peer(stream.get_ref().1.peer_certificates()))
}

pub(super) async fn answer(
    state: Arc<ApiState>,
    peer: Arc<Peer>,
    mut request: Request<Body>,
) -> axum::response::Response {
    use axum::response::IntoResponse;
    let path = request.uri().path().to_owned();
    let gzip = compression::accepts(request.headers());
    let has_certificate = peer.client.is_some() || peer.proxy.is_some();
    let audited = state.audit.clone().map(|audit| (audit, attempted(request.headers(), has_certificate)));
    let began = std::time::Instant::now();
    let who = state.authenticator.request(&peer, request.headers_mut(), &path).await;
    state.insight.authenticated(who.as_ref(), began.elapsed());
    if let Some(until) = peer.until.filter(|_| peer.client.is_some()) {
        state.insight.certificate(until - jiff::Timestamp::now().as_second());
    }
    match who {
        Ok(identity) => {
            let response = handle(state, identity, request).await;
            if gzip { compression::compress(response).await } else { response }
        }
        Err(status) => {
            let mut response = Failure(status).into_response();
            let trace = Trace::of(&request);
            trace.mark(response.headers_mut());
            if let Some((audit, attempted)) = audited {
                let code = response.status().as_u16();
                audit.refused(&request.map(drop), trace.id(), &attempted, code).await;
            }
            response
        }
    }
}
