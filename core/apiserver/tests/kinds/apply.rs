//! Server-side apply, and who manages which field.

use http::Method;
use keelson_apiserver::Identity;
use serde_json::{Value, json};

use crate::harness::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

fn deployment(replicas: Option<i64>) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": "web"}}, "template": {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "example/web:1", "ports": [{"containerPort": 80}]}]},
    }});
    if let Some(replicas) = replicas {
        spec["replicas"] = json!(replicas);
    }
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

/// `[manager, operation, subresource]` of each entry.
fn managers(object: &Value) -> Vec<[String; 3]> {
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries
        .iter()
        .map(|entry| [text(entry, "manager"), text(entry, "operation"), text(entry, "subresource")])
        .collect()
}

#[tokio::test]
async fn an_apply_creates_changes_and_takes_away() {
    let server = Server::start().await;
    let path = format!("{MAPS}/c");
    let created = server.apply(&path, "fieldManager=me", map(json!({"a": "1", "b": "1"}))).await;
    assert_eq!(created.0, 201, "{}", created.1);
    assert_eq!(managers(&created.1), [["me", "Apply", ""]]);
    let revision = created.1["metadata"]["resourceVersion"].clone();
    let same = server.apply(&path, "fieldManager=me", map(json!({"a": "1", "b": "1"}))).await;
    assert_eq!((same.0, &same.1["metadata"]["resourceVersion"]), (200, &revision));
    let dry = server.apply(&path, "fieldManager=me&dryRun=All", map(json!({"a": "2"}))).await.ok();
    assert_eq!(dry["data"], json!({"a": "2"}));
    let changed = server.apply(&path, "fieldManager=me", map(json!({"a": "2", "c": "1"}))).await.ok();
    assert_eq!(changed["data"], json!({"a": "2", "c": "1"}));
    assert_eq!(changed["metadata"]["uid"], created.1["metadata"]["uid"]);
}

#[tokio::test]
async fn who_wants_anothers_field_is_told_whose_it_is_and_may_force_it() {
    let server = Server::start().await;
    let by = "fieldManager=kubectl-client-side-apply";
    server.post(&format!("{DEPLOYMENTS}?{by}"), deployment(Some(2))).await.ok();
    let path = format!("{DEPLOYMENTS}/web");
    let refused = server.apply(&path, "fieldManager=me", deployment(Some(3))).await;
    assert_eq!(refused.1["reason"], "Conflict");
    assert_eq!(
        refused.1["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "field": ".spec.replicas",
            "message": "conflict with \"kubectl-client-side-apply\" using apps/v1"}])
    );
    assert_eq!(
        refused.fails(409),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    let forced = server.apply(&path, "fieldManager=me&force=true", deployment(Some(3))).await.ok();
    assert_eq!((&forced["spec"]["replicas"], &forced["metadata"]["generation"]), (&json!(3), &json!(2)));
    let given_up = server.apply(&path, "fieldManager=me", deployment(None)).await.ok();
    // Nobody has it any more, so that it is the default.
    assert_eq!(given_up["spec"]["replicas"], 1);
}

