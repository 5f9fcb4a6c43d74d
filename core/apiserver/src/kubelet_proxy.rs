//! The way to kubelets: logs, exec, attach and port-forward of pods, and a node's own paths ([`crate::proxy`]). Upgraded
//! connections are passed on byte for byte in both directions.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::uri::InvalidUri;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use keelson_api::{GroupResource, Object, Status};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::cache;
use crate::pki::{Pki, PkiError, Renewed};
use crate::proxy::forward::Outward;
use crate::registry::Registry;
use crate::request_info::{RequestInfo, is_on};

mod log_options;

/// How long a kubelet may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where a kubelet listens that does not say so in its node's status.
const PORT: u16 = 10250;
/// So much of a refusal is passed on.
const REFUSAL: usize = 64 << 10;

/// Why the proxy cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The certificate with which the server comes to kubelets.
    #[error("make the certificate for kubelets")]
    Pki(#[from] PkiError),
    /// The certificate's form.
    #[error("the certificate for kubelets cannot be used")]
    Unusable,
    /// TLS.
    #[error("set up TLS to kubelets")]
    Tls(#[source] rustls::Error),
}

/// Reaches kubelets.
pub struct KubeletProxy {
    connector: TlsConnector,
    certificate: Arc<Renewed>,
}

fn container(pod: &Object, asked: Option<&str>) -> Result<String, Status> {
    let name = pod.name().unwrap_or_default();
    let names = |field: &str| -> Vec<&str> {
        let list = pod.get(&["spec", field]).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|container| container.get("name")?.as_str()).collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    if let Some(asked) = asked.filter(|asked| !asked.is_empty()) {
        let ephemeral = names("ephemeralContainers");
        if [&main, &init, &ephemeral].into_iter().any(|names| names.contains(&asked)) {
            return Ok(asked.to_owned());
        }
        return Err(Status::bad_request(format!("container {asked} is not valid for pod {name}")));
    }
    if let [one] = main.as_slice() {
        return Ok((*one).to_owned());
    }
    let mut text = format!("a container name must be specified for pod {name}");
    if !main.is_empty() {
        text += &format!(", choose one of: [{}]", main.join(" "));
    }
    if !init.is_empty() {
        text += &format!(" or one of the init containers: [{}]", init.join(" "));
    }
    Err(Status::bad_request(text))
}

/// `ports` of all parameters as the kubelet's one `port`.
fn port_query(query: Option<&str>) -> String {
    let parameters = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let ports = parameters.filter(|(key, _)| key == "ports").map(|(_, value)| value.into_owned());
    let ports: Vec<String> = ports.collect();
    if ports.is_empty() {
        return String::new();
    }
    form_urlencoded::Serializer::new(String::new()).append_pair("port", &ports.join(",")).finish()
}

/// The streams and the command, whose parts repeat and whose order counts. Outputs are on unless they are turned off.
fn stream_query(query: Option<&str>) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    let (mut stdin, mut stdout, mut stderr, mut tty) = (false, true, true, false);
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let is_on = is_on(value.as_ref());
        match key.as_ref() {
            "stdin" => stdin = is_on,
            "stdout" => stdout = is_on,
            "stderr" => stderr = is_on,
            "tty" => tty = is_on,
            "command" => {
                out.append_pair("command", &value);
            }
            _ => {}
        }
    }
    // A terminal has one output.
    let streams = [("input", stdin), ("output", stdout), ("error", stderr && !tty), ("tty", tty)];
    for (name, _) in streams.into_iter().filter(|(_, is_on)| *is_on) {
        out.append_pair(name, "1");
    }
    out.finish()
}

