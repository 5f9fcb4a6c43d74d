//! Admission webhooks through the whole server.

use serde_json::{Value, json};

use crate::harness::Server;
use crate::hook_server::{HookServer, answer, patched};
use crate::insight::metrics;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1";

fn rule(operations: &[&str], resource: &str) -> Value {
    json!({"operations": operations, "apiGroups": ["*"], "apiVersions": ["*"], "resources": [resource]})
}

fn hook(server: &HookServer, path: &str, rule: Value) -> Value {
    json!({"name": format!("{path}.example.com"), "clientConfig": server.client_config(path), "rules": [rule],
        "sideEffects": "None", "admissionReviewVersions": ["v1"]})
}

async fn configure(server: &Server, kind: &str, name: &str, hooks: Vec<Value>) {
    let plural = format!("{}s", kind.to_lowercase());
    let body = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
        "metadata": {"name": name}, "webhooks": hooks});
    server.post(&format!("{CONFIGURATIONS}/{plural}"), body).await.ok();
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

#[tokio::test]
async fn a_mutating_webhook_changes_what_is_stored_and_the_change_is_nobodys_field() {
    let hooks = HookServer::start(|_, review| {
        patched(
            review,
            json!([{"op": "add", "path": "/data/added", "value": "x"},
            {"op": "add", "path": "/nonsense", "value": 1}]),
        )
    })
    .await;
    let server = Server::start().await;
    let webhook = hook(&hooks, "add", rule(&["CREATE"], "configmaps"));
    configure(&server, "MutatingWebhookConfiguration", "m", vec![webhook]).await;
    let made = server.post(&format!("{MAPS}?fieldManager=me"), map("one")).await.ok();
    assert_eq!(made["data"], json!({"a": "b", "added": "x"}));
    assert_eq!(made["nonsense"], Value::Null);
    let fields = made["metadata"]["managedFields"][0]["fieldsV1"]["f:data"].as_object().unwrap();
    assert!(!fields.contains_key("f:added"), "{fields:?}");

    let [request] = hooks.take_requests().try_into().unwrap();
    assert_eq!(request["operation"], "CREATE");
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(request["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&request["name"], &request["namespace"]), (&"one".into(), &"default".into()));
    assert_eq!(request["userInfo"]["username"], "kubernetes-admin");
    assert_eq!(request["options"]["kind"], "CreateOptions");
    assert_eq!(request["object"]["data"], json!({"a": "b"}));
    assert_eq!((&request["oldObject"], &request["dryRun"]), (&Value::Null, &false.into()));
}

#[tokio::test]
async fn a_changed_object_gets_defaults_and_is_validated() {
    let hooks = HookServer::start(|path, review| {
        let value = match path {
            "good" => json!({"name": "extra", "image": "x"}),
            _ => json!({"name": "Not A Name", "image": "x"}),
        };
        patched(review, json!([{"op": "add", "path": "/spec/containers/-", "value": value}]))
    })
    .await;
    let server = Server::start().await;
    let mut good = hook(&hooks, "good", rule(&["CREATE"], "pods"));
    good["objectSelector"] = json!({"matchLabels": {"kind": "good"}});
    let mut bad = hook(&hooks, "bad", rule(&["CREATE"], "pods"));
    bad["objectSelector"] = json!({"matchLabels": {"kind": "bad"}});
    configure(&server, "MutatingWebhookConfiguration", "m", vec![good, bad]).await;
    let pod = |kind: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": kind, "labels": {"kind": kind}},
            "spec": {"containers": [{"name": "a", "image": "x"}]}})
    };
    let pods = "/api/v1/namespaces/default/pods";
    let made = server.post(pods, pod("good")).await.ok();
    assert_eq!(made["spec"]["containers"][1]["terminationMessagePath"], "/dev/termination-log");
    let refused = server.post(pods, pod("bad")).await.fails(422);
    assert!(refused.contains("spec.containers[1].name: Invalid value: \"Not A Name\""), "{refused}");
}

