//! Clients of the API that go to whichever server lives: connecting tries one server after the other, and a connection ends
//! when its server is gone, no longer answers pings, or another certificate is to be shown.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

use anyhow::Context;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::Body;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tower::Service;

use super::servers::Servers;
use crate::connection::host_and_port;

/// How long a server may take to accept a connection before the next one is tried.
const PATIENCE: Duration = Duration::from_secs(5);
/// A connection is asked for a sign of life this often, and has this long to give it.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// A name that every server's own certificate shows.
const COMMON_NAME: &str = "kubernetes";

/// Believes a certificate of the cluster's authority for the address that was connected to, or for the API server of any
/// address: nobody else gets a certificate of that name.
#[derive(Debug)]
struct Verifier(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.0.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        match verified {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {
                let common = ServerName::try_from(COMMON_NAME)
                    .map_err(|_| rustls::Error::General("no name".to_owned()))?;
                self.0.verify_server_cert(end_entity, intermediates, &common, ocsp, now)
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// TLS to servers that the authority vouches for. `own` is shown to them.
pub(crate) fn tls(
    authority: CertificateDer<'static>,
    own: Option<Arc<dyn ResolvesClientCert>>,
) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority).context("use the certificate of the cluster's authority")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .context("verify with the cluster's authority")?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier(verifier)));
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(own),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// No server could be reached.
#[derive(Debug, thiserror::Error)]
#[error("no server can be reached: {}", .0.join("; "))]
pub(crate) struct Unreachable(Vec<String>);

/// Connects to a server that lives.
#[derive(Clone)]
pub(crate) struct Connector {
    servers: Arc<Servers>,
    tls: TlsConnector,
}

async fn connect(tls: &TlsConnector, server: &str) -> anyhow::Result<TlsStream<TcpStream>> {
    let (host, port) = host_and_port(server)?;
    let name = ServerName::try_from(host.clone()).with_context(|| format!("{host:?} is no host"))?;
    let work = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        anyhow::Ok(tls.connect(name, stream).await?)
    };
    tokio::time::timeout(PATIENCE, work).await.context("it does not answer")?
}

impl Service<Uri> for Connector {
    type Response = Live;
    type Error = Unreachable;
    type Future = Pin<Box<dyn Future<Output = Result<Live, Unreachable>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Unreachable>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Connector { servers, tls } = self.clone();
        Box::pin(async move {
            let mut failures = Vec::new();
            for server in servers.in_order() {
                match connect(&tls, &server).await {
                    Ok(stream) => {
                        let end = servers.connected(&server);
                        tracing::debug!(server, "connected to a server");
                        let end = Box::pin(end.cancelled_owned());
                        return Ok(Live { stream: TokioIo::new(stream), end });
                    }
                    Err(error) => failures.push(format!("{server}: {error:#}")),
                }
            }
            Err(Unreachable(failures))
        })
    }
}

/// A connection that ends when its server is no longer to be asked.
pub(crate) struct Live {
    stream: TokioIo<TlsStream<TcpStream>>,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection for Live {
    fn connected(&self) -> Connected {
        let (_, session) = self.stream.inner().get_ref();
        let connected = Connected::new();
        if session.alpn_protocol() == Some(b"h2") { connected.negotiated_h2() } else { connected }
    }
}

impl hyper::rt::Read for Live {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Live {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Whether a server that answers so serves: what it says of the request does not count against it.
fn could_serve(status: StatusCode) -> bool {
    !matches!(
        status,
        StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// A client of the servers. `token` is told in every request.
pub(crate) fn client(
    servers: Arc<Servers>,
    tls: ClientConfig,
    token: Option<&str>,
) -> anyhow::Result<kube::Client> {
    let connector = Connector { servers: Arc::clone(&servers), tls: TlsConnector::from(Arc::new(tls)) };
    let http = legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(PING.0)
        .http2_keep_alive_timeout(PING.1)
        .build::<_, Body>(connector);
    let token = token.map(|token| HeaderValue::from_str(&format!("Bearer {token}"))).transpose()?;
    let token = token.map(|mut token| {
        token.set_sensitive(true);
        token
    });
    let service = tower::service_fn(move |mut request: Request<Body>| {
        let (http, servers) = (http.clone(), Arc::clone(&servers));
        if let Some(token) = &token {
            request.headers_mut().insert(header::AUTHORIZATION, token.clone());
        }
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let path = request.uri().path_and_query().cloned();
        let uri = Uri::builder().scheme("https").authority(COMMON_NAME);
        let uri =
            uri.path_and_query(path.map_or_else(|| "/".to_owned(), |it| it.as_str().to_owned())).build();
        async move {
            *request.uri_mut() = uri?;
            let response = http.request(request).await;
            servers.judge(response.as_ref().is_ok_and(|response| could_serve(response.status())));
            Ok::<_, tower::BoxError>(response?)
        }
    });
    Ok(kube::Client::new(service, "default"))
}

const USER_AGENT: &str = concat!("keelson-agent/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests;