#[tokio::test]
async fn every_write_is_recorded_with_its_program_and_subresource() {
    let server = Server::start().await;
    let created = server.post(&format!("{DEPLOYMENTS}?fieldManager=creator"), deployment(Some(2))).await.ok();
    assert_eq!(managers(&created), [["creator", "Update", ""]]);
    let fields = &created["metadata"]["managedFields"][0]["fieldsV1"];
    // Defaults are the creator's too.
    assert_eq!(fields["f:spec"]["f:revisionHistoryLimit"], json!({}));
    let path = format!("{DEPLOYMENTS}/web");
    let status = json!({"status": {"observedGeneration": 1}});
    server.merge(&format!("{path}/status?fieldManager=controller"), status).await.ok();
    server
        .merge(&format!("{path}?fieldManager=labeler"), json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .ok();
    let scale = json!({"spec": {"replicas": 5}});
    let scaled = server.merge(&format!("{path}/scale?fieldManager=scaler"), scale).await.ok();
    assert_eq!(managers(&scaled), [["scaler", "Update", "scale"]]);
    assert_eq!(scaled["metadata"]["managedFields"][0]["apiVersion"], "autoscaling/v1");
    let mut found = managers(&server.get(&path).await.ok());
    found.sort();
    assert_eq!(
        found,
        [
            ["controller", "Update", "status"],
            ["creator", "Update", ""],
            ["labeler", "Update", ""],
            ["scaler", "Update", "scale"]
        ]
    );
}

#[tokio::test]
async fn a_status_and_a_scale_are_applied_too() {
    let server = Server::start().await;
    let path = format!("{DEPLOYMENTS}/web");
    server.apply(&path, "fieldManager=me", deployment(Some(2))).await.ok();
    let condition = json!({"type": "Available", "status": "True", "reason": "r", "message": "m"});
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 9}, "status": {"conditions": [condition]}});
    let after = server.apply(&format!("{path}/status"), "fieldManager=controller", status).await.ok();
    assert_eq!(after["spec"]["replicas"], 2);
    assert_eq!(after["status"]["conditions"][0]["type"], "Available");
    assert!(managers(&after).contains(&["controller".into(), "Apply".into(), "status".into()]));
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 4}});
    let scale_path = format!("{path}/scale");
    let refused = server.apply(&scale_path, "fieldManager=scaler", scale.clone()).await.fails(409);
    assert_eq!(refused, "Apply failed with 1 conflict: conflict with \"me\": .spec.replicas");
    let forced = server.apply(&scale_path, "fieldManager=scaler&force=true", scale).await.ok();
    assert_eq!(forced["spec"]["replicas"], 4);
    assert_eq!(managers(&forced), [["scaler", "Apply", "scale"]]);
    // Whose field it was does not take it back without force.
    server.apply(&path, "fieldManager=me", deployment(Some(2))).await.fails(409);
    server.apply(&path, "fieldManager=me", deployment(None)).await.ok();
    assert_eq!(server.get(&path).await.ok()["spec"]["replicas"], 4);
    server
        .apply(
            &format!("{DEPLOYMENTS}/none/status"),
            "fieldManager=x",
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "none"}}),
        )
        .await
        .fails(404);
}

#[tokio::test]
async fn a_malformed_apply_is_refused() {
    let server = Server::start().await;
    let path = format!("{MAPS}/c");
    let message = server.apply(&path, "", map(json!({}))).await.fails(422);
    assert_eq!(
        message,
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
    let forced =
        server.patch(&format!("{path}?force=true"), "application/merge-patch+json", "{}").await.fails(422);
    assert!(forced.ends_with("force: Forbidden: may not be specified for non-apply patch"), "{forced}");
    assert_eq!(server.patch(&path, "application/apply-patch+cbor", "").await.0, 415);
    let by = format!("{path}?fieldManager=me");
    let yaml = "application/apply-patch+yaml";
    assert!(server.patch(&by, yaml, "a: [").await.fails(400).starts_with("error decoding YAML: "));
    let kind = server
        .patch(&by, yaml, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: c}}")
        .await
        .fails(400);
    assert_eq!(kind, "invalid object type: apps/v1, Kind=Deployment");
    let twice = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: '1'}\ndata: {b: '1'}\n";
    let strict = server.patch(&format!("{by}&fieldValidation=Strict"), yaml, twice).await.fails(400);
    assert!(strict.starts_with("error strict decoding YAML: "), "{strict}");
    let unknown = server
        .apply(
            &path,
            "fieldManager=me",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "dta": {}}),
        )
        .await;
    assert_eq!(
        unknown.fails(500),
        "failed to create typed patch object (/c; /v1, Kind=ConfigMap): .dta: field not declared in schema"
    );
    let other = server
        .apply(
            &path,
            "fieldManager=me",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "d"}}),
        )
        .await;
    assert!(other.fails(400).contains("does not match the name on the URL"));
    let mut uid = map(json!({}));
    uid["metadata"]["uid"] = json!("1");
    assert!(server.apply(&path, "fieldManager=me", uid).await.fails(409).contains("uid mismatch"));
    let long = "m".repeat(129);
    let message = server.post(&format!("{MAPS}?fieldManager={long}"), map(json!({}))).await.fails(422);
    assert!(message.contains("fieldManager: Too long: may not be more than 128 bytes"), "{message}");
    server.get(&path).await.fails(404);
}