/// The kubelet's path and query for a pod's subresource.
fn pod_path(info: &RequestInfo, pod: &Object, query: Option<&str>) -> Result<String, Status> {
    let namespace = pod.namespace().unwrap_or_default();
    let name = pod.name().unwrap_or_default();
    let container = || container(pod, info.parameter("container"));
    let (path, query) = match info.subresource.as_str() {
        "log" => (format!("/containerLogs/{namespace}/{name}/{}", container()?), log_options::query(info)?),
        "exec" => (format!("/exec/{namespace}/{name}/{}", container()?), stream_query(query)),
        "attach" => (format!("/attach/{namespace}/{name}/{}", container()?), stream_query(query)),
        "portforward" => (format!("/portForward/{namespace}/{name}"), port_query(query)),
        _ => return Err(Status::path_not_found()),
    };
    Ok(if query.is_empty() { path } else { format!("{path}?{query}") })
}

/// A kubelet's refusal to give a log, which is plain text, as a status.
async fn refusal(response: Response, pod: &str) -> Status {
    let code = response.status();
    let text = match axum::body::to_bytes(response.into_body(), REFUSAL).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(error) => format!("the kubelet's answer {code} cannot be read: {error}"),
    };
    match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => {
            let text = format!("the server could not find the requested resource ( pods {pod}): {text}");
            Status::new(404, "NotFound", text)
        }
        _ => Status::internal(text),
    }
}

fn read(registry: &Registry, resource: &str, namespace: Option<&str>, name: &str) -> Result<Object, Status> {
    let resource = GroupResource::new("", resource);
    let key = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
    let found = registry.resource(&resource).get(&key);
    cache::decode(&found.ok_or_else(|| Status::not_found(&resource, name))?.bytes)
}

/// Where a node's kubelet listens.
pub(crate) fn endpoint(node: &Object) -> Option<(String, u16)> {
    let addresses = node.get(&["status", "addresses"]).and_then(Value::as_array)?;
    let of = |kind: &str| addresses.iter().find(|it| it["type"] == kind)?["address"].as_str();
    let address = of("InternalIP").or_else(|| of("Hostname"))?;
    let port = node.get(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).and_then(Value::as_u64);
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0).unwrap_or(PORT);
    Some((address.to_owned(), port))
}

fn unreachable(node: &str, error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("error dialing the kubelet of node {node}: {error}"))
}

