//! A server for tests of probes: HTTP at 8080, the same with TLS at 8443, and gRPC's health service at 9090.
//!
//! HTTP: `/ok` is 200, `/fails` 500, `/header` 200 to who sends `X-Probe: yes` for the host `probed.test`, `/here` leads to `/ok`,
//! `/there` to `/fails`, `/away` to another host, and `/slow` takes two seconds. gRPC: the whole server and the service
//! `well` serve, `ill` does not, and others are not known. While there is a file `/tmp/ill`, `/ok` and the whole server are not well.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;

fn is_ill() -> bool {
    Path::new("/tmp/ill").exists()
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_header = |name: &str, value: &str| {
        request.headers().get(name).is_some_and(|found| found.as_bytes() == value.as_bytes())
    };
    let (status, location) = match request.uri().path() {
        "/ok" if is_ill() => (StatusCode::SERVICE_UNAVAILABLE, None),
        "/ok" => (StatusCode::OK, None),
        "/fails" => (StatusCode::INTERNAL_SERVER_ERROR, None),
        "/header" if is_header("x-probe", "yes") && is_header("host", "probed.test") => {
            (StatusCode::OK, None)
        }
        "/header" => (StatusCode::BAD_REQUEST, None),
        "/here" => (StatusCode::FOUND, Some("/ok")),
        "/there" => (StatusCode::FOUND, Some("/fails")),
        "/away" => (StatusCode::FOUND, Some("http://0.0.0.0/ok")),
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(2)).await;
            (StatusCode::OK, None)
        }
        _ => (StatusCode::NOT_FOUND, None),
    };
    let mut answer = Response::new(Full::from(status.to_string()));
    *answer.status_mut() = status;
    if let Some(location) = location {
        answer.headers_mut().insert(http::header::LOCATION, http::HeaderValue::from_static(location));
    }
    Ok(answer)
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
    // A client that goes is no fault.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
}

async fn serve(port: u16, tls: Option<TlsAcceptor>) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let tls = tls.clone();
        tokio::spawn(async move {
            match tls {
                None => connection(stream).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        connection(stream).await;
                    }
                }
            }
        });
    }
}

fn tls() -> anyhow::Result<TlsAcceptor> {
    let own = rcgen::generate_simple_self_signed(vec!["probed.test".to_owned()])?;
    let key = rustls_pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der());
    let key = key.map_err(|error| anyhow::anyhow!("{error}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;

#[derive(Clone)]
struct Health;

impl NamedService for Health {
    const NAME: &'static str = "grpc.health.v1.Health";
}

struct Check;

impl UnaryService<HealthCheckRequest> for Check {
    type Response = HealthCheckResponse;
    type Future = std::future::Ready<Result<tonic::Response<HealthCheckResponse>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<HealthCheckRequest>) -> Self::Future {
        let status = match request.into_inner().service.as_str() {
            "" if is_ill() => NOT_SERVING,
            "" | "well" => SERVING,
            "ill" => NOT_SERVING,
            _ => return std::future::ready(Err(tonic::Status::not_found("unknown service"))),
        };
        std::future::ready(Ok(tonic::Response::new(HealthCheckResponse { status })))
    }
}

impl tower::Service<Request<tonic::body::Body>> for Health {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path() != "/grpc.health.v1.Health/Check" {
                return Ok(tonic::Status::unimplemented("").into_http());
            }
            let codec = tonic_prost::ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
            Ok(Grpc::new(codec).unary(Check, request).await)
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9090));
    let grpc = async { anyhow::Ok(Server::builder().add_service(Health).serve(address).await?) };
    tokio::try_join!(serve(8080, None), serve(8443, Some(tls()?)), grpc)?;
    Ok(())
}
