//! Custom resources whose versions a webhook converts.

use serde_json::{Value, json};

use crate::harness::Server;
use crate::hook_server::HookServer;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn path(version: &str) -> String {
    format!("/apis/example.com/{version}/namespaces/default/sites")
}

fn definition(client_config: Value) -> Value {
    let version = |name: &str, storage: bool, fields: Value| {
        let spec = json!({"type": "object", "properties": fields});
        json!({"name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}})
    };
    let text = json!({"type": "string"});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "sites.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "sites", "kind": "Site"},
            "conversion": {"strategy": "Webhook",
                "webhook": {"clientConfig": client_config, "conversionReviewVersions": ["v1"]}},
            "versions": [version("v1", true, json!({"host": text, "port": text})),
                version("v2", false, json!({"hostPort": text}))]},
    })
}

/// `host` and `port` of v1 are `hostPort` of v2.
fn convert(path: &str, mut object: Value, desired: &str) -> Value {
    let spec = &object["spec"];
    let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
    object["spec"] = if desired.ends_with("v2") {
        json!({"hostPort": format!("{}:{}", text("host"), text("port"))})
    } else {
        let joined = text("hostPort");
        let (host, port) = joined.split_once(':').unwrap_or((&joined, ""));
        json!({"host": host, "port": port})
    };
    object["apiVersion"] = desired.into();
    if path == "renames" {
        object["metadata"]["name"] = "other".into();
    }
    object
}

async fn webhook() -> HookServer {
    HookServer::start(|path, review| {
        let request = &review["request"];
        let desired = request["desiredAPIVersion"].as_str().unwrap();
        let objects = request["objects"].as_array().unwrap();
        let converted: Vec<Value> =
            objects.iter().map(|object| convert(path, object.clone(), desired)).collect();
        let result = match path {
            "fails" => json!({"status": "Failed", "message": "out of order"}),
            _ => json!({"status": "Success"}),
        };
        let response = json!({"uid": request["uid"], "convertedObjects": converted, "result": result});
        json!({"kind": "ConversionReview", "apiVersion": review["apiVersion"], "response": response})
    })
    .await
}

fn site(version: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("example.com/{version}"), "kind": "Site", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn an_object_is_served_and_written_in_every_version() {
    let hooks = webhook().await;
    let server = Server::start().await;
    server.post(DEFINITIONS, definition(hooks.client_config("convert"))).await.ok();
    let made = server.post(&path("v1"), site("v1", "a", json!({"host": "h", "port": "1"}))).await.ok();
    assert_eq!(made["spec"], json!({"host": "h", "port": "1"}));
    assert_eq!(hooks.take_requests().len(), 0, "what is stored in the served version is not converted");

    let one = format!("{}/a", path("v2"));
    let got = server.get(&one).await.ok();
    assert_eq!((&got["apiVersion"], &got["spec"]), (&"example.com/v2".into(), &json!({"hostPort": "h:1"})));
    assert_eq!(got["metadata"], made["metadata"]);

    let made = server.post(&path("v2"), site("v2", "b", json!({"hostPort": "x:2"}))).await.ok();
    assert_eq!((&made["apiVersion"], &made["spec"]), (&"example.com/v2".into(), &json!({"hostPort": "x:2"})));
    let stored = server.get(&format!("{}/b", path("v1"))).await.ok();
    assert_eq!(stored["spec"], json!({"host": "x", "port": "2"}));

    let patched = server.merge(&one, json!({"spec": {"hostPort": "h:7"}})).await.ok();
    assert_eq!(
        (&patched["spec"], &patched["metadata"]["generation"]),
        (&json!({"hostPort": "h:7"}), &2.into())
    );
    let same = server.merge(&one, json!({"spec": {"hostPort": "h:7"}})).await.ok();
    assert_eq!(same["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"]);
    let applied =
        server.apply(&one, "fieldManager=me&force=true", site("v2", "a", json!({"hostPort": "h:8"}))).await;
    assert_eq!(applied.ok()["spec"], json!({"hostPort": "h:8"}));
    assert_eq!(
        server.get(&format!("{}/a", path("v1"))).await.ok()["spec"],
        json!({"host": "h", "port": "8"})
    );

    hooks.take_requests();
    let list = server.get(&path("v2")).await.ok();
    let specs: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|item| &item["spec"]).collect();
    assert_eq!(specs, [&json!({"hostPort": "h:8"}), &json!({"hostPort": "x:2"})]);
    let [request] = hooks.take_requests().try_into().unwrap();
    assert_eq!(request["objects"].as_array().unwrap().len(), 2, "a list is one question");

    let watched = format!("{}?watch=1&timeoutSeconds=1&resourceVersion=0", path("v2"));
    let request = http::Request::get(watched).body(kube::client::Body::empty()).unwrap();
    let response = server.api.administrator().send(request).await.unwrap();
    let frames = response.into_body().collect_bytes().await.unwrap();
    let frames = String::from_utf8(frames.to_vec()).unwrap();
    assert!(frames.contains("\"hostPort\":\"h:8\"") && !frames.contains("\"spec\":{\"host\""), "{frames}");
    server.delete(&one, json!({})).await.ok();
}

