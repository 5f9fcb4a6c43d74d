//! Default roles, and roles that are made of others.

use http::Method;
use keelson_apiserver::Identity;
use serde_json::{Value, json};

use crate::harness::Server;

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";

/// Asks until an answer is as it should be.
async fn until(server: &Server, path: &str, good: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..500 {
        let value = server.get(path).await.ok();
        if good(&value) {
            return value;
        }
        tokio::task::yield_now().await;
    }
    panic!("{path} never became what it should be: {}", server.get(path).await.1);
}

#[tokio::test]
async fn the_role_view_allows_reading_and_grows_with_what_is_labelled_for_it() {
    let server = Server::start().await;
    let binding = json!({"metadata": {"name": "ann"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "ann"}]});
    server.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await.ok();
    let ann = || Identity::user("ann", &["system:authenticated"]);
    let pods = "/api/v1/namespaces/default/pods";
    server.act(ann(), Method::GET, pods, Value::Null).await.ok();
    server.act(ann(), Method::GET, "/api/v1/namespaces/default/secrets", Value::Null).await.fails(403);
    let more = json!({"metadata": {"name": "more", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"apiGroups": ["example.com"], "resources": ["things"], "verbs": ["get"]}]});
    server.post(ROLES, more).await.ok();
    let has = |role: &Value| role["rules"].to_string().contains("example.com");
    until(&server, &format!("{ROLES}/view"), has).await;
    until(&server, &format!("{ROLES}/admin"), has).await;
    server.delete(&format!("{ROLES}/more"), json!({})).await.ok();
    until(&server, &format!("{ROLES}/admin"), |role| !has(role)).await;
}

#[tokio::test]
async fn a_default_role_gets_back_what_was_taken_from_it_when_the_server_starts() {
    let server = Server::start().await;
    let path = format!("{ROLES}/system:discovery");
    let before = server.get(&path).await.ok();
    let own = json!({"nonResourceURLs": ["/own"], "verbs": ["get"]});
    server.merge(&path, json!({"rules": [own]})).await.ok();
    let server = server.restart().await;
    let after = server.get(&path).await.ok();
    let rules = after["rules"].as_array().unwrap();
    assert!(rules.contains(&own));
    assert!(before["rules"].as_array().unwrap().iter().all(|rule| rules.contains(rule)), "{after}");
    let annotation = "rbac.authorization.kubernetes.io/autoupdate";
    server
        .merge(&path, json!({"metadata": {"annotations": {annotation: "false"}}, "rules": [own]}))
        .await
        .ok();
    let server = server.restart().await;
    assert_eq!(server.get(&path).await.ok()["rules"], json!([own]));
}
