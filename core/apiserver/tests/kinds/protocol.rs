//! What requests may say beside their objects: paths, parameters, names, kinds.

use http::{Method, Request};
use serde_json::{Value, json};

use crate::custom_resources::shirts;
use crate::harness::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x"}]}})
}

/// An answer's warnings.
async fn warnings(server: &Server, method: Method, path: &str, kind: &str, body: Value) -> Vec<String> {
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.body(kube::client::Body::from(body.to_string().into_bytes())).unwrap();
    let response = server.api.administrator().send(request).await.unwrap();
    assert!(response.status().is_success(), "{}", response.status());
    let found = response.headers().get_all("warning").into_iter();
    found.map(|text| text.to_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_name_may_be_encoded_in_a_path() {
    let server = Server::start().await;
    server.post(ROLES, json!({"metadata": {"name": "a:b"}, "rules": []})).await.ok();
    assert_eq!(server.get(&format!("{ROLES}/a%3Ab")).await.ok()["metadata"]["name"], "a:b");
    server.get(&format!("{ROLES}/a%253Ab")).await.fails(404);
    // A slash that is encoded is one.
    server.get(&MAPS.replace("default/", "default%2F")).await.ok();
    server.get(&format!("{MAPS}/")).await.ok();
}

#[tokio::test]
async fn a_client_may_say_how_long_it_waits() {
    let server = Server::start().await;
    server.get(&format!("{MAPS}?timeout=30s")).await.ok();
    server.get(&format!("{MAPS}?timeout=")).await.ok();
    let message = server.get(&format!("{MAPS}?timeout=soon")).await.fails(400);
    assert_eq!(message, "invalid timeout specified in the request URL - time: invalid duration \"soon\"");
    // A state that is not reached is waited for, but not longer than the client waits.
    let late = format!("{MAPS}?resourceVersion=999999999&timeout=1ms");
    let message = server.get(&late).await.fails(504);
    assert_eq!(message, "Timeout: request did not complete within the allotted timeout");
}

#[tokio::test]
async fn an_object_is_replaced_by_one_that_names_it() {
    let server = Server::start().await;
    server.post(MAPS, json!({"metadata": {"name": "a"}})).await.ok();
    let path = format!("{MAPS}/a");
    let put = async |metadata: Value| server.put(&path, json!({"metadata": metadata})).await.fails(400);
    assert_eq!(
        put(json!({})).await,
        "the name of the object (a based on URL) was undeterminable: name must be provided"
    );
    assert_eq!(
        put(json!({"name": "b"})).await,
        "the name of the object (b) does not match the name on the URL (a)"
    );
    assert_eq!(
        put(json!({"name": "a", "namespace": "other"})).await,
        "the namespace of the object (other) does not match the namespace on the request (default)"
    );
    let message = server.merge(&path, json!({"metadata": {"name": "b"}})).await.fails(422);
    assert_eq!(
        message,
        "ConfigMap \"a\" is invalid: metadata.name: Invalid value: \"b\": field is immutable"
    );
    let ending = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let message = server.merge(&path, ending).await.fails(422);
    assert!(message.contains("metadata.deletionTimestamp: Invalid value"), "{message}");
    let message = server.merge(&path, json!({"metadata": {"namespace": "other"}})).await.fails(400);
    assert_eq!(
        message,
        "the namespace of the provided object does not match the namespace sent on the request"
    );
}

#[tokio::test]
async fn a_document_of_another_kind_is_refused_as_upstream_does() {
    let server = Server::start().await;
    let post = async |kind: &str, version: &str| {
        let body = json!({"kind": kind, "apiVersion": version, "metadata": {"name": "a"}});
        server.post(MAPS, body).await.fails(400)
    };
    assert_eq!(
        post("Secret", "v1").await,
        "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion"
    );
    assert_eq!(
        post("ConfigMap", "v9").await,
        "no kind \"ConfigMap\" is registered for version \"v9\" in scheme \"k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30\""
    );
    let autoscalers = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let body = json!({"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v1"});
    assert_eq!(
        server.post(autoscalers, body).await.fails(400),
        "the API version in the data (autoscaling/v1) does not match the expected API version (autoscaling/v2)"
    );
}

#[tokio::test]
async fn documents_of_subresources_are_validated_as_is_asked() {
    let server = Server::start().await;
    server.post(PODS, pod("a")).await.ok();
    let json_type = "application/json";
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}, "more": 1});
    let path = format!("{PODS}/a/binding");
    let message = server.post(&format!("{path}?fieldValidation=Strict"), binding.clone()).await.fails(400);
    assert_eq!(
        message,
        "Binding in version \"v1\" cannot be handled as a Binding: strict decoding error: unknown field \"more\""
    );
    assert_eq!(
        warnings(&server, Method::POST, &path, json_type, binding).await,
        ["299 - \"unknown field \\\"more\\\"\""]
    );
    let eviction = json!({"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "a"}, "x": 1});
    let path = format!("{PODS}/a/eviction?fieldValidation=Strict");
    assert!(server.post(&path, eviction).await.fails(400).contains("unknown field \"x\""));
    let beta = json!({"kind": "Eviction", "apiVersion": "policy/v1beta1", "metadata": {"name": "a"}});
    server.post(&path, beta).await.ok();
    let token = json!({"spec": {"expirationSeconds": 600, "x": 1}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token?fieldValidation=Strict";
    assert!(server.post(path, token).await.fails(400).contains("unknown field \"spec.x\""));
}

#[tokio::test]
async fn a_scale_is_validated_as_is_asked() {
    let server = Server::start().await;
    server.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", shirts()).await.ok();
    let all = "/apis/stable.example.com/v1/namespaces/default/shirts";
    let shirt = json!({"metadata": {"name": "a"}, "spec": {"color": "red", "replicas": 1}});
    server.post(all, shirt).await.ok();
    let path = format!("{all}/a/scale");
    let strict = format!("{path}?fieldValidation=Strict");
    let scale = json!({"metadata": {"name": "a"}, "spec": {"replicas": 2, "x": 1}});
    let message = server.put(&strict, scale.clone()).await.fails(400);
    assert!(message.ends_with("strict decoding error: unknown field \"spec.x\""), "{message}");
    assert_eq!(warnings(&server, Method::PUT, &path, "application/json", scale).await.len(), 1);
    let message = server.merge(&strict, json!({"spec": {"y": 1}})).await.fails(422);
    assert!(message.ends_with("strict decoding error: unknown field \"spec.y\""), "{message}");
    server.put(&path, json!({"spec": {"replicas": 2}})).await.fails(400);
    server.put(&path, json!({"kind": "Deployment", "apiVersion": "apps/v1"})).await.fails(400);
    let strategic = "application/strategic-merge-patch+json";
    assert_eq!(server.patch(&path, strategic, "{}").await.0, 415);
}

#[tokio::test]
async fn a_patch_that_does_not_fit_tells_why_in_its_cause() {
    let server = Server::start().await;
    server.post(MAPS, json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await.ok();
    let test = json!([{"op": "test", "path": "/data/k", "value": "w"}]);
    let answer = server.json_patch(&format!("{MAPS}/a"), test).await;
    assert_eq!(answer.1["reason"], "Invalid");
    assert_eq!(answer.1["details"]["causes"][0]["field"], "patch");
    let message = answer.fails(422);
    assert_eq!(message, "the server rejected our request due to an error in our request");
}

#[tokio::test]
async fn what_a_table_includes_is_one_of_three() {
    let server = Server::start().await;
    let table = async |query: &str| {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let request = Request::get(format!("{MAPS}{query}")).header("accept", accept);
        let request = request.body(kube::client::Body::empty()).unwrap();
        let response = server.api.administrator().send(request).await.unwrap();
        assert_eq!(response.headers()["cache-control"], "no-cache, private");
        let bytes = response.into_body().collect_bytes().await.unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()
    };
    assert_eq!(table("?includeObject=None").await["rows"][0]["object"], Value::Null);
    assert_eq!(table("").await["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table("?includeObject=Object").await["rows"][0]["object"]["kind"], "ConfigMap");
    assert_eq!(
        table("?includeObject=All").await["message"],
        "includeObject: Invalid value: \"All\": must be 'Metadata', 'Object', 'None', or empty"
    );
}