impl KubeletProxy {
    /// A proxy that shows a certificate of the cluster's authority, and trusts kubelets with one.
    pub fn new(pki: &Arc<Pki>) -> Result<Self, ProxyError> {
        // The name is what kubelets know. It has no rights of its own: a Node that gives another server's address, this
        // one's even, gets nothing done with it.
        let certificate = Renewed::client(Arc::clone(pki), "kube-apiserver-kubelet-client")?;
        let mut roots = rustls::RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(pki.authority().as_bytes());
        roots.add(authority.map_err(|_| ProxyError::Unusable)?).map_err(ProxyError::Tls)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ProxyError::Tls)?
            .with_root_certificates(roots)
            .with_client_cert_resolver(certificate.clone());
        Ok(KubeletProxy { connector: TlsConnector::from(Arc::new(tls)), certificate })
    }

    /// The certificate by which kubelets know this server; somebody has to keep it.
    pub fn certificate(&self) -> &Arc<Renewed> {
        &self.certificate
    }

    /// Serves `pods/{log,exec,attach,portforward}`.
    pub async fn serve(
        &self,
        registry: &Registry,
        info: &RequestInfo,
        request: Request<Body>,
    ) -> Result<Response, Status> {
        let name = info.name.as_deref().unwrap_or_default();
        let query = request.uri().query();
        let pod = read(registry, "pods", info.namespace.as_deref(), name)?;
        let path = pod_path(info, &pod, query)?;
        let node = match pod.get_str(&["spec", "nodeName"]).filter(|node| !node.is_empty()) {
            Some(node) => node.to_owned(),
            // Nobody has written a log yet.
            None if info.subresource == "log" => {
                let mut nothing = Response::new(Body::empty());
                *nothing.status_mut() = StatusCode::NO_CONTENT;
                return Ok(nothing);
            }
            None => return Err(Status::bad_request(format!("pod {name} does not have a host assigned"))),
        };
        let found = read(registry, "nodes", None, &node)?;
        let (address, port) = endpoint(&found).ok_or_else(|| unreachable(&node, "it has no address"))?;
        let path: Uri = path.parse().map_err(|error: InvalidUri| Status::bad_request(error.to_string()))?;
        let response = self.forward(&node, &address, port, path, Outward::new(request)).await?;
        if info.subresource == "log" && !response.status().is_success() {
            return Err(refusal(response, name).await);
        }
        Ok(response)
    }

    /// Passes a request on to a node's kubelet, as this server's own.
    pub(crate) async fn forward(
        &self,
        node: &str,
        address: &str,
        port: u16,
        path: Uri,
        mut outward: Outward,
    ) -> Result<Response, Status> {
        let server = ServerName::try_from(address.to_owned()).map_err(|error| unreachable(node, error))?;
        let connect = async {
            let stream = TcpStream::connect((address, port)).await?;
            stream.set_nodelay(true)?;
            self.connector.connect(server, stream).await
        };
        let stream =
            tokio::time::timeout(PATIENCE, connect).await.map_err(|error| unreachable(node, error))?;
        let stream = stream.map_err(|error| unreachable(node, error))?;
        for name in [header::COOKIE, header::ACCEPT_ENCODING] {
            outward.headers.remove(name);
        }
        if let Ok(host) = HeaderValue::from_str(&format!("{address}:{port}")) {
            outward.headers.insert(header::HOST, host);
        }
        outward.send(stream, path).await.map_err(|error| unreachable(node, error))
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;

    fn path(of: &str, query: &str) -> Result<String, Status> {
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let full = format!("/api/v1/namespaces/n/pods/p/{of}");
        let info = RequestInfo::parse(&Method::GET, &full, Some(query));
        pod_path(&info, &Object::from_value(pod).unwrap(), Some(query))
    }

    #[test]
    fn the_command_keeps_its_order_and_streams_get_the_kubelets_names() {
        let found =
            path("exec", "container=b&command=ls&command=-l&stdin=true&stdout=true&tty=false").unwrap();
        assert_eq!(found, "/exec/n/p/b?command=ls&command=-l&input=1&output=1&error=1");
        let found = path("attach", "container=a&tty=true&stdin=1&stdout=false").unwrap();
        assert_eq!(found, "/attach/n/p/a?input=1&tty=1");
    }

    #[test]
    fn ports_come_to_the_kubelet_in_one_parameter() {
        assert_eq!(path("portforward", "ports=80&ports=81").unwrap(), "/portForward/n/p?port=80%2C81");
        assert_eq!(path("portforward", "").unwrap(), "/portForward/n/p");
    }

    #[test]
    fn a_log_is_asked_for_in_the_same_words() {
        let found = path("log", "container=a&follow=true&tailLines=5&pretty=1").unwrap();
        assert_eq!(found, "/containerLogs/n/p/a?follow=true&tailLines=5");
    }

    #[tokio::test]
    async fn a_kubelets_refusal_becomes_a_status() {
        let answer = |code: u16, text: &'static str| {
            http::Response::builder().status(code).body(Body::from(text)).unwrap()
        };
        let waiting = "container \"c\" in pod \"p\" is waiting to start: ContainerCreating";
        let status = refusal(answer(400, waiting), "p").await;
        assert_eq!(
            (status.code, status.reason.as_str(), status.message.as_str()),
            (400, "BadRequest", waiting)
        );
        assert_eq!(refusal(answer(500, "x"), "p").await.message, "Internal error occurred: x");
        assert_eq!(refusal(answer(404, "x"), "p").await.code, 404);
    }

    #[test]
    fn a_container_must_be_named_where_there_are_several() {
        let error = path("log", "").unwrap_err();
        assert_eq!(error.message, "a container name must be specified for pod p, choose one of: [a b]");
        assert_eq!(path("log", "container=c").unwrap_err().message, "container c is not valid for pod p");
    }
}