#[tokio::test]
async fn a_validating_webhook_refuses_with_its_own_words_and_warns() {
    let hooks = HookServer::start(|_, review| {
        let status = json!({"message": "not today", "code": 403, "reason": "Forbidden"});
        answer(review, json!({"allowed": false, "status": status, "warnings": ["mind the gap"]}))
    })
    .await;
    let server = Server::start().await;
    server.post(MAPS, map("old")).await.ok();
    let webhook = hook(&hooks, "deny", rule(&["CREATE", "UPDATE", "DELETE"], "configmaps"));
    configure(&server, "ValidatingWebhookConfiguration", "v", vec![webhook]).await;
    let denied = "admission webhook \"deny.example.com\" denied the request: not today";
    assert_eq!(server.post(MAPS, map("one")).await.fails(403), denied);
    let old = format!("{MAPS}/old");
    assert_eq!(server.merge(&old, json!({"data": {"c": "d"}})).await.fails(403), denied);
    assert_eq!(server.delete(&old, json!({})).await.fails(403), denied);
    let requests = hooks.take_requests();
    assert_eq!(requests[1]["operation"], "UPDATE");
    assert_eq!(requests[1]["oldObject"]["data"], json!({"a": "b"}));
    assert_eq!(requests[1]["object"]["data"], json!({"a": "b", "c": "d"}));
    assert_eq!((&requests[2]["operation"], &requests[2]["object"]), (&"DELETE".into(), &Value::Null));
    assert_eq!(requests[2]["oldObject"]["metadata"]["name"], "old");

    // What is configured can always be taken away, and then nobody is asked any more.
    let path = format!("{CONFIGURATIONS}/validatingwebhookconfigurations/v");
    server.delete(&path, json!({})).await.ok();
    server.post(MAPS, map("one")).await.ok();
    assert_eq!(hooks.take_requests().len(), 0);
}

#[tokio::test]
async fn a_webhook_that_cannot_be_asked_refuses_or_is_ignored_as_it_says() {
    let server = Server::start().await;
    let webhook = |policy: &str| {
        json!({"name": "gone.example.com", "clientConfig": {"url": "https://127.0.0.1:1/x"}, "failurePolicy": policy,
            "rules": [rule(&["CREATE"], "configmaps")], "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 3})
    };
    configure(&server, "ValidatingWebhookConfiguration", "v", vec![webhook("Fail")]).await;
    let expected = "Internal error occurred: failed calling webhook \"gone.example.com\": failed to call webhook: \
        Post \"https://127.0.0.1:1/x?timeout=3s\": dial tcp 127.0.0.1:1: connect: connection refused";
    assert_eq!(server.post(MAPS, map("one")).await.fails(500), expected);
    let path = format!("{CONFIGURATIONS}/validatingwebhookconfigurations/v");
    server
        .json_patch(&path, json!([{"op": "replace", "path": "/webhooks/0", "value": webhook("Ignore")}]))
        .await
        .ok();
    server.post(MAPS, map("one")).await.ok();

    let counted = metrics(&server).await;
    for line in [
        r#"webhook_admission_duration_seconds_count{name="gone.example.com",operation="CREATE",rejected="true",type="validating"} 1"#,
        r#"webhook_rejection_count{error_type="calling_webhook_error",name="gone.example.com",operation="CREATE",rejection_code="0",type="validating"} 1"#,
        r#"webhook_fail_open_count{name="gone.example.com",type="validating"} 1"#,
    ] {
        assert!(counted.contains(&format!("apiserver_admission_{line}\n")), "{line}\n{counted}");
    }
}

#[tokio::test]
async fn a_dry_run_asks_only_webhooks_without_side_effects_and_says_so() {
    let hooks = HookServer::start(|_, review| answer(review, json!({"allowed": true}))).await;
    let server = Server::start().await;
    let webhook = hook(&hooks, "see", rule(&["CREATE"], "configmaps"));
    configure(&server, "ValidatingWebhookConfiguration", "v", vec![webhook]).await;
    server.post(&format!("{MAPS}?dryRun=All"), map("one")).await.ok();
    let [request] = hooks.take_requests().try_into().unwrap();
    assert_eq!((&request["dryRun"], &request["options"]["dryRun"]), (&true.into(), &json!(["All"])));
}

#[tokio::test]
async fn a_webhook_of_a_namespace_sees_that_namespace_alone() {
    let hooks = HookServer::start(|_, review| answer(review, json!({"allowed": false}))).await;
    let server = Server::start().await;
    let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"strict": name}}});
    for name in ["yes", "no"] {
        server.post("/api/v1/namespaces", namespace(name)).await.ok();
    }
    let mut webhook = hook(&hooks, "deny", rule(&["CREATE"], "configmaps"));
    webhook["namespaceSelector"] = json!({"matchLabels": {"strict": "yes"}});
    configure(&server, "ValidatingWebhookConfiguration", "v", vec![webhook]).await;
    server.post("/api/v1/namespaces/no/configmaps", map("one")).await.ok();
    let refused = server.post("/api/v1/namespaces/yes/configmaps", map("one")).await.fails(400);
    assert_eq!(refused, "admission webhook \"deny.example.com\" denied the request without explanation");
}

