//! (client) The health check of gRPC: `grpc.health.v1.Health/Check`.

use std::time::Duration;

use tonic::Code;
use tonic::client::Grpc;
use tonic::transport::Endpoint;

use super::Finding;

#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

fn status_name(status: i32) -> &'static str {
    match status {
        0 => "UNKNOWN",
        1 => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "of another number",
    }
}

async fn ask(address: &str, service: &str) -> Result<i32, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await;
    let channel = channel.map_err(|error| format!("failed to connect service {address:?}: {error}"))?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| error.to_string())?;
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<Request, Response>::default();
    let request = tonic::Request::new(Request { service: service.to_owned() });
    match client.unary(request, path, codec).await {
        Ok(answer) => Ok(answer.into_inner().status),
        Err(status) if status.code() == Code::Unimplemented => Err(format!(
            "this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Err(status) => Err(format!("health rpc failed: {}", status.message())),
    }
}

/// Asks for the health of a service; "" is the whole server.
pub(super) async fn check(address: &str, service: &str, limit: Duration) -> Finding {
    match tokio::time::timeout(limit, ask(address, service)).await {
        Ok(Ok(SERVING)) => Finding::Success,
        Ok(Ok(status)) => {
            Finding::Failure(format!("service unhealthy (responded with {:?})", status_name(status)))
        }
        Ok(Err(fault)) => Finding::Failure(fault),
        Err(_) => Finding::Failure(format!(
            "timeout: failed to connect service {address:?} within {}s: context deadline exceeded",
            limit.as_secs()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use std::convert::Infallible;

    /// A server that answers every call with one status.
    async fn server(status: u8) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let answer =
                hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let trailers = http::HeaderMap::from_iter([(
                        http::HeaderName::from_static("grpc-status"),
                        http::HeaderValue::from_static("0"),
                    )]);
                    let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
                    let frames = [Ok::<_, Infallible>(Frame::data(message)), Ok(Frame::trailers(trailers))];
                    let body = StreamBody::new(futures::stream::iter(frames));
                    let answer = http::Response::builder().header("content-type", "application/grpc");
                    Ok::<_, Infallible>(answer.body(body).unwrap())
                });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            connection.serve_connection(TokioIo::new(stream), answer).await.unwrap();
        });
        address
    }

    #[tokio::test]
    async fn a_service_is_well_when_it_says_that_it_serves() {
        let limit = Duration::from_secs(10);
        assert_eq!(check(&server(1).await, "", limit).await, Finding::Success);
        let unhealthy = "service unhealthy (responded with \"NOT_SERVING\")".to_owned();
        assert_eq!(check(&server(2).await, "db", limit).await, Finding::Failure(unhealthy));
        let Finding::Failure(text) = check("127.0.0.1:1", "", limit).await else { panic!("nobody is there") };
        assert!(text.contains("failed to connect service"), "{text}");
    }
}
