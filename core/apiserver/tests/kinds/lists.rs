//! Lists and watches: which state they show, and what stands against it.

use base64::Engine;
use http::Request;
use serde_json::{Value, json};

use crate::harness::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Without what every namespace has.
const OWN: &str = "labelSelector=own";

async fn create(server: &Server, name: &str) {
    server.post(MAPS, json!({"metadata": {"name": name, "labels": {"own": "1"}}})).await.ok();
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

fn revision(list: &Value) -> &str {
    list["metadata"]["resourceVersion"].as_str().unwrap()
}

/// The events of a watch that ends by itself.
async fn events(server: &Server, path: &str) -> Vec<Value> {
    let request = Request::get(path).body(kube::client::Body::empty()).unwrap();
    let response = server.api.administrator().send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let text = response.into_body().collect_bytes().await.unwrap();
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

#[tokio::test]
async fn a_past_state_is_listed_exactly_and_page_by_page() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        create(&server, name).await;
    }
    let then = server.get(&format!("{MAPS}?{OWN}")).await.ok();
    let at = revision(&then).to_owned();
    server.delete(&format!("{MAPS}/b"), json!({})).await.ok();
    server.merge(&format!("{MAPS}/a"), json!({"data": {"k": "v"}})).await.ok();
    create(&server, "d").await;
    let exact =
        server.get(&format!("{MAPS}?{OWN}&resourceVersion={at}&resourceVersionMatch=Exact")).await.ok();
    assert_eq!((names(&exact), revision(&exact)), (vec!["a", "b", "c"], at.as_str()));
    assert_eq!(exact["items"], then["items"]);
    // A page of a revision is of exactly that revision, and so are those that follow.
    let first = server.get(&format!("{MAPS}?{OWN}&resourceVersion={at}&limit=2")).await.ok();
    assert_eq!(names(&first), ["a", "b"]);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{MAPS}?{OWN}&limit=2&continue={token}")).await.ok();
    assert_eq!((names(&second), revision(&second)), (vec!["c"], at.as_str()));
    let newer = server.get(&format!("{MAPS}?{OWN}&resourceVersion={at}")).await.ok();
    assert_eq!(names(&newer), ["a", "c", "d"]);
}

#[tokio::test]
async fn a_token_of_a_state_that_is_gone_is_answered_with_one_that_goes_on() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        create(&server, name).await;
    }
    // A state that this server does not have.
    let token = r#"{"v":"meta.k8s.io/v1","rv":999999999,"start":"default/b"}"#;
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token);
    let answer = server.get(&format!("{MAPS}?{OWN}&limit=1&continue={token}")).await;
    assert_eq!((answer.0, &answer.1["reason"]), (410, &json!("Expired")));
    let token = answer.1["metadata"]["continue"].as_str().unwrap();
    let rest = server.get(&format!("{MAPS}?{OWN}&continue={token}")).await.ok();
    assert_eq!(names(&rest), ["b", "c"]);
}

