//! CustomResourceDefinitions and the kinds that they define.

use std::time::Duration;

use http::{Method, Request};
use serde_json::{Value, json};

use crate::harness::Server;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SHIRTS: &str = "/apis/stable.example.com/v1/namespaces/default/shirts";

fn schema() -> Value {
    json!({"openAPIV3Schema": {"type": "object", "description": "A shirt.", "properties": {
        "spec": {"type": "object", "required": ["color"], "properties": {
            "color": {"type": "string", "enum": ["blue", "red"], "description": "Its color."},
            "size": {"type": "string", "default": "M"},
            "replicas": {"type": "integer", "minimum": 0, "maximum": 10},
            "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "worn": {"type": "boolean"}}},
    }}})
}

/// A kind with everything.
pub(crate) fn shirts() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "shirts.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "shirts", "kind": "Shirt", "shortNames": ["sh"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": schema(),
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                "additionalPrinterColumns": [
                    {"name": "Color", "type": "string", "jsonPath": ".spec.color"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
            }],
        },
    })
}

fn condition<'a>(definition: &'a Value, kind: &str) -> &'a Value {
    let list = definition["status"]["conditions"].as_array().unwrap();
    list.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn a_definition_is_established_and_its_kind_served_when_its_writer_is_answered() {
    let server = Server::start().await;
    let created = server.post(DEFINITIONS, shirts()).await.ok();
    assert_eq!(created["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    let shirt = json!({"apiVersion": "stable.example.com/v1", "kind": "Shirt", "metadata": {"name": "a"},
        "spec": {"color": "red", "unknown": 1, "extra": {"kept": true}}, "status": {"worn": true}});
    let made = server.post(SHIRTS, shirt).await.ok();
    assert_eq!(made["spec"], json!({"color": "red", "size": "M", "extra": {"kept": true}}));
    assert_eq!(made["status"], Value::Null);
    assert_eq!(made["metadata"]["generation"], 1);
    let definition = server.get(&format!("{DEFINITIONS}/shirts.stable.example.com")).await.ok();
    assert_eq!(condition(&definition, "NamesAccepted")["reason"], "NoConflicts");
    assert_eq!(condition(&definition, "Established")["reason"], "InitialNamesAccepted");
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(definition["status"]["acceptedNames"]["listKind"], "ShirtList");
    let list = server.get(SHIRTS).await.ok();
    assert_eq!((&list["kind"], &list["items"][0]["metadata"]["name"]), (&json!("ShirtList"), &json!("a")));
    let resources = server.get("/apis/stable.example.com/v1").await.ok();
    assert_eq!(resources["resources"][0]["shortNames"], json!(["sh"]));
    assert_eq!(resources["resources"][2]["kind"], "Scale");
}

