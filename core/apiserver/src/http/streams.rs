//! Subresources that lead to a connection: logs and streams of pods, and proxies. What they carry is not
//! decoded here.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::{Method, Request};
use keelson_api::{ResourceInfo, Status};

use super::{ApiState, authorize, connect, method_not_allowed};
use crate::identity::Identity;
use crate::proxy::forward;
use crate::request_info::RequestInfo;

/// Whether a request is for such a subresource.
pub(super) fn is_connect(info: &RequestInfo) -> bool {
    matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// What a request must be allowed beside what its method says. A WebSocket opens with GET; what it does is to create a
/// stream, be it a pod's own or by way of its node's kubelet: reading a node is not running commands on it.
fn also(info: &RequestInfo, is_upgrade: bool) -> Option<RequestInfo> {
    let opens = match (info.resource.as_str(), info.subresource.as_str()) {
        (_, "exec" | "attach" | "portforward") => true,
        ("nodes", "proxy") => is_upgrade,
        _ => false,
    };
    (opens && info.verb != "create").then(|| RequestInfo { verb: "create".to_owned(), ..info.clone() })
}

pub(super) async fn serve(
    state: &ApiState,
    identity: &Identity,
    info: &RequestInfo,
    resource: &Arc<ResourceInfo>,
    request: Request<Body>,
) -> Result<Response, Status> {
    // The older way to ask for a watch leads to no subresource.
    if info.verb == "watch" {
        return Err(Status::path_not_found());
    }
    let method = request.method();
    let is_served = match info.subresource.as_str() {
        "log" => method == Method::GET,
        "exec" | "attach" | "portforward" => method == Method::GET || method == Method::POST,
        _ => [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::HEAD,
            Method::OPTIONS,
        ]
        .contains(method),
    };
    if !is_served {
        return Err(method_not_allowed(resource, info));
    }
    let is_upgrade = forward::upgrade(request.headers()).is_some();
    if let Some(more) = also(info, is_upgrade) {
        authorize(state, identity, &more).await?;
    }
    let remarks = request.extensions().get().cloned().unwrap_or_default();
    let query = request.uri().query().unwrap_or_default().to_owned();
    connect::admit(state, identity, info, resource, &query, remarks).await?;
    if info.subresource == "proxy" {
        return state.proxy.serve(&state.registry, &state.kubelets, info, request).await;
    }
    state.kubelets.serve(&state.registry, info, request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(path: &str, method: Method, is_upgrade: bool) -> Option<String> {
        also(&RequestInfo::parse(&method, path, None), is_upgrade).map(|info| info.verb)
    }

    #[test]
    fn to_open_a_stream_is_to_create() {
        let create = Some("create".to_owned());
        for subresource in ["exec", "attach", "portforward"] {
            let path = format!("/api/v1/namespaces/n/pods/p/{subresource}");
            assert_eq!(needs(&path, Method::GET, true), create);
            assert_eq!(needs(&path, Method::POST, true), None);
        }
        let node = "/api/v1/nodes/n/proxy/exec/n/p/c";
        assert_eq!(needs(node, Method::GET, true), create);
        assert_eq!(needs(node, Method::GET, false), None);
        assert_eq!(needs("/api/v1/namespaces/n/pods/p/proxy/chat", Method::GET, true), None);
        assert_eq!(needs("/api/v1/namespaces/n/pods/p/log", Method::GET, false), None);
    }
}
