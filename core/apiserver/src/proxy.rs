//! The way to pods, Services and nodes: `pods/NAME/proxy`, `services/NAME/proxy`, `nodes/NAME/proxy`.
//!
//! - [`location`]: which server a path means (pure); [`rewrite`]: links in what it answers (pure)
//! - [`forward`]: requests and upgraded connections, passed on
//!
//! **Invariant: what is behind the proxy never gets its caller's credentials**, and the proxy goes to no address of this
//! machine itself or of its link, but to the kubelet of a node.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use keelson_api::{GroupResource, Object, Status};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::cache;
use crate::kubelet_proxy::{KubeletProxy, endpoint};
use crate::registry::Registry;
use crate::request_info::RequestInfo;

pub(crate) mod forward;
pub(crate) mod location;
pub(crate) mod rewrite;

use forward::Outward;
use location::Named;

/// How long a server may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(30);
const SERVICE_OF_SLICE: &str = "kubernetes.io/service-name";
const FORWARDED_URI: &str = "x-forwarded-uri";

/// Where a request goes.
enum Place {
    /// To a server in the cluster's network.
    Server { https: bool, address: SocketAddr },
    /// To a node's kubelet.
    Kubelet { node: String, address: String, port: u16 },
}

/// Serves the `proxy` subresources.
pub struct Proxy {
    /// Servers of pods and Services have certificates of any kind, or for other names.
    any_server: TlsConnector,
}

fn unreachable(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("error trying to reach service: {error}"))
}

fn read(registry: &Registry, resource: &str, key: &str, name: &str) -> Result<Object, Status> {
    let resource = GroupResource::new("", resource);
    let found = registry.resource(&resource).get(key);
    cache::decode(&found.ok_or_else(|| Status::not_found(&resource, name))?.bytes)
}

/// A pod's or Service's server.
fn place_in(
    registry: &Registry,
    namespace: &str,
    resource: &str,
    asked: &Named,
) -> Result<SocketAddr, Status> {
    let key = format!("{namespace}/{}", asked.name);
    if resource == "pods" {
        let pod = read(registry, "pods", &key, &asked.name)?;
        return location::pod(&pod, asked).map(SocketAddr::from);
    }
    let service = read(registry, "services", &key, &asked.name)?;
    let port = location::service_port(&service, asked)?;
    let slices = registry.resource(&GroupResource::new("discovery.k8s.io", "endpointslices")).list();
    let mut all = Vec::new();
    for slice in slices.objects.values().filter(|slice| slice.namespace.as_deref() == Some(namespace)) {
        let slice = cache::decode(&slice.bytes)?;
        if slice.get_str(&["metadata", "labels", SERVICE_OF_SLICE]) == Some(&asked.name) {
            let endpoints = location::endpoints(&slice, &port).into_iter();
            // Whoever may write slices must not have this server reach whatever they like.
            let real = endpoints.filter(|(pod, address, _)| has_address(registry, namespace, pod, *address));
            all.extend(real.map(|(_, address, port)| (address, port)));
        }
    }
    if all.is_empty() {
        return Err(Status::unavailable(format!("no endpoints available for service {:?}", asked.name)));
    }
    Ok(all[rand::random_range(0..all.len())].into())
}

/// Whether a pod has an address.
fn has_address(registry: &Registry, namespace: &str, pod: &str, address: IpAddr) -> bool {
    let Ok(pod) = read(registry, "pods", &format!("{namespace}/{pod}"), pod) else { return false };
    let all = pod.get(&["status", "podIPs"]).and_then(Value::as_array).into_iter().flatten();
    let mut all = all.filter_map(|it| it["ip"].as_str());
    all.any(|ip| ip.parse() == Ok(address))
}

/// A node's kubelet, or a server on another port of the node.
async fn place_on(registry: &Registry, asked: &Named) -> Result<Place, Status> {
    let node = read(registry, "nodes", &asked.name, &asked.name)?;
    let unknown = || unreachable(format!("node {:?} has no address", asked.name));
    let (address, kubelet) = endpoint(&node).ok_or_else(unknown)?;
    let port = asked.port.parse::<u16>().ok();
    if asked.port.is_empty() || port == Some(kubelet) {
        return Ok(Place::Kubelet { node: asked.name.clone(), address, port: kubelet });
    }
    let invalid = || Status::bad_request(format!("invalid node request {:?}", asked.name));
    let port = port.ok_or_else(invalid)?;
    // A name is resolved once, so that what was looked at is where the request goes.
    let found = tokio::net::lookup_host((address.as_str(), port)).await.map_err(unreachable)?;
    let found: Vec<SocketAddr> = found.collect();
    if !found.iter().all(|address| location::is_proxyable(address.ip())) {
        return Err(location::not_allowed());
    }
    let address = found.into_iter().next().ok_or_else(unknown)?;
    Ok(Place::Server { https: asked.https, address })
}

