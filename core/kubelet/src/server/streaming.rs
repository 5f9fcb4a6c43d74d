//! `/exec`, `/attach` and `/portForward`: the runtime serves the streams, and the connection is passed on to it byte
//! for byte.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use http::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use keelson_cri::v1;
use tokio::net::TcpStream;

use super::Node;
use super::failure::Failure;
use super::idle;
use crate::pods::LookupError;

/// How long the runtime's streaming server may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);

type Parameters = Query<Vec<(String, String)>>;

/// Which streams are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    fn parse(parameters: &[(String, String)]) -> Result<Self, Failure> {
        let is_set = |name: &str| {
            parameters.iter().any(|(key, value)| key == name && matches!(value.as_str(), "1" | "true"))
        };
        let tty = is_set("tty");
        let (stdin, stdout, stderr) = (is_set("input"), is_set("output"), is_set("error"));
        if !stdin && !stdout && !stderr {
            return Err(Failure::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        // A terminal has one output.
        Ok(Streams { stdin, stdout, stderr: stderr && !tty, tty })
    }
}

fn of_pod(path: &HashMap<String, String>) -> (&str, &str, Option<&str>) {
    let part = |name: &str| path.get(name).map(String::as_str);
    (part("namespace").unwrap_or_default(), part("pod").unwrap_or_default(), part("uid"))
}

/// The running instance of the container that the path names.
fn running(node: &Node, path: &HashMap<String, String>) -> Result<String, Failure> {
    let (namespace, pod, uid) = of_pod(path);
    let container = path.get("container").map(String::as_str).unwrap_or_default();
    let not_found = || Failure::internal(format!("container not found ({container:?})"));
    match node.pods.container(namespace, pod, uid, container) {
        Ok(found) if found.running => Ok(found.id),
        Ok(_) | Err(LookupError::Waiting { .. } | LookupError::Container { .. }) => Err(not_found()),
        Err(LookupError::Pod { .. }) => Err(Failure::new(StatusCode::NOT_FOUND, "pod does not exist")),
    }
}

fn needs_upgrade(request: &Request<Body>) -> Result<(), Failure> {
    if request.headers().contains_key(header::UPGRADE) {
        return Ok(());
    }
    Err(Failure::bad_request("Upgrade request required"))
}

pub(super) async fn exec(
    State(node): State<Arc<Node>>,
    Path(path): Path<HashMap<String, String>>,
    Query(parameters): Parameters,
    request: Request<Body>,
) -> Result<Response, Failure> {
    let container_id = running(&node, &path)?;
    let Streams { stdin, stdout, stderr, tty } = Streams::parse(&parameters)?;
    needs_upgrade(&request)?;
    let command = parameters.into_iter().filter(|(name, _)| name == "command").map(|(_, value)| value);
    let wanted = v1::ExecRequest {
        container_id,
        cmd: command.collect(),
        tty,
        stdin,
        stdout,
        stderr,
        ..v1::ExecRequest::default()
    };
    forward(&node, &node.runtime.exec(wanted).await?.url, request).await
}

pub(super) async fn attach(
    State(node): State<Arc<Node>>,
    Path(path): Path<HashMap<String, String>>,
    Query(parameters): Parameters,
    request: Request<Body>,
) -> Result<Response, Failure> {
    let container_id = running(&node, &path)?;
    let Streams { stdin, stdout, stderr, tty } = Streams::parse(&parameters)?;
    needs_upgrade(&request)?;
    let wanted =
        v1::AttachRequest { container_id, stdin, tty, stdout, stderr, ..v1::AttachRequest::default() };
    forward(&node, &node.runtime.attach(wanted).await?.url, request).await
}

/// `port=80,81`, as the API server writes them, or `port` several times.
fn ports(parameters: &[(String, String)]) -> Result<Vec<i32>, Failure> {
    let texts = parameters.iter().filter(|(name, _)| name == "port").flat_map(|(_, value)| value.split(','));
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port != 0 => Ok(i32::from(port)),
        Ok(_) | Err(_) => Err(Failure::bad_request(format!("unable to parse {text:?} as a port"))),
    };
    texts.filter(|text| !text.is_empty()).map(port).collect()
}

