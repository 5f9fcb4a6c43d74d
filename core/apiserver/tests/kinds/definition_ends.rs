//! How a CustomResourceDefinition ends, and what it says of itself until then.

use serde_json::{Value, json};

use crate::custom_resources::shirts;
use crate::harness::Server;
use crate::hook_server::HookServer;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SHIRTS: &str = "/apis/stable.example.com/v1/namespaces/default/shirts";
const ONE: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/shirts.stable.example.com";

fn reason(definition: &Value, kind: &str) -> Value {
    let list = definition["status"]["conditions"].as_array().unwrap();
    let found = list.iter().find(|condition| condition["type"] == kind);
    found.map_or(Value::Null, |condition| condition["reason"].clone())
}

/// Reads a path until it is as it should be.
async fn until(server: &Server, path: &str, is_so: impl Fn(u16, &Value) -> bool) {
    let looked = async {
        loop {
            let answer = server.get(path).await;
            if is_so(answer.0, &answer.1) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), looked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_object_whose_creation_has_begun_does_not_outlive_its_definition() {
    let server = Server::start().await;
    server.post(DEFINITIONS, shirts()).await.ok();
    // Admission of the object takes as long as the test wants.
    let (entered, mut has_entered) = tokio::sync::mpsc::unbounded_channel();
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let may_go = std::sync::Mutex::new(may_go);
    let hook = HookServer::start(move |_, review| {
        entered.send(()).unwrap();
        may_go.lock().unwrap().recv().unwrap();
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "response": {"uid": review["request"]["uid"], "allowed": true}})
    })
    .await;
    let hooks = json!({"metadata": {"name": "slow"}, "webhooks": [{
        "name": "slow.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 30, "clientConfig": hook.client_config("slow"),
        "rules": [{"operations": ["CREATE"], "apiGroups": ["stable.example.com"], "apiVersions": ["*"], "resources": ["shirts"]}]}]});
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    server.post(path, hooks).await.ok();
    let creation = server.post(SHIRTS, json!({"metadata": {"name": "late"}, "spec": {"color": "red"}}));
    let deletion = async {
        has_entered.recv().await.unwrap();
        server.delete(ONE, json!({})).await.ok();
        until(&server, ONE, |code, _| code == 404).await;
        go.send(()).unwrap();
    };
    let (created, ()) = tokio::join!(creation, deletion);
    created.fails(404);
    server.delete(&format!("{path}/slow"), json!({})).await.ok();
    server.post(DEFINITIONS, shirts()).await.ok();
    assert_eq!(server.get(SHIRTS).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn a_definition_that_others_hold_says_that_its_objects_are_gone() {
    let server = Server::start().await;
    let mut definition = shirts();
    definition["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.post(DEFINITIONS, definition).await.ok();
    server.post(SHIRTS, json!({"metadata": {"generateName": "a-"}, "spec": {"color": "red"}})).await.ok();
    server.delete(ONE, json!({})).await.ok();
    until(&server, ONE, |_, it| reason(it, "Terminating") == "InstanceDeletionCompleted").await;
    let message = server.post(SHIRTS, json!({"metadata": {"name": "b"}})).await.fails(405);
    assert_eq!(message, "create not allowed while custom resource definition is terminating");
    let held = server.get(ONE).await.ok();
    assert_eq!(held["metadata"]["finalizers"], json!(["example.com/hold"]));
    server.merge(ONE, json!({"metadata": {"finalizers": null}})).await.ok();
    server.get(ONE).await.fails(404);
}

#[tokio::test]
async fn a_definition_in_a_group_of_the_community_tells_of_its_approval() {
    let server = Server::start().await;
    let mut definition = shirts();
    definition["metadata"]["name"] = "shirts.wear.k8s.io".into();
    definition["spec"]["group"] = "wear.k8s.io".into();
    let message = server.post(DEFINITIONS, definition.clone()).await.fails(422);
    assert_eq!(
        message,
        "CustomResourceDefinition.apiextensions.k8s.io \"shirts.wear.k8s.io\" is invalid: metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111"
    );
    definition["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "unapproved, a test"});
    server.post(DEFINITIONS, definition).await.ok();
    let path = format!("{DEFINITIONS}/shirts.wear.k8s.io");
    let condition = "KubernetesAPIApprovalPolicyConformant";
    assert_eq!(reason(&server.get(&path).await.ok(), condition), "UnapprovedAnnotation");
    let approved = json!({"metadata": {"annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes/enhancements/pull/1"}}});
    server.merge(&path, approved).await.ok();
    assert_eq!(reason(&server.get(&path).await.ok(), condition), "ApprovedAnnotation");
}

#[tokio::test]
async fn a_stored_version_may_go_once_its_status_says_that_nothing_is_stored_in_it() {
    let server = Server::start().await;
    let mut definition = shirts();
    let mut newer = definition["spec"]["versions"][0].clone();
    newer["name"] = "v2".into();
    newer["storage"] = false.into();
    definition["spec"]["versions"].as_array_mut().unwrap().push(newer.clone());
    server.post(DEFINITIONS, definition).await.ok();
    let stored = json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]);
    server.json_patch(ONE, stored).await.ok();
    assert_eq!(server.get(ONE).await.ok()["status"]["storedVersions"], json!(["v1", "v2"]));
    let without = json!([{"op": "remove", "path": "/spec/versions/0"}]);
    let message = server.json_patch(ONE, without.clone()).await.fails(422);
    assert!(message.contains("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was previously a storage version"), "{message}");
    server.merge(&format!("{ONE}/status"), json!({"status": {"storedVersions": ["v2"]}})).await.ok();
    server.json_patch(ONE, without).await.ok();
    let definition = server.get(ONE).await.ok();
    assert_eq!(definition["status"]["storedVersions"], json!(["v2"]));
    server.get(SHIRTS).await.fails(404);
    server.get(&SHIRTS.replace("/v1/", "/v2/")).await.ok();
}

#[tokio::test]
async fn a_format_that_means_nothing_is_remarked_and_a_definition_has_a_status_at_once() {
    let server = Server::start().await;
    let mut definition = shirts();
    let fields = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    fields["size"]["format"] = "inches".into();
    let request = http::Request::post(DEFINITIONS).header("content-type", "application/json");
    let body = kube::client::Body::from(definition.to_string().into_bytes());
    let response = server.api.administrator().send(request.body(body).unwrap()).await.unwrap();
    assert_eq!(response.headers()["warning"], "299 - \"unrecognized format \\\"inches\\\"\"");
    let bytes = response.into_body().collect_bytes().await.unwrap();
    let created: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(created["status"]["storedVersions"], json!(["v1"]));
}
