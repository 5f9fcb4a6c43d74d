//! What single kinds ask of their writers, and tell of themselves.

use http::{Method, Request};
use serde_json::json;

use crate::harness::Server;

const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";

#[tokio::test]
async fn a_binding_keeps_its_role() {
    let server = Server::start().await;
    let mut binding = json!({"metadata": {"name": "a"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "ann"}]});
    server.post(BINDINGS, binding.clone()).await.ok();
    binding["roleRef"]["name"] = "edit".into();
    let message = server.put(&format!("{BINDINGS}/a"), binding).await.fails(422);
    assert!(message.ends_with("\"name\":\"edit\"}: cannot change roleRef"), "{message}");
}

#[tokio::test]
async fn names_of_the_system_are_not_for_priority_classes() {
    let server = Server::start().await;
    let message =
        server.post(CLASSES, json!({"metadata": {"name": "system-mine"}, "value": 5})).await.fails(422);
    assert!(message.ends_with("error: system-mine is not a known system priority class"), "{message}");
    let made = server.post(CLASSES, json!({"metadata": {"name": "mine"}, "value": 5})).await.ok();
    assert_eq!(made["metadata"]["generation"], 1);
    let described = server.merge(&format!("{CLASSES}/mine"), json!({"description": "of mine"})).await.ok();
    assert_eq!(described["metadata"]["generation"], 1);
}

#[tokio::test]
async fn readers_of_endpoints_are_told_that_these_are_deprecated() {
    let server = Server::start().await;
    let request = Request::builder().method(Method::GET).uri("/api/v1/namespaces/default/endpoints");
    let request = request.body(kube::client::Body::empty()).unwrap();
    let response = server.api.administrator().send(request).await.unwrap();
    assert_eq!(
        response.headers()["warning"],
        "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""
    );
}
