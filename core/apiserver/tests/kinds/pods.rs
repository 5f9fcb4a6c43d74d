//! Pods: their deletion and their eviction.

use serde_json::{Value, json};

use crate::harness::Server;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {
        "containers": [{"name": "c", "image": "example/web:1"}],
    }})
}

async fn running(server: &Server, name: &str) -> Value {
    server.post(PODS, pod(name)).await.ok();
    let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n"}});
    server.post(&format!("{PODS}/{name}/binding"), binding).await.ok();
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    server.merge(&format!("{PODS}/{name}/status"), status).await.ok()
}

async fn evict(server: &Server, name: &str) -> crate::harness::Answer {
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}});
    server.post(&format!("{PODS}/{name}/eviction"), body).await
}

async fn budget(server: &Server, name: &str, status: Value) {
    let path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let body = json!({"metadata": {"name": name}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    server.post(path, body).await.ok();
    server.merge(&format!("{path}/{name}/status"), json!({"status": status})).await.ok();
}

#[tokio::test]
async fn a_budget_lets_as_many_evictions_through_as_it_allows() {
    let server = Server::start().await;
    running(&server, "a").await;
    running(&server, "b").await;
    let status = json!({"observedGeneration": 1, "disruptionsAllowed": 1, "desiredHealthy": 1, "currentHealthy": 2, "expectedPods": 2});
    budget(&server, "web", status).await;
    assert_eq!(evict(&server, "a").await.ok()["status"], "Success");
    let ending = server.get(&format!("{PODS}/a")).await.ok();
    assert!(ending["metadata"]["deletionTimestamp"].is_string(), "{ending}");
    let refused = evict(&server, "b").await;
    assert_eq!(refused.1["details"]["causes"][0]["reason"], "DisruptionBudget");
    assert_eq!(refused.fails(429), "Cannot evict pod as it would violate the pod's disruption budget.");
    let left = server.get("/apis/policy/v1/namespaces/default/poddisruptionbudgets/web").await.ok();
    assert_eq!(left["status"]["disruptionsAllowed"], 0);
    assert!(left["status"]["disruptedPods"]["a"].is_string());
    budget(&server, "other", json!({})).await;
    let several = evict(&server, "b").await.fails(500);
    assert!(several.starts_with("This pod has more than one PodDisruptionBudget"), "{several}");
}

#[tokio::test]
async fn a_pod_that_no_budget_guards_is_evicted() {
    let server = Server::start().await;
    server.post(PODS, pod("waiting")).await.ok();
    evict(&server, "waiting").await.ok();
    server.get(&format!("{PODS}/waiting")).await.fails(404);
    assert_eq!(evict(&server, "none").await.0, 404);
}

#[tokio::test]
async fn a_running_pod_waits_for_its_kubelet_and_its_deletion_can_be_shortened() {
    let server = Server::start().await;
    let uid = running(&server, "a").await["metadata"]["uid"].clone();
    let path = format!("{PODS}/a");
    let ending = server.delete(&path, json!({})).await.ok();
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = server.delete(&path, json!({"gracePeriodSeconds": 5})).await.ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    assert!(
        shorter["metadata"]["deletionTimestamp"].as_str() < ending["metadata"]["deletionTimestamp"].as_str()
    );
    let other = server.delete(&path, json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "x"}})).await;
    assert!(other.fails(409).contains("the UID in the precondition (x) does not match"));
    server.delete(&path, json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})).await.ok();
    server.get(&path).await.fails(404);
}

#[tokio::test]
async fn a_deletion_that_contradicts_itself_is_refused() {
    let server = Server::start().await;
    server.post(PODS, pod("a")).await.ok();
    let both = json!({"propagationPolicy": "Never", "orphanDependents": true});
    let message = server.delete(&format!("{PODS}/a"), both).await.fails(422);
    assert!(message.starts_with("DeleteOptions.meta.k8s.io"), "{message}");
    server.delete(&format!("{PODS}/a"), json!({"dryRun": ["All"]})).await.ok();
    server.get(&format!("{PODS}/a")).await.ok();
}

#[tokio::test]
async fn a_binding_names_a_node_and_a_pod_is_bound_once() {
    let server = Server::start().await;
    server.post(PODS, pod("a")).await.ok();
    let path = format!("{PODS}/a/binding");
    let binding = |target: Value| json!({"metadata": {"name": "a"}, "target": target});
    let message = server.post(&path, binding(json!({"kind": "Node"}))).await.fails(422);
    assert_eq!(message, "Binding \"a\" is invalid: target.name: Required value");
    let message = server.post(&path, binding(json!({"kind": "Pod", "name": "n"}))).await.fails(422);
    assert!(
        message.contains("target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\""),
        "{message}"
    );
    let other = json!({"metadata": {"name": "b"}, "target": {"name": "n"}});
    assert_eq!(
        server.post(&path, other).await.fails(400),
        "name in URL does not match name in Binding object"
    );
    let odd = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
    server.post(&path, odd).await.fails(400);
    let mut stale = binding(json!({"name": "n"}));
    stale["metadata"]["uid"] = "other".into();
    let message = server.post(&path, stale).await.fails(409);
    assert!(message.starts_with("Operation cannot be fulfilled on pods/binding \"a\": Precondition failed: UID in precondition: other"), "{message}");
    server.post(&path, binding(json!({"name": "n"}))).await.ok();
    let message = server.post(&path, binding(json!({"name": "m"}))).await.fails(409);
    assert_eq!(
        message,
        "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n\""
    );
    let mut gated = pod("g");
    gated["spec"]["schedulingGates"] = json!([{"name": "example.com/wait"}]);
    server.post(PODS, gated).await.ok();
    let bind = json!({"metadata": {"name": "g"}, "target": {"kind": "Node", "name": "n"}});
    let bindings = "/api/v1/namespaces/default/bindings";
    let message = server.post(bindings, bind).await.fails(409);
    assert_eq!(
        message,
        "Operation cannot be fulfilled on pods/binding \"g\": pod g has non-empty .spec.schedulingGates"
    );
    server.post(PODS, pod("c")).await.ok();
    let bind = json!({"metadata": {"name": "c"}, "target": {"kind": "Node", "name": "n"}});
    assert_eq!(server.post(bindings, bind).await.ok()["status"], "Success");
    assert_eq!(server.get(&format!("{PODS}/c")).await.ok()["spec"]["nodeName"], "n");
}