#[tokio::test]
async fn objects_stored_in_an_older_version_are_converted_to_the_new_one() {
    let hooks = webhook().await;
    let server = Server::start().await;
    server.post(DEFINITIONS, definition(hooks.client_config("convert"))).await.ok();
    server.post(&path("v1"), site("v1", "old", json!({"host": "h", "port": "1"}))).await.ok();
    let flip = json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]);
    server.json_patch(&format!("{DEFINITIONS}/sites.example.com"), flip).await.ok();
    server.post(&path("v1"), site("v1", "new", json!({"host": "n", "port": "2"}))).await.ok();
    for (version, expected) in [
        ("v1", [json!({"host": "n", "port": "2"}), json!({"host": "h", "port": "1"})]),
        ("v2", [json!({"hostPort": "n:2"}), json!({"hostPort": "h:1"})]),
    ] {
        let list = server.get(&path(version)).await.ok();
        let specs: Vec<Value> =
            list["items"].as_array().unwrap().iter().map(|it| it["spec"].clone()).collect();
        assert_eq!(specs, expected, "{version}");
    }
}

#[tokio::test]
async fn a_webhook_that_fails_or_changes_what_it_may_not_is_told() {
    let hooks = webhook().await;
    let server = Server::start().await;
    server.post(DEFINITIONS, definition(hooks.client_config("fails"))).await.ok();
    server.post(&path("v1"), site("v1", "a", json!({"host": "h", "port": "1"}))).await.ok();
    let one = format!("{}/a", path("v2"));
    let about = "conversion webhook for example.com/v1, Kind=Site";
    assert_eq!(server.get(&one).await.fails(500), format!("{about} failed: out of order"));
    let config = json!([{"op": "replace", "path": "/spec/conversion/webhook/clientConfig",
        "value": hooks.client_config("renames")}]);
    server.json_patch(&format!("{DEFINITIONS}/sites.example.com"), config).await.ok();
    let expected = "returned invalid converted object at index 0: must have the same name: a != other";
    assert_eq!(server.get(&one).await.fails(500), format!("{about} {expected}"));
    assert_eq!(server.get(&format!("{}/a", path("v1"))).await.ok()["spec"]["host"], "h");
}

#[tokio::test]
async fn fields_are_selected_by_as_they_are_in_the_version_that_is_asked_for() {
    let hooks = webhook().await;
    let server = Server::start().await;
    let mut definition = definition(hooks.client_config("convert"));
    definition["spec"]["versions"][1]["selectableFields"] = json!([{"jsonPath": ".spec.hostPort"}]);
    server.post(DEFINITIONS, definition).await.ok();
    for (name, port) in [("a", "1"), ("b", "2")] {
        let site = site("v1", name, json!({"host": "h", "port": port}));
        server.post(&path("v1"), site).await.ok();
    }
    let selected = format!("{}?fieldSelector=spec.hostPort%3Dh:2", path("v2"));
    let list = server.get(&selected).await.ok();
    let names: Vec<&Value> =
        list["items"].as_array().unwrap().iter().map(|it| &it["metadata"]["name"]).collect();
    assert_eq!(names, ["b"]);
    let watched = format!("{selected}&watch=1&timeoutSeconds=1&resourceVersion=0");
    let request = http::Request::get(watched).body(kube::client::Body::empty()).unwrap();
    let frames =
        server.api.administrator().send(request).await.unwrap().into_body().collect_bytes().await.unwrap();
    let frames = String::from_utf8(frames.to_vec()).unwrap();
    assert!(frames.contains("h:2") && !frames.contains("h:1"), "{frames}");
}