#[tokio::test]
async fn a_revision_that_is_not_reached_is_a_timeout_that_says_so() {
    let server = Server::start().await;
    for path in [format!("{MAPS}?resourceVersion=999999999"), format!("{MAPS}/a?resourceVersion=999999999")] {
        let answer = server.get(&path).await;
        assert_eq!(answer.1["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
        assert_eq!(answer.1["details"]["retryAfterSeconds"], 1);
        assert!(answer.fails(504).starts_with("Timeout: Too large resource version: 999999999, current: "));
    }
}

#[tokio::test]
async fn a_watch_may_begin_with_all_that_there_is_and_a_bookmark() {
    let server = Server::start().await;
    create(&server, "a").await;
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1";
    let seen = events(&server, &format!("{MAPS}?{OWN}&{query}&allowWatchBookmarks=true")).await;
    assert_eq!((&seen[0]["type"], &seen[0]["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("a")));
    let annotations = &seen[1]["object"]["metadata"]["annotations"];
    assert_eq!(
        (&seen[1]["type"], &annotations["k8s.io/initial-events-end"]),
        (&json!("BOOKMARK"), &json!("true"))
    );
    // The older path of a watch of one object.
    let path = "/api/v1/watch/namespaces/default/configmaps/a?timeoutSeconds=1";
    let seen = events(&server, path).await;
    assert_eq!((seen.len(), &seen[0]["object"]["metadata"]["name"]), (1, &json!("a")));
    let refusal = server.get(&format!("{MAPS}?watch=true&sendInitialEvents=true")).await.fails(422);
    assert_eq!(
        refusal,
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
    );
}

#[tokio::test]
async fn fields_that_are_not_selected_by_are_refused() {
    let server = Server::start().await;
    let refusal = server.get(&format!("{MAPS}?fieldSelector=data.k%3Dv")).await.fails(400);
    assert_eq!(
        refusal,
        "\"data.k\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    );
    let refusal = server.get("/api/v1/pods?fieldSelector=spec.x%3Dv").await.fails(400);
    assert_eq!(refusal, "field label not supported: spec.x");
}

#[tokio::test]
async fn fields_that_are_not_set_are_compared_as_their_zero() {
    let server = Server::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    server.post(pods, pod).await.ok();
    server.post("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await.ok();
    let maker = json!({"metadata": {"generateName": "a"}, "involvedObject": {"namespace": "default"},
        "reportingComponent": "me"});
    server.post("/api/v1/namespaces/default/events", maker).await.ok();
    let count = async |path: &str, selector: &str| {
        let list = server.get(&format!("{path}?fieldSelector={selector}")).await.ok();
        list["items"].as_array().unwrap().len()
    };
    assert_eq!(count(pods, "spec.hostNetwork=false,spec.restartPolicy=Always").await, 1);
    assert_eq!(count(pods, "spec.hostNetwork=true").await, 0);
    assert_eq!(count(pods, "spec.schedulerName=default-scheduler,spec.host=").await, 1);
    assert_eq!(count(pods, "status.podIPs!=x,status.nominatedNodeName=").await, 1);
    assert_eq!(count("/api/v1/nodes", "spec.unschedulable=false").await, 1);
    assert_eq!(count("/api/v1/namespaces/default/events", "source=me").await, 1);
    let refused = server.get("/api/v1/nodes?fieldSelector=metadata.namespace=a").await.fails(400);
    assert_eq!(refused, "field label not supported: metadata.namespace");
    let refused = server.get(&format!("{pods}?fieldSelector=spec.volumes=a")).await.fails(400);
    assert_eq!(refused, "field label not supported: spec.volumes");
}

#[tokio::test]
async fn a_page_of_a_namespace_tells_how_many_of_it_follow() {
    let server = Server::start().await;
    server.post("/api/v1/namespaces", json!({"metadata": {"name": "zoo"}})).await.ok();
    for (namespace, name) in [("default", "a"), ("default", "b"), ("default", "c"), ("zoo", "d")] {
        let path = format!("/api/v1/namespaces/{namespace}/secrets");
        server.post(&path, json!({"metadata": {"name": name}})).await.ok();
    }
    let remaining = async |query: &str| {
        let path = format!("/api/v1/namespaces/default/secrets?{query}");
        let list = server.get(&path).await.ok();
        let token = list["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        (list["metadata"]["remainingItemCount"].as_u64(), token)
    };
    let (first, token) = remaining("limit=1").await;
    assert_eq!(first, Some(2));
    let (second, token) = remaining(&format!("limit=1&continue={token}")).await;
    assert_eq!(second, Some(1));
    assert_eq!(remaining(&format!("limit=1&continue={token}")).await, (None, String::new()));
    assert_eq!(remaining("limit=1&labelSelector=!x").await.0, None);
    let all = server.get("/api/v1/secrets?limit=1").await.ok();
    assert_eq!(all["metadata"]["remainingItemCount"], 3);
}
