//! Watches: who sees what, and when they end.

use futures::StreamExt;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::harness::Server;

const PODS: &str = "/api/v1/namespaces/default/pods";

/// All events of a watch that ends by itself, each as `TYPE NAME`.
async fn events(server: &Server, path: &str) -> Vec<String> {
    let request = Request::get(path).body(kube::client::Body::empty()).unwrap();
    let response = server.api.administrator().send(request).await.unwrap();
    let mut text = Vec::new();
    let mut stream = response.into_body().into_data_stream();
    while let Some(chunk) = stream.next().await {
        text.extend_from_slice(&chunk.unwrap());
    }
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let event = |line: &[u8]| -> Value { serde_json::from_slice(line).unwrap() };
    lines
        .map(|line| {
            let event = event(line);
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            format!("{} {}", text(&event["type"]), text(&event["object"]["metadata"]["name"]))
        })
        .collect()
}

#[tokio::test]
async fn a_nodes_watch_sees_its_pods_come_and_ends_in_time_with_a_bookmark() {
    let server = Server::start().await;
    let from = server.get(PODS).await.ok()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let path = format!(
        "/api/v1/pods?watch=true&resourceVersion={from}&timeoutSeconds=1&allowWatchBookmarks=true&fieldSelector=spec.nodeName%3Dn1"
    );
    let work = async {
        for name in ["a", "b"] {
            let pod =
                json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
            server.post(PODS, pod).await.ok();
        }
        let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}});
        server.post(&format!("{PODS}/a/binding"), binding).await.ok();
        let binding = json!({"metadata": {"name": "b"}, "target": {"kind": "Node", "name": "n2"}});
        server.post(&format!("{PODS}/b/binding"), binding).await.ok();
    };
    let (seen, ()) = tokio::join!(events(&server, &path), work);
    assert_eq!(seen, ["ADDED a", "BOOKMARK -"]);
}
