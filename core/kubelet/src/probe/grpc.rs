//! (client) The health check of gRPC: `grpc.health.v1.Health/Check`.

use std::time::Duration;

use jiff::SignedDuration;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::Finding;
use crate::plan::go_duration;

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
/// Between two tries to connect.
const CONNECT_AGAIN: Duration = Duration::from_millis(200);

fn status_name(status: i32) -> &'static str {
    match status {
        0 => "UNKNOWN",
        1 => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "of another number",
    }
}

/// Asks once; until there is a connection it is tried again, as gRPC's channels do.
async fn connect(address: &str) -> Result<Channel, String> {
    let failed =
        |error: tonic::transport::Error| format!("error: failed to connect service at {address:?}: {error}");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(failed)?;
    let endpoint = endpoint.user_agent(crate::http_get::USER_AGENT).map_err(failed)?;
    loop {
        if let Ok(channel) = endpoint.connect().await {
            return Ok(channel);
        }
        tokio::time::sleep(CONNECT_AGAIN).await;
    }
}

async fn ask(channel: Channel, service: &str) -> Result<i32, Status> {
    let mut client = Grpc::new(channel);
    let lost = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    client.ready().await.map_err(lost)?;
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<Request, Response>::default();
    let request = tonic::Request::new(Request { service: service.to_owned() });
    let answer = client.unary(request, path, codec).await;
    answer.map(|answer| answer.into_inner().status)
}

fn late(within: &str) -> String {
    format!("timeout: health rpc did not complete within {within}")
}

/// A call that was refused, in other kubelets' words.
fn failure(status: &Status, within: &str) -> String {
    let message = status.message();
    match status.code() {
        Code::DeadlineExceeded => late(within),
        Code::Unimplemented => format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
        ),
        // Its name is how it is written, but for the words of a call that was cut off.
        Code::Cancelled => {
            format!("error: health rpc probe failed: rpc error: code = Canceled desc = {message}")
        }
        code => format!("error: health rpc probe failed: rpc error: code = {code:?} desc = {message}"),
    }
}

/// Asks for the health of a service; "" is the whole server.
pub(super) async fn check(address: &str, service: &str, limit: Duration) -> Finding {
    let end = tokio::time::Instant::now() + limit;
    let within = go_duration(SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX));
    let channel = match tokio::time::timeout_at(end, connect(address)).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(fault)) => return Finding::Failure(fault),
        Err(_) => {
            return Finding::Failure(format!(
                "timeout: failed to connect service {address:?} within {within}: context deadline exceeded"
            ));
        }
    };
    match tokio::time::timeout_at(end, ask(channel, service)).await {
        Ok(Ok(SERVING)) => Finding::Success,
        Ok(Ok(status)) => {
            Finding::Failure(format!("service unhealthy (responded with {:?})", status_name(status)))
        }
        Ok(Err(status)) => Finding::Failure(failure(&status, &within)),
        Err(_) => Finding::Failure(late(&within)),
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
        let absent = check("127.0.0.1:1", "", Duration::from_secs(1)).await;
        let text = "timeout: failed to connect service \"127.0.0.1:1\" within 1s: context deadline exceeded";
        assert_eq!(absent, Finding::Failure(text.to_owned()));
    }

    #[test]
    fn a_refused_call_is_told_as_elsewhere() {
        let text = failure(&Status::not_found("unknown service"), "1s");
        assert_eq!(text, "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service");
        let absent = failure(&Status::unimplemented("no"), "1s");
        assert!(absent.starts_with("error: this server does not implement"), "{absent}");
        let late = failure(&Status::deadline_exceeded("server's own"), "1m30s");
        assert_eq!(late, "timeout: health rpc did not complete within 1m30s");
    }
}