#[tokio::test]
async fn who_may_patch_but_not_create_cannot_create_by_an_apply() {
    let server = Server::start().await;
    let role = json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch", "get"]}]});
    server.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", role).await.ok();
    let binding = json!({"metadata": {"name": "r"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}]});
    server.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await.ok();
    let jane = || Identity::user("jane", &["system:authenticated"]);
    let path = format!("{MAPS}/c?fieldManager=me");
    let refused =
        server.act_as(jane(), Method::PATCH, &path, "application/apply-patch+yaml", map(json!({}))).await;
    assert!(refused.fails(403).contains("cannot create resource \"configmaps\""));
    server.post(MAPS, map(json!({"a": "1"}))).await.ok();
    server
        .act_as(jane(), Method::PATCH, &path, "application/apply-patch+yaml", map(json!({"b": "1"})))
        .await
        .ok();
}

#[tokio::test]
async fn a_client_moves_its_fields_from_one_entry_to_another_by_a_patch() {
    let server = Server::start().await;
    let created = server
        .post(&format!("{MAPS}?fieldManager=kubectl-client-side-apply"), map(json!({"a": "1"})))
        .await
        .ok();
    let mut entry = created["metadata"]["managedFields"][0].clone();
    entry["manager"] = json!("kubectl");
    entry["operation"] = json!("Apply");
    let patch = json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": [entry]},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": created["metadata"]["resourceVersion"]},
    ]);
    let path = format!("{MAPS}/c");
    let moved = server.json_patch(&path, patch.clone()).await.ok();
    assert_eq!(managers(&moved), [["kubectl", "Apply", ""]]);
    // By now the revision is another one.
    server.json_patch(&path, patch).await.fails(409);
    let after = server.apply(&path, "fieldManager=kubectl", map(json!({"b": "1"}))).await.ok();
    assert_eq!(after["data"], json!({"b": "1"}));
    let reset = server.merge(&path, json!({"metadata": {"managedFields": [{}]}})).await.ok();
    assert!(managers(&reset).is_empty());
}

#[tokio::test]
async fn a_namespace_that_is_applied_has_what_every_namespace_has() {
    let server = Server::start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    server.apply("/api/v1/namespaces/shop", "fieldManager=me", namespace).await.ok();
    server.get("/api/v1/namespaces/shop/serviceaccounts/default").await.ok();
}

