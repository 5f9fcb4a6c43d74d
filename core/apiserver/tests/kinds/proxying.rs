//! The way to pods, Services and nodes, as far as it is decided before anything is connected.

use http::Method;
use keelson_apiserver::Identity;
use serde_json::{Value, json};

use crate::harness::Server;

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";

async fn pod(server: &Server, name: &str, address: &str) {
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    server.post(PODS, json!({"metadata": {"name": name}, "spec": spec})).await.ok();
    server.merge(&format!("{PODS}/{name}/status"), json!({"status": {"podIP": address}})).await.ok();
}

#[tokio::test]
async fn names_that_mean_nothing_and_addresses_of_the_machine_itself_are_refused() {
    let server = Server::start().await;
    pod(&server, "local", "127.0.0.1").await;
    pod(&server, "link", "169.254.169.254").await;
    for name in ["local", "local:80", "link"] {
        let text = server.get(&format!("{PODS}/{name}/proxy/")).await.fails(400);
        assert_eq!(text, "address not allowed");
    }
    let text = server.get(&format!("{PODS}/a:b:c:d/proxy/")).await.fails(400);
    assert_eq!(text, "invalid pod request \"a:b:c:d\"");
    let text = server.get(&format!("{SERVICES}/ftp:s:80/proxy/")).await.fails(400);
    assert_eq!(text, "invalid service request \"ftp:s:80\"");
    server.get(&format!("{PODS}/absent/proxy/")).await.fails(404);
    server.get("/api/v1/nodes/absent/proxy/").await.fails(404);
}

#[tokio::test]
async fn a_service_without_endpoints_or_that_port_is_unavailable() {
    let server = Server::start().await;
    let ports = json!([{"name": "http", "port": 80}]);
    server.post(SERVICES, json!({"metadata": {"name": "s"}, "spec": {"ports": ports}})).await.ok();
    let text = server.get(&format!("{SERVICES}/s:80/proxy/")).await.fails(503);
    assert_eq!(text, "no endpoints available for service \"s\"");
    let text = server.get(&format!("{SERVICES}/s:81/proxy/")).await.fails(503);
    assert_eq!(text, "no service port 81 found for service \"s\"");
}

#[tokio::test]
async fn verbs_of_a_proxy_are_those_of_the_methods() {
    let server = Server::start().await;
    let rule = json!({"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"]});
    let rules = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    server.post(&format!("{rules}/roles"), json!({"metadata": {"name": "r"}, "rules": [rule]})).await.ok();
    let binding = json!({"metadata": {"name": "r"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role",
        "name": "r"}, "subjects": [{"kind": "User", "name": "ann"}]});
    server.post(&format!("{rules}/rolebindings"), binding).await.ok();
    let ann = || Identity::user("ann", &[]);
    let path = format!("{PODS}/absent/proxy/x?watch=true");
    server.act(ann(), Method::GET, &path, Value::Null).await.fails(404);
    server.act(ann(), Method::HEAD, &path, Value::Null).await.fails(404);
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
        server.act(ann(), method, &path, Value::Null).await.fails(403);
    }
    server.get(&format!("{PODS}/absent/exec?command=x")).await.fails(404);
    server.delete(&format!("{PODS}/absent/exec?command=x"), json!({})).await.fails(405);
    server.post(&format!("{PODS}/absent/log"), json!({})).await.fails(405);
}
