//! Answers in the encoding that a client asks for.

use http::{Method, Request};
use keelson_api::protobuf::{decode, document};
use serde_json::{Value, json};

use crate::harness::Server;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Raw {
    code: u16,
    media: String,
    bytes: Vec<u8>,
}

async fn send(server: &Server, method: Method, path: &str, accept: &str, body: Vec<u8>) -> Raw {
    let kind = if body.starts_with(b"k8s\0") { PROTOBUF } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("accept", accept);
    let request = request.header("content-type", kind).body(kube::client::Body::from(body)).unwrap();
    let response = server.api.administrator().send(request).await.unwrap();
    let code = response.status().as_u16();
    let media = response.headers()["content-type"].to_str().unwrap().to_owned();
    let bytes = response.into_body().collect_bytes().await.unwrap().to_vec();
    Raw { code, media, bytes }
}

async fn get(server: &Server, path: &str, accept: &str) -> Raw {
    send(server, Method::GET, path, accept, Vec::new()).await
}

async fn message(server: &Server, path: &str) -> Value {
    let raw = get(server, path, PROTOBUF).await;
    assert_eq!(raw.media, PROTOBUF, "{path}");
    decode(&raw.bytes).unwrap()
}

#[tokio::test]
async fn objects_lists_and_refusals_are_the_same_in_protobuf() {
    let server = Server::start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let sent = document(map.to_string().as_bytes()).unwrap();
    let created = send(&server, Method::POST, MAPS, PROTOBUF, sent).await;
    assert_eq!((created.code, created.media.as_str()), (201, PROTOBUF));
    let path = format!("{MAPS}/a");
    assert_eq!(decode(&created.bytes).unwrap(), server.get(&path).await.ok());
    assert_eq!(message(&server, &path).await, server.get(&path).await.ok());
    let list = message(&server, MAPS).await;
    // Others may have written meanwhile: the same state is asked for.
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    let exactly = format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact");
    let expected = server.get(&exactly).await.ok();
    assert_eq!((&list["kind"], &list["metadata"]), (&expected["kind"], &expected["metadata"]));
    assert_eq!(list["items"][0]["data"], json!({"k": "v"}));
    let metadata = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let metadata = decode(&get(&server, MAPS, &metadata).await.bytes).unwrap();
    assert_eq!(
        (&metadata["kind"], &metadata["items"][0]["metadata"]["name"]),
        (&json!("PartialObjectMetadataList"), &json!("a"))
    );
    let missing = get(&server, &format!("{MAPS}/b"), PROTOBUF).await;
    assert_eq!((missing.code, missing.media.as_str()), (404, PROTOBUF));
    assert_eq!(decode(&missing.bytes).unwrap()["reason"], "NotFound");
    let gone = send(&server, Method::DELETE, &path, PROTOBUF, Vec::new()).await;
    assert_eq!(decode(&gone.bytes).unwrap()["status"], "Success");
}

#[tokio::test]
async fn other_versions_subresources_reviews_and_discovery_have_messages_too() {
    let server = Server::start().await;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let review = document(review.to_string().as_bytes()).unwrap();
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = decode(&send(&server, Method::POST, path, PROTOBUF, review).await.bytes).unwrap();
    assert_eq!(review["status"]["userInfo"]["username"], "kubernetes-admin");
    let scaler = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3,
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}});
    server.post("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", scaler).await.ok();
    for version in ["v1", "v2"] {
        let list = message(&server, &format!("/apis/autoscaling/{version}/horizontalpodautoscalers")).await;
        assert_eq!(list["apiVersion"], format!("autoscaling/{version}"));
        assert_eq!(list["items"][0]["spec"]["maxReplicas"], 3);
    }
    assert_eq!(message(&server, "/api").await["kind"], "APIVersions");
    assert_eq!(message(&server, "/apis").await["kind"], "APIGroupList");
    assert_eq!(message(&server, "/api/v1").await["resources"], server.get("/api/v1").await.ok()["resources"]);
    let aggregated = format!("{PROTOBUF};as=APIGroupDiscoveryList;g=apidiscovery.k8s.io;v=v2");
    let groups = get(&server, "/apis", &aggregated).await;
    assert!(groups.media.ends_with("as=APIGroupDiscoveryList") && groups.media.starts_with(PROTOBUF));
    let plain =
        get(&server, "/apis", "application/json;as=APIGroupDiscoveryList;g=apidiscovery.k8s.io;v=v2").await;
    let plain: Value = serde_json::from_slice(&plain.bytes).unwrap();
    assert_eq!(decode(&groups.bytes).unwrap()["items"], plain["items"]);
}

#[tokio::test]
async fn a_watch_in_protobuf_is_frames_of_events() {
    let server = Server::start().await;
    for name in ["a", "b"] {
        server.post(MAPS, json!({"metadata": {"name": name}})).await.ok();
    }
    let path =
        format!("{MAPS}?watch=true&timeoutSeconds=1&fieldSelector=metadata.name%21%3Dkube-root-ca.crt");
    let raw = get(&server, &path, &format!("{PROTOBUF};stream=watch")).await;
    assert_eq!(raw.media, "application/vnd.kubernetes.protobuf;stream=watch");
    let (mut rest, mut seen) = (&raw.bytes[..], Vec::new());
    while let Some((length, tail)) = rest.split_at_checked(4) {
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let (frame, tail) = tail.split_at(length);
        assert_eq!(&frame[..7], b"\x0a\x05ADDED");
        let start = frame.windows(4).position(|window| window == b"k8s\0").unwrap();
        seen.push(decode(&frame[start..]).unwrap()["metadata"]["name"].clone());
        rest = tail;
    }
    assert_eq!(seen, ["a", "b"]);
}

#[tokio::test]
async fn tables_and_custom_resources_are_never_protobuf() {
    let server = Server::start().await;
    let definition = json!({"metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Cluster",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    server.post(path, definition).await.ok();
    let things = "/apis/example.com/v1/things";
    server
        .post(things, json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}}))
        .await
        .ok();
    assert_eq!(get(&server, things, PROTOBUF).await.code, 406);
    assert_eq!(get(&server, things, &format!("{PROTOBUF},application/json")).await.media, "application/json");
    let metadata = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    assert_eq!(
        decode(&get(&server, things, &metadata).await.bytes).unwrap()["items"][0]["metadata"]["name"],
        "t"
    );
    let table = format!("{PROTOBUF};as=Table;g=meta.k8s.io;v=v1");
    let refused = get(&server, MAPS, &table).await;
    let text = serde_json::from_slice::<Value>(&refused.bytes).unwrap()["message"].clone();
    assert_eq!(
        (refused.code, text.as_str().unwrap()),
        (
            406,
            "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
        )
    );
}

#[tokio::test]
async fn yaml_and_json_for_people_are_given_when_asked_for() {
    let server = Server::start().await;
    let raw = get(&server, "/api/v1/namespaces/default", "application/yaml").await;
    assert_eq!(raw.media, "application/yaml");
    let text = String::from_utf8(raw.bytes).unwrap();
    assert!(text.contains("kind: Namespace\n"), "{text}");
    let raw = get(&server, "/api/v1/namespaces/default?pretty=true", "application/json").await;
    assert!(String::from_utf8(raw.bytes).unwrap().contains("\n  \"metadata\": {\n"));
    assert_eq!(get(&server, "/api/v1/namespaces?watch=true", "application/yaml").await.code, 406);
}