#[tokio::test]
async fn an_object_of_two_versions_is_applied_in_either() {
    let server = Server::start().await;
    let v1 = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/web";
    let v2 = v1.replace("/v1/", "/v2/");
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let old = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 60, "scaleTargetRef": target}});
    let created = server.apply(v1, "fieldManager=me", old).await.ok();
    assert_eq!(created["metadata"]["managedFields"][0]["apiVersion"], "autoscaling/v1");
    let new = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"maxReplicas": 4, "scaleTargetRef": target}});
    let refused = server.apply(&v2, "fieldManager=you", new.clone()).await.fails(409);
    assert!(refused.contains("conflict with \"me\": .spec.maxReplicas"), "{refused}");
    // The same manager in the newer version gives up what it no longer names.
    let after = server.apply(&v2, "fieldManager=me", new).await.ok();
    assert_eq!(after["spec"]["maxReplicas"], 4);
    // What is left is the default.
    assert_eq!(after["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
    server.merge(&format!("{v1}?fieldManager=old"), json!({"spec": {"minReplicas": 2}})).await.ok();
    let found = server.get(&v2).await.ok();
    let entry =
        found["metadata"]["managedFields"].as_array().unwrap().iter().find(|entry| entry["manager"] == "old");
    assert_eq!(entry.unwrap()["apiVersion"], "autoscaling/v1");
}

#[tokio::test]
async fn a_component_in_the_same_process_is_known_by_its_name() {
    let server = Server::start().await;
    for (user, program) in [
        ("system:kube-scheduler", "kube-scheduler"),
        ("system:node:one", "kubelet"),
        ("system:serviceaccount:keelson-system:deployment", "deployment"),
    ] {
        let identity = Identity::user(user, &["system:masters"]);
        let mut body = map(json!({}));
        body["metadata"] = json!({"generateName": "c-", "labels": {"a": "b"}});
        let made = server.act(identity, Method::POST, MAPS, body).await.ok();
        assert_eq!(managers(&made), [[program, "Update", ""]]);
    }
}

#[tokio::test]
async fn a_custom_resource_is_applied_by_its_schema() {
    let server = Server::start().await;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    server.post(definitions, crate::custom_resources::shirts()).await.ok();
    let path = "/apis/stable.example.com/v1/namespaces/default/shirts/a";
    let shirt = |spec: Value, status: Value| json!({"apiVersion": "stable.example.com/v1", "kind": "Shirt", "metadata": {"name": "a"}, "spec": spec, "status": status});
    let spec = json!({"color": "red", "replicas": 2, "extra": {"a": 1, "b": [1]}});
    let created = server.apply(path, "fieldManager=me", shirt(spec, json!({"worn": true}))).await.ok();
    assert_eq!(created["spec"]["size"], "M");
    let expected = json!({"f:spec": {"f:color": {}, "f:replicas": {}, "f:extra": {"f:a": {}, "f:b": {}}}});
    assert_eq!(created["metadata"]["managedFields"][0]["fieldsV1"], expected);
    let unknown = shirt(json!({"color": "red", "colour": 1}), json!({}));
    let message = server.apply(path, "fieldManager=me", unknown).await.fails(500);
    assert!(message.ends_with(".spec.colour: field not declared in schema"), "{message}");
    let by_status = server
        .apply(
            &format!("{path}/status"),
            "fieldManager=you",
            shirt(json!({"color": "blue"}), json!({"worn": true})),
        )
        .await
        .ok();
    assert_eq!((&by_status["spec"]["color"], &by_status["status"]["worn"]), (&json!("red"), &json!(true)));
    assert_eq!(managers(&by_status), [["me", "Apply", ""], ["you", "Apply", "status"]]);
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "a"}, "spec": {"replicas": 5}});
    server.apply(&format!("{path}/scale"), "fieldManager=scaler", scale.clone()).await.fails(409);
    let scaled = server.apply(&format!("{path}/scale"), "fieldManager=scaler&force=true", scale).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 5);
    let less = server.apply(path, "fieldManager=me", shirt(json!({"color": "red"}), json!({}))).await.ok();
    assert_eq!(less["spec"], json!({"color": "red", "size": "M", "replicas": 5}));
}

#[tokio::test]
async fn a_pod_that_is_applied_again_stays_what_the_server_made_of_it() {
    let server = Server::start().await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "tolerations": [{"key": "a", "operator": "Exists"}], "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": 1, "memory": "1024Mi"}}, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
    }});
    let path = "/api/v1/namespaces/default/pods/p";
    let first = server.apply(path, "fieldManager=me", pod.clone()).await.ok();
    assert_eq!(first["spec"]["tolerations"].as_array().map(Vec::len), Some(3));
    assert_eq!(server.apply(path, "fieldManager=me", pod).await.ok(), first);
}

#[tokio::test]
async fn a_quantity_may_be_applied_in_any_form() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/pods/p";
    let pod = |cpu: Value, memory: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "c", "image": "x", "resources": {"limits": {"cpu": cpu, "memory": memory}}}]}})
    };
    let made = server.apply(path, "fieldManager=me", pod(json!(1), "1024Mi")).await.ok();
    assert_eq!(made["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "1", "memory": "1Gi"}));
    server.apply(path, "fieldManager=you", pod(json!("1000m"), "1Gi")).await.ok();
}
