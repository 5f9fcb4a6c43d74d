//! What admission fills in and refuses.

use serde_json::{Value, json};

use crate::harness::Server;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str, resources: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x", "resources": resources}]}})
}

async fn quota(server: &Server, hard: Value) {
    let path = "/api/v1/namespaces/default/resourcequotas";
    server.post(path, json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await.ok();
    let used: serde_json::Map<String, Value> =
        hard.as_object().unwrap().keys().map(|name| (name.clone(), "0".into())).collect();
    server.merge(&format!("{path}/q/status"), json!({"status": {"hard": hard, "used": used}})).await.ok();
}

#[tokio::test]
async fn a_quota_refuses_what_is_too_much_and_what_does_not_say_how_much_it_is() {
    let server = Server::start().await;
    quota(&server, json!({"requests.cpu": "1", "count/configmaps": "2"})).await;
    let message = server.post(PODS, pod("a", json!({}))).await.fails(403);
    assert_eq!(message, r#"pods "a" is forbidden: failed quota: q: must specify requests.cpu for: c"#);
    server.post(PODS, pod("a", json!({"requests": {"cpu": "600m"}}))).await.ok();
    let message = server.post(PODS, pod("b", json!({"requests": {"cpu": "500m"}}))).await.fails(403);
    assert_eq!(
        message,
        r#"pods "b" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1"#
    );
    let maps = "/api/v1/namespaces/default/configmaps";
    let post = |name: String| server.post(maps, json!({"metadata": {"name": name}}));
    let answers = futures::future::join_all((0..8).map(|number| post(format!("m{number}")))).await;
    assert_eq!(answers.iter().filter(|answer| answer.0 == 201).count(), 2);
    let quota = server.get("/api/v1/namespaces/default/resourcequotas/q").await.ok();
    assert_eq!(quota["status"]["used"], json!({"requests.cpu": "600m", "count/configmaps": "2"}));
}

#[tokio::test]
async fn a_limit_range_fills_in_and_refuses() {
    let server = Server::start().await;
    let limits = json!([{"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}}]);
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": limits}});
    server.post("/api/v1/namespaces/default/limitranges", range).await.ok();
    let made = server.post(PODS, pod("a", json!({}))).await.ok();
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(*resources, json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}}));
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let message = server.post(PODS, pod("b", json!({"limits": {"cpu": "2"}}))).await.fails(403);
    assert!(message.ends_with("maximum cpu usage per Container is 1, but limit is 2"), "{message}");
}

#[tokio::test]
async fn a_namespace_keeps_its_pods_to_a_standard() {
    let server = Server::start().await;
    let label = |level: &str| json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
    server.merge("/api/v1/namespaces/default", label("baseline")).await.ok();
    let mut wrong = pod("a", json!({}));
    wrong["spec"]["hostNetwork"] = true.into();
    let message = server.post(PODS, wrong).await.fails(403);
    assert_eq!(
        message,
        r#"pods "a" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)"#
    );
    server.post(PODS, pod("a", json!({}))).await.ok();
    let message = server.merge("/api/v1/namespaces/default", label("none")).await.fails(422);
    assert!(message.contains("must be one of privileged, baseline, restricted"), "{message}");
}

#[tokio::test]
async fn a_claim_is_protected_and_gets_the_default_class() {
    let server = Server::start().await;
    let annotations = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    let class =
        json!({"metadata": {"name": "fast", "annotations": annotations}, "provisioner": "example.com/p"});
    server.post("/apis/storage.k8s.io/v1/storageclasses", class).await.ok();
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let path = "/api/v1/namespaces/default/persistentvolumeclaims";
    let made = server.post(path, json!({"metadata": {"name": "c"}, "spec": spec})).await.ok();
    assert_eq!(made["spec"]["storageClassName"], "fast");
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let larger = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let message = server.merge(&format!("{path}/c"), larger).await.0;
    assert!(matches!(message, 403 | 422));
}

#[tokio::test]
async fn a_bound_pod_has_its_nodes_topology() {
    let server = Server::start().await;
    let labels = json!({"topology.kubernetes.io/zone": "z", "other": "x"});
    let node = server.post("/api/v1/nodes", json!({"metadata": {"name": "n", "labels": labels}})).await.ok();
    assert_eq!(node["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    server.post(PODS, pod("a", json!({}))).await.ok();
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    server.post(&format!("{PODS}/a/binding"), binding).await.ok();
    let bound = server.get(&format!("{PODS}/a")).await.ok();
    assert_eq!(bound["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "z"}));
}
