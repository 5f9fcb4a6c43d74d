//! From the name of a server to a connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::service::ServiceResolver;

/// Connects to the host of a URL, or to an endpoint of a Service.
#[derive(Clone)]
pub(super) enum Connector {
    Direct,
    Service { resolver: Arc<ServiceResolver>, namespace: Arc<str>, name: Arc<str>, port: u16 },
}

impl Connector {
    async fn connect(self, uri: Uri) -> io::Result<TokioIo<TcpStream>> {
        let (host, port) = match self {
            Connector::Service { resolver, namespace, name, port } => {
                let endpoint = resolver.resolve(&namespace, &name, port).map_err(io::Error::other)?;
                (endpoint.host, endpoint.port)
            }
            Connector::Direct => {
                let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
                let usual = if uri.scheme_str() == Some("http") { 80 } else { 443 };
                (host.to_owned(), uri.port_u16().unwrap_or(usual))
            }
        };
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| {
            let at = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            let detail = match error.kind() {
                io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
                _ => error.to_string(),
            };
            io::Error::new(error.kind(), format!("dial tcp {at}: {detail}"))
        })?;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(stream))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}
