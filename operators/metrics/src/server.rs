//! The HTTPS server of the metrics API.
//!
//! **Invariant: nobody but the API server is answered**, by its certificate of the front proxy's authority. It has authenticated
//! and authorized its callers, whom it names in headers.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::answer::{Answer, Server};
use crate::api;

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS: usize = 64;
/// How long a client may take for a handshake, and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Whom to believe who asks, as the API server says.
#[derive(Debug, Clone)]
pub(crate) struct FrontProxy {
    /// The authority of its certificates, PEM.
    pub(crate) authority: String,
    /// Names that they may have; any, if there are none.
    pub(crate) names: Vec<String>,
    /// The header that names the caller.
    pub(crate) user_header: String,
}

/// A certificate for a name, of an authority that is made for it alone and whose key is thrown away.
pub(crate) struct Identity {
    /// PEM.
    pub(crate) authority: String,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    pub(crate) fn new(name: &str) -> Result<Self, Fault> {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.distinguished_name.push(rcgen::DnType::CommonName, "keelson-metrics-ca");
        let key = rcgen::KeyPair::generate()?;
        let authority = params.self_signed(&key)?.pem();
        let issuer = rcgen::Issuer::new(params, key);
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()])?;
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &issuer)?.der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der())?;
        Ok(Identity { authority, certificate, key })
    }
}

/// Opens the preferred port of an address if it is free, or else any.
pub(crate) async fn listen(address: IpAddr, preferred: Option<u16>) -> std::io::Result<TcpListener> {
    if let Some(port) = preferred
        && let Ok(listener) = TcpListener::bind((address, port)).await
    {
        return Ok(listener);
    }
    TcpListener::bind(SocketAddr::new(address, 0)).await
}

/// How the server shows itself, and whom it lets in.
pub(crate) fn tls(identity: &Identity, front: &FrontProxy) -> Result<TlsAcceptor, Fault> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(front.authority.as_bytes()) {
        roots.add(authority?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key())?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

/// Whether a certificate of the authority is one of the front proxy.
fn is_front(front: &FrontProxy, certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let name = certificate.subject().iter_common_name().last().and_then(|name| name.as_str().ok());
    front.names.is_empty() || name.is_some_and(|name| front.names.iter().any(|known| known == name))
}

fn json(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(value.to_string()));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn answer(server: &Server, front: &FrontProxy, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let refused =
        |code: StatusCode, reason, text: &str| json(code, &api::status(code.as_u16(), reason, text));
    if !request.headers().contains_key(front.user_header.as_str()) {
        return refused(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized");
    }
    if request.method() != Method::GET {
        let text = "the server does not allow this method on the requested resource";
        return refused(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", text);
    }
    let accept = accepted(request.headers());
    let path = request.uri().path().to_owned();
    match server.answer(&path, request.uri().query(), &accept).await {
        Answer::Text(text) => Response::new(Full::from(text)),
        Answer::Found(value) => json(StatusCode::OK, &value),
        Answer::Refused(code, reason, text) => refused(code, reason, &text),
    }
}

fn accepted(headers: &HeaderMap) -> String {
    let all = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    all.collect::<Vec<_>>().join(",")
}

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, server: Arc<Server>, front: Arc<FrontProxy>) {
    let accepted = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await;
    let Ok(Ok(stream)) = accepted else {
        tracing::debug!("somebody who is not the API server is not answered");
        return;
    };
    let chain = stream.get_ref().1.peer_certificates();
    if !chain.and_then(|chain| chain.first()).is_some_and(|certificate| is_front(&front, certificate)) {
        tracing::debug!("somebody who is not the front proxy is not answered");
        return;
    }
    let service = hyper::service::service_fn(move |request| {
        let (server, front) = (Arc::clone(&server), Arc::clone(&front));
        async move { Ok::<_, Infallible>(answer(&server, &front, request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Serves for ever.
pub(crate) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, front: FrontProxy, server: Server) {
    let (server, front) = (Arc::new(server), Arc::new(front));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // Never closed.
        let place = Arc::clone(&places).acquire_owned().await.ok();
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let (acceptor, server, front) = (acceptor.clone(), Arc::clone(&server), Arc::clone(&front));
                connections.spawn(async move {
                    connection(acceptor, stream, server, front).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