pub(super) async fn port_forward(
    State(node): State<Arc<Node>>,
    Path(path): Path<HashMap<String, String>>,
    Query(parameters): Parameters,
    request: Request<Body>,
) -> Result<Response, Failure> {
    let (namespace, pod, uid) = of_pod(&path);
    let sandbox = node.pods.sandbox(namespace, pod, uid).map_err(|error| match error {
        LookupError::Pod { .. } => Failure::new(StatusCode::NOT_FOUND, "pod does not exist"),
        LookupError::Waiting { .. } | LookupError::Container { .. } => {
            Failure::internal(format!("unable to forward ports: pod {pod:?} is not running"))
        }
    })?;
    let port = ports(&parameters)?;
    needs_upgrade(&request)?;
    let wanted = v1::PortForwardRequest { pod_sandbox_id: sandbox, port };
    forward(&node, &node.runtime.port_forward(wanted).await?.url, request).await
}

/// Hands the connection to the server at `url`.
async fn forward(node: &Node, url: &str, mut request: Request<Body>) -> Result<Response, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::internal(format!("error dialing the container runtime's streaming server: {error}"))
    };
    let url: Uri = url.parse().map_err(|error| failed(&error))?;
    let (Some("http"), Some(authority)) = (url.scheme_str(), url.authority()) else {
        return Err(failed(&format!("only http is supported, not {url}")));
    };
    let address = (authority.host().trim_matches(['[', ']']).to_owned(), authority.port_u16().unwrap_or(80));
    let stream = match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(|error| failed(&error))?,
        Err(late) => return Err(failed(&late)),
    };
    stream.set_nodelay(true).map_err(|error| failed(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to the container runtime's streams ended");
        }
    });
    let outer = hyper::upgrade::on(&mut request);
    let idle = node.config.settings.streaming_connection_idle_timeout;
    let (parts, body) = request.into_parts();
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut inward = Request::builder().method(parts.method).uri(path);
    if let Some(headers) = inward.headers_mut() {
        *headers = parts.headers;
        headers.remove(header::HOST);
    }
    let inward = inward.header(header::HOST, authority.as_str()).body(body);
    let inward = inward.map_err(|error| failed(&error))?;
    let mut response = sender.send_request(inward).await.map_err(|error| failed(&error))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let inner = hyper::upgrade::on(&mut response);
        tokio::spawn(pass(outer, inner, idle));
    }
    Ok(response.map(Body::new))
}

async fn pass(outer: hyper::upgrade::OnUpgrade, inner: hyper::upgrade::OnUpgrade, idle: Duration) {
    let (outer, inner) = match tokio::try_join!(outer, inner) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "a connection could not be upgraded");
            return;
        }
    };
    if let Err(error) = idle::copy(TokioIo::new(outer), TokioIo::new(inner), idle).await {
        tracing::debug!(%error, "an upgraded connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_terminal_has_no_stderr_and_some_stream_is_needed() {
        let found = Streams::parse(&pairs(&[("output", "1"), ("error", "1"), ("tty", "1")])).unwrap();
        assert_eq!(found, Streams { stdin: false, stdout: true, stderr: false, tty: true });
        assert_eq!(Streams::parse(&pairs(&[("tty", "1")])).unwrap_err().status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn ports_come_in_one_parameter_or_several() {
        assert_eq!(ports(&pairs(&[("port", "80,81"), ("port", "82")])).unwrap(), [80, 81, 82]);
        assert_eq!(ports(&[]).unwrap(), Vec::<i32>::new());
        for bad in ["x", "0", "65536", "-1"] {
            ports(&pairs(&[("port", bad)])).unwrap_err();
        }
    }
}