#[tokio::test]
async fn objects_are_validated_and_their_status_and_scale_written_apart() {
    let server = Server::start().await;
    server.post(DEFINITIONS, shirts()).await.ok();
    let shirt = |spec: Value| json!({"metadata": {"name": "a"}, "spec": spec});
    let message = server.post(SHIRTS, shirt(json!({"color": "green", "replicas": 11}))).await.fails(422);
    assert_eq!(
        message,
        "Shirt.stable.example.com \"a\" is invalid: [spec.color: Unsupported value: \"green\": supported values: \"blue\", \"red\", spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10]"
    );
    let message = server.post(SHIRTS, shirt(json!({}))).await.fails(422);
    assert_eq!(message, "Shirt.stable.example.com \"a\" is invalid: spec.color: Required value");
    server.post(SHIRTS, shirt(json!({"color": "red", "replicas": 1}))).await.ok();
    let one = format!("{SHIRTS}/a");
    let body =
        json!({"metadata": {"labels": {"x": "y"}}, "spec": {"color": "blue"}, "status": {"replicas": 1}});
    let patched = server.merge(&format!("{one}/status"), body).await.ok();
    assert_eq!((&patched["spec"]["color"], &patched["metadata"]["labels"]), (&json!("red"), &Value::Null));
    assert_eq!((&patched["status"]["replicas"], &patched["metadata"]["generation"]), (&json!(1), &json!(1)));
    let scale = server.merge(&format!("{one}/scale"), json!({"spec": {"replicas": 4}})).await.ok();
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(4), &json!(1)));
    let object = server.get(&one).await.ok();
    assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&json!(4), &json!(2)));
    let none = server.get(&format!("{SHIRTS}?fieldSelector=spec.color%3Dblue")).await.ok();
    assert_eq!(none["items"], json!([]));
    let red = server.get(&format!("{SHIRTS}?fieldSelector=spec.color%3Dred")).await.ok();
    assert_eq!(red["items"][0]["metadata"]["name"], "a");
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_along_and_ends_their_watches() {
    let server = Server::start().await;
    server.post(DEFINITIONS, shirts()).await.ok();
    let held =
        json!({"metadata": {"name": "a", "finalizers": ["example.com/hold"]}, "spec": {"color": "red"}});
    server.post(SHIRTS, held).await.ok();
    let request = Request::get(format!("{SHIRTS}?watch=true")).body(kube::client::Body::empty()).unwrap();
    let watch = server.api.administrator().send(request).await.unwrap();
    let one = format!("{DEFINITIONS}/shirts.stable.example.com");
    let ending = server.delete(&one, json!({})).await.ok();
    assert!(ending["metadata"]["deletionTimestamp"].is_string());
    let definition = server.get(&one).await.ok();
    assert_eq!(condition(&definition, "Terminating")["reason"], "InstanceDeletionInProgress");
    let message = server.post(SHIRTS, json!({"metadata": {"name": "b"}})).await.fails(405);
    assert_eq!(message, "create not allowed while custom resource definition is terminating");
    server.merge(&format!("{SHIRTS}/a"), json!({"metadata": {"finalizers": null}})).await.ok();
    // The stream ends by itself once the kind is gone.
    let text = tokio::time::timeout(Duration::from_secs(20), watch.into_body().collect_bytes());
    let text = String::from_utf8(text.await.unwrap().unwrap().to_vec()).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["type"], "DELETED");
    server.get(&one).await.fails(404);
    server.get(SHIRTS).await.fails(404);
    server.post(DEFINITIONS, shirts()).await.ok();
    assert_eq!(server.get(SHIRTS).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn kinds_are_served_again_after_a_restart() {
    let server = Server::start().await;
    server.post(DEFINITIONS, shirts()).await.ok();
    server.post(SHIRTS, json!({"metadata": {"name": "a"}, "spec": {"color": "red"}})).await.ok();
    let server = server.restart().await;
    assert_eq!(server.get(&format!("{SHIRTS}/a")).await.ok()["spec"]["color"], "red");
}

#[tokio::test]
async fn versions_differ_in_name_and_by_their_own_schema() {
    let server = Server::start().await;
    server.post(DEFINITIONS, shirts()).await.ok();
    server.post(SHIRTS, json!({"metadata": {"name": "a"}, "spec": {"color": "red"}})).await.ok();
    let mut newer = schema();
    newer["openAPIV3Schema"]["properties"]["spec"]["properties"]["fabric"] =
        json!({"type": "string", "default": "wool"});
    let patch = json!([
        {"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "add", "path": "/spec/versions/0/deprecated", "value": true},
        {"op": "add", "path": "/spec/versions/-", "value": {"name": "v2", "served": true, "storage": true, "schema": newer}},
    ]);
    let one = format!("{DEFINITIONS}/shirts.stable.example.com");
    server.json_patch(&one, patch).await.ok();
    let definition = server.get(&one).await.ok();
    assert_eq!(definition["status"]["storedVersions"], json!(["v1", "v2"]));
    let v2 = SHIRTS.replace("/v1/", "/v2/");
    let seen = server.get(&format!("{v2}/a")).await.ok();
    assert_eq!(
        (&seen["apiVersion"], &seen["spec"]["fabric"]),
        (&json!("stable.example.com/v2"), &json!("wool"))
    );
    server.merge(&format!("{v2}/a"), json!({"spec": {"fabric": "silk"}})).await.ok();
    let old = server.get(&format!("{SHIRTS}/a")).await.ok();
    assert_eq!((&old["apiVersion"], &old["spec"]["fabric"]), (&json!("stable.example.com/v1"), &Value::Null));
    let group = server.get("/apis/stable.example.com").await.ok();
    assert_eq!(group["preferredVersion"]["version"], "v2");
}

#[tokio::test]
async fn what_cannot_be_asked_or_evaluated_is_refused_with_the_definition() {
    let server = Server::start().await;
    let mut definition = shirts();
    definition["spec"]["conversion"] = json!({"strategy": "Webhook"});
    let message = server.post(DEFINITIONS, definition).await.fails(422);
    assert!(message.contains("spec.conversion.webhookClientConfig: Required value"), "{message}");
}

#[tokio::test]
async fn a_strategic_merge_patch_of_a_custom_resource_is_refused() {
    let server = Server::start().await;
    server.post(DEFINITIONS, shirts()).await.ok();
    server.post(SHIRTS, json!({"metadata": {"name": "a"}, "spec": {"color": "red"}})).await.ok();
    let request = Request::builder().method(Method::PATCH).uri(format!("{SHIRTS}/a"));
    let request = request.header("content-type", "application/strategic-merge-patch+json");
    let request = request.body(kube::client::Body::from(b"{}".to_vec())).unwrap();
    let response = server.api.administrator().send(request).await.unwrap();
    assert_eq!(response.status().as_u16(), 415);
}

#[tokio::test]
async fn a_definition_waits_for_names_that_another_has() {
    let server = Server::start().await;
    server.post(DEFINITIONS, shirts()).await.ok();
    let mut second = shirts();
    second["metadata"]["name"] = "blouses.stable.example.com".into();
    second["spec"]["names"] = json!({"plural": "blouses", "kind": "Shirt"});
    server.post(DEFINITIONS, second).await.ok();
    let path = format!("{DEFINITIONS}/blouses.stable.example.com");
    let waiting = server.get(&path).await.ok();
    assert_eq!(condition(&waiting, "NamesAccepted")["reason"], "ListKindConflict");
    assert_eq!(condition(&waiting, "Established")["reason"], "NotAccepted");
    let blouses = SHIRTS.replace("shirts", "blouses");
    server.get(&blouses).await.fails(404);
    server.delete(&format!("{DEFINITIONS}/shirts.stable.example.com"), json!({})).await.ok();
    // The first goes by itself, and then its names are free.
    let established = async {
        while server.get(&blouses).await.0 != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), established).await.unwrap();
    let blouse =
        server.post(&blouses, json!({"metadata": {"name": "a"}, "spec": {"color": "red"}})).await.ok();
    assert_eq!(blouse["kind"], "Shirt");
}

#[tokio::test]
async fn a_collection_is_deleted_and_a_watch_tells_it() {
    let server = Server::start().await;
    server.post(DEFINITIONS, shirts()).await.ok();
    for name in ["a", "b", "c"] {
        let labels = json!({"keep": (name == "c").to_string()});
        let shirt = json!({"metadata": {"name": name, "labels": labels}, "spec": {"color": "red"}});
        server.post(SHIRTS, shirt).await.ok();
    }
    let list = server.get(SHIRTS).await.ok();
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    server.delete(&format!("{SHIRTS}?labelSelector=keep%3Dfalse"), json!({})).await.ok();
    let path = format!("{SHIRTS}?watch=true&timeoutSeconds=1&resourceVersion={revision}");
    let request = Request::get(path).body(kube::client::Body::empty()).unwrap();
    let watch = server.api.administrator().send(request).await.unwrap();
    let text = String::from_utf8(watch.into_body().collect_bytes().await.unwrap().to_vec()).unwrap();
    let types: Vec<&str> = text.lines().map(|line| line.split('"').nth(3).unwrap()).collect();
    assert_eq!(types, ["DELETED", "DELETED"]);
    assert_eq!(server.get(SHIRTS).await.ok()["items"][0]["metadata"]["name"], "c");
}
