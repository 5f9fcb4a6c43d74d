//! (client) One GET request, as probes and hooks make it: any certificate is taken, redirects stay with the host.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const MAX_BODY: usize = 10 << 10;
const MAX_REDIRECTS: usize = 10;
/// What asks.
pub(crate) const USER_AGENT: &str = "kube-probe/1.36";

/// Where to ask, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// With TLS.
    pub(crate) secure: bool,
    /// Name or address.
    pub(crate) host: String,
    /// Port.
    pub(crate) port: u16,
    /// Path and query.
    pub(crate) path: String,
    /// Further headers.
    pub(crate) headers: Vec<(String, String)>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// The beginning of the body.
    pub(crate) body: String,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GetError {
    /// Not a request that can be made.
    #[error("Get {url:?}: {reason}")]
    Request {
        /// What was asked.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// Nobody listens, or the way is closed.
    #[error("Get {url:?}: {reason}")]
    Connect {
        /// What was asked.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The other side does not speak HTTP, or stopped.
    #[error("Get {url:?}: {reason}")]
    Protocol {
        /// What was asked.
        url: String,
        /// What happened.
        reason: String,
    },
    /// TLS was asked for, and HTTP came back.
    #[error("Get {url:?}: http: server gave HTTP response to HTTPS client")]
    Plain {
        /// What was asked.
        url: String,
    },
    /// It took too long.
    #[error("Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    Timeout {
        /// What was asked.
        url: String,
    },
}

/// `HOST:PORT`, with brackets around an IPv6 address.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A connection that failed, in other programs' words.
pub(crate) fn dial_error(address: &str, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "connect: connection timed out".to_owned(),
        _ => format!("connect: {error}"),
    };
    format!("dial tcp {address}: {why}")
}

impl Request {
    fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}{}", authority(&self.host, self.port), self.path())
    }

    fn path(&self) -> String {
        if self.path.starts_with('/') { self.path.clone() } else { format!("/{}", self.path) }
    }

    /// Where a redirect leads, if it stays with the host.
    fn redirected(&self, location: &str) -> Option<Self> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Some(Self { path: location.to_owned(), ..self.clone() });
        }
        let uri: http::Uri = location.parse().ok()?;
        let secure = uri.scheme_str()? == "https";
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        (host == self.host).then(|| Self { secure, host, port, path, headers: self.headers.clone() })
    }
}

/// Any certificate will do: a probe asks whether somebody is there, not who.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn connector() -> Result<tokio_rustls::TlsConnector, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)))
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: &Request,
) -> Result<(Answer, Option<String>), GetError> {
    let protocol = |error: hyper::Error| GetError::Protocol { url: request.url(), reason: error.to_string() };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(protocol)?;
    let mut connection = std::pin::pin!(connection);
    let mut builder = http::Request::get(request.path());
    let has = |name: &str| request.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
    for (name, value) in [
        ("host", authority(&request.host, request.port)),
        ("user-agent", USER_AGENT.into()),
        ("accept", "*/*".into()),
    ] {
        if !has(name) {
            builder = builder.header(name, value);
        }
    }
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    let message = builder
        .body(Empty::<Bytes>::new())
        .map_err(|error| GetError::Request { url: request.url(), reason: error.to_string() })?;
    let work = async {
        let answer = sender.send_request(message).await.map_err(protocol)?;
        let status = answer.status().as_u16();
        let location = answer.headers().get(http::header::LOCATION);
        let location = location.and_then(|value| value.to_str().ok()).map(str::to_owned);
        // Only the beginning is looked at, and what is longer is no fault.
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
        let body =
            body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        Ok((Answer { status, body }, location))
    };
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => done,
        ended = &mut connection => match ended {
            Ok(()) => work.await,
            Err(error) => Err(protocol(error)),
        },
    }
}

/// A stream that remembers how what came over it begins: what is not TLS may be HTTP.
struct Opening {
    inner: TcpStream,
    read: Vec<u8>,
}

/// As many bytes of the beginning tell that it is HTTP.
const OPENING: usize = b"HTTP/".len();

impl AsyncRead for Opening {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let own = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut own.inner).poll_read(context, buffer);
        let missing = OPENING.saturating_sub(own.read.len());
        let new = buffer.filled().get(before..).unwrap_or_default();
        own.read.extend_from_slice(new.get(..missing.min(new.len())).unwrap_or_default());
        polled
    }
}

impl AsyncWrite for Opening {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

async fn once(request: &Request) -> Result<(Answer, Option<String>), GetError> {
    let url = request.url();
    let address = authority(&request.host, request.port);
    let stream = TcpStream::connect((request.host.as_str(), request.port)).await;
    let stream = stream
        .map_err(|error| GetError::Connect { url: url.clone(), reason: dial_error(&address, &error) })?;
    if !request.secure {
        return exchange(stream, request).await;
    }
    let refused = |reason: String| GetError::Connect { url: url.clone(), reason };
    let name = ServerName::try_from(request.host.clone()).map_err(|error| refused(error.to_string()))?;
    let connector = connector().map_err(|error| refused(error.to_string()))?;
    let stream = connector.connect(name, Opening { inner: stream, read: Vec::new() });
    match stream.into_fallible().await {
        Ok(stream) => exchange(stream, request).await,
        Err((_, stream)) if stream.read.starts_with(b"HTTP/") => Err(GetError::Plain { url }),
        Err((error, _)) => Err(refused(error.to_string())),
    }
}

/// The answer, after redirects that stay with the host.
pub(crate) async fn get(request: &Request, limit: Duration) -> Result<Answer, GetError> {
    let work = async {
        let mut request = request.clone();
        let mut redirects = 0;
        loop {
            let (answer, location) = once(&request).await?;
            let redirect = matches!(answer.status, 301 | 302 | 303 | 307 | 308);
            let next = location.filter(|_| redirect).and_then(|location| request.redirected(&location));
            match next {
                Some(next) if redirects < MAX_REDIRECTS => {
                    redirects += 1;
                    request = next;
                }
                Some(_) | None => return Ok(answer),
            }
        }
    };
    let late = || GetError::Timeout { url: request.url() };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_followed_only_with_the_same_host() {
        let request = Request {
            secure: false,
            host: "10.0.0.1".to_owned(),
            port: 8080,
            path: "a".to_owned(),
            headers: Vec::new(),
        };
        assert_eq!(request.url(), "http://10.0.0.1:8080/a");
        assert_eq!(request.redirected("/b?c").unwrap().url(), "http://10.0.0.1:8080/b?c");
        assert_eq!(request.redirected("https://10.0.0.1/").unwrap().url(), "https://10.0.0.1:443/");
        assert_eq!(request.redirected("http://example.com/"), None);
        assert_eq!(request.redirected("//example.com/"), None);
    }

    #[tokio::test]
    async fn nobody_there_is_said_as_other_programs_say_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let request =
            Request { secure: false, host: "127.0.0.1".into(), port, path: "/".into(), headers: Vec::new() };
        let error = get(&request, Duration::from_secs(5)).await.unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "Get \"http://127.0.0.1:{port}/\": dial tcp 127.0.0.1:{port}: connect: connection refused"
            )
        );
    }
}