/// What the browser of a page at `/proxy` needs for its relative links.
fn with_slash(prefix: &str, query: Option<&str>) -> Response {
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let location = format!("{prefix}/{query}");
    (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, location)]).into_response()
}

impl Proxy {
    /// A proxy that believes every server's certificate.
    pub fn new() -> Result<Self, rustls::Error> {
        let tls = crate::remote::any_server()?;
        Ok(Proxy { any_server: TlsConnector::from(Arc::new(tls)) })
    }

    /// Serves a request for a `proxy` subresource.
    pub async fn serve(
        &self,
        registry: &Registry,
        kubelets: &KubeletProxy,
        info: &RequestInfo,
        request: Request<Body>,
    ) -> Result<Response, Status> {
        let segments = if info.namespace.is_some() { 7 } else { 5 };
        let whole = request.uri().path().to_owned();
        let (prefix, rest) = location::split(&whole, segments);
        // What was authorized and admitted was read from the decoded path: it must be the same one.
        if !location::is_plain(prefix, segments) {
            return Err(Status::bad_request(format!("invalid proxy path {prefix:?}")));
        }
        let query = request.uri().query().map(str::to_owned);
        let kind = info.resource.trim_end_matches('s');
        let segment = info.name.as_deref();
        let segment = segment.ok_or_else(|| Status::bad_request(format!("invalid {kind} request")))?;
        let asked = Named::parse(kind, segment)?;
        let place = match (info.resource.as_str(), info.namespace.as_deref()) {
            ("nodes", _) => place_on(registry, &asked).await?,
            (resource, namespace) => {
                let address = place_in(registry, namespace.unwrap_or_default(), resource, &asked)?;
                Place::Server { https: asked.https, address }
            }
        };
        let mut outward = Outward::new(request);
        let reads = matches!(outward.method, Method::GET | Method::HEAD);
        if rest.is_empty() && reads && !outward.is_upgrade() {
            return Ok(with_slash(prefix, query.as_deref()));
        }
        let rest = if rest.is_empty() { "/" } else { rest };
        let text = query.map_or_else(|| rest.to_owned(), |query| format!("{rest}?{query}"));
        let path: Uri =
            text.parse().map_err(|error: http::uri::InvalidUri| Status::bad_request(error.to_string()))?;
        if let Ok(value) = HeaderValue::from_str(&format!("{prefix}{rest}")) {
            outward.headers.insert(FORWARDED_URI, value);
        }
        let request_host = outward.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let mut links = rewrite::Links {
            prefix: prefix.to_owned(),
            server: String::new(),
            request_host: request_host.unwrap_or_default().to_owned(),
        };
        let response = match place {
            Place::Kubelet { node, address, port } => {
                links.server = format!("{address}:{port}");
                kubelets.forward(&node, &address, port, path, outward).await?
            }
            Place::Server { https, address } => {
                links.server = address.to_string();
                self.send(https, address, path, outward).await?
            }
        };
        Ok(rewrite::response(response, links))
    }

    async fn send(
        &self,
        https: bool,
        address: SocketAddr,
        path: Uri,
        outward: Outward,
    ) -> Result<Response, Status> {
        let connect = tokio::time::timeout(PATIENCE, TcpStream::connect(address));
        let stream =
            connect.await.map_err(unreachable)?.map_err(|error| unreachable(dial(address, &error)))?;
        stream.set_nodelay(true).map_err(unreachable)?;
        if !https {
            return outward.send(stream, path).await.map_err(|error| unreachable(chain(&error)));
        }
        let name = ServerName::IpAddress(IpAddr::into(address.ip()));
        let shake = tokio::time::timeout(PATIENCE, self.any_server.connect(name, stream));
        let stream = shake.await.map_err(unreachable)?.map_err(unreachable)?;
        outward.send(stream, path).await.map_err(|error| unreachable(chain(&error)))
    }
}

fn dial(address: SocketAddr, error: &std::io::Error) -> String {
    let reason = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: {reason}")
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