#[tokio::test]
async fn a_webhook_is_asked_again_after_a_change_if_it_wants_to_be() {
    let hooks = HookServer::start(|path, review| {
        let data = &review["request"]["object"]["data"];
        let count = data["count"].as_str().map_or(0, |text| text.parse().unwrap());
        let value = if path == "count" { (count + 1).to_string() } else { "seen".to_owned() };
        let changes = path == "count" || data["late"].is_null();
        let field = if path == "count" { "count" } else { "late" };
        let operation = json!({"op": "add", "path": format!("/data/{field}"), "value": value});
        patched(review, if changes { json!([operation]) } else { json!([]) })
    })
    .await;
    let server = Server::start().await;
    let mut first = hook(&hooks, "count", rule(&["CREATE"], "configmaps"));
    first["reinvocationPolicy"] = "IfNeeded".into();
    configure(&server, "MutatingWebhookConfiguration", "a", vec![first]).await;
    let second = hook(&hooks, "late", rule(&["CREATE"], "configmaps"));
    configure(&server, "MutatingWebhookConfiguration", "b", vec![second]).await;
    let made = server.post(MAPS, map("one")).await.ok();
    assert_eq!(made["data"], json!({"a": "b", "count": "2", "late": "seen"}));
    assert_eq!(hooks.take_requests().len(), 3);
}

#[tokio::test]
async fn a_request_counts_through_another_version_and_is_seen_in_it() {
    let hooks = HookServer::start(|_, review| {
        patched(review, json!([{"op": "replace", "path": "/spec/maxReplicas", "value": 7}]))
    })
    .await;
    let server = Server::start().await;
    let rule = json!({"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"],
        "resources": ["horizontalpodautoscalers"]});
    configure(&server, "MutatingWebhookConfiguration", "m", vec![hook(&hooks, "old", rule)]).await;
    let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "a", "apiVersion": "apps/v1"}}});
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let made = server.post(path, scaler).await.ok();
    assert_eq!(made["spec"]["maxReplicas"], 7);
    let [request] = hooks.take_requests().try_into().unwrap();
    assert_eq!(request["object"]["apiVersion"], "autoscaling/v1");
    assert_eq!(
        (&request["kind"]["version"], &request["requestKind"]["version"]),
        (&"v1".into(), &"v2".into())
    );
    assert_eq!(request["requestResource"]["version"], "v2");
}

#[tokio::test]
async fn subresources_are_asked_about_by_their_own_name() {
    let hooks = HookServer::start(|_, review| answer(review, json!({"allowed": true}))).await;
    let server = Server::start().await;
    let all = ["deployments/scale", "deployments/status", "pods/exec"];
    let rules: Vec<Value> = all.iter().map(|it| rule(&["*"], it)).collect();
    let mut webhook = hook(&hooks, "see", rules[0].clone());
    webhook["rules"] = rules.into();
    configure(&server, "ValidatingWebhookConfiguration", "v", vec![webhook]).await;
    let labels = json!({"app": "a"});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let pod = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
        "spec": {"selector": {"matchLabels": labels}, "template": pod}});
    server.post(path, deployment).await.ok();
    assert_eq!(hooks.take_requests().len(), 0);
    server.merge(&format!("{path}/a/scale"), json!({"spec": {"replicas": 4}})).await.ok();
    server.merge(&format!("{path}/a/status"), json!({"status": {"replicas": 1}})).await.ok();
    let mut pod = pod;
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "p".into();
    server.post("/api/v1/namespaces/default/pods", pod).await.ok();
    server.get("/api/v1/namespaces/default/pods/p/exec?command=ls&stdout=true").await.fails(400);
    let requests = hooks.take_requests();
    assert_eq!(requests[0]["subResource"], "scale");
    assert_eq!(requests[0]["object"]["kind"], "Scale");
    assert_eq!(requests[0]["object"]["spec"]["replicas"], 4);
    assert_eq!(requests[0]["oldObject"]["spec"]["replicas"], 1);
    assert_eq!(
        (&requests[1]["subResource"], &requests[1]["operation"]),
        (&"status".into(), &"UPDATE".into())
    );
    assert_eq!(
        (&requests[2]["operation"], &requests[2]["kind"]["kind"]),
        (&"CONNECT".into(), &"PodExecOptions".into())
    );
    assert_eq!(requests[2]["object"]["command"], json!(["ls"]));
}
