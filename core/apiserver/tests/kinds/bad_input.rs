//! Documents and patches that are not what they should be: refused, with nothing changed.

use http::{Method, Request};
use serde_json::{Value, json};

use crate::harness::{Answer, Server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn send(server: &Server, method: Method, path: &str, kind: &str, body: Vec<u8>) -> Answer {
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.body(kube::client::Body::from(body)).unwrap();
    let response = server.api.administrator().send(request).await.unwrap();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect_bytes().await.unwrap();
    Answer(code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

/// Nine levels of nine aliases each: a few hundred bytes that stand for hundreds of millions.
fn bomb() -> String {
    let mut text =
        "kind: ConfigMap\nmetadata: {name: bomb}\na0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n"
            .to_owned();
    for level in 1..9 {
        let items = vec![format!("*a{}", level - 1); 9].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    text
}

#[tokio::test]
async fn documents_that_are_cut_too_deep_or_bombs_are_refused() {
    let server = Server::start().await;
    let deep =
        format!("{{\"metadata\":{{\"name\":\"a\"}},\"data\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    let deeper = format!("{}{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    let cases: [(&str, Vec<u8>); 8] = [
        ("application/json", b"{\"metadata\":{\"name\":\"a\"".to_vec()),
        ("application/json", b"[1,2]".to_vec()),
        ("application/json", b"{} {}".to_vec()),
        ("application/json", deep.into_bytes()),
        ("application/json", deeper.into_bytes()),
        ("application/yaml", bomb().into_bytes()),
        ("application/yaml", b"a: [".to_vec()),
        ("application/vnd.kubernetes.protobuf", b"k8s\0\x0a\xff\xff".to_vec()),
    ];
    for (kind, body) in cases {
        let start = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        let answer = send(&server, Method::POST, MAPS, kind, body).await;
        assert_eq!((answer.0, &answer.1["kind"]), (400, &json!("Status")), "{start}: {}", answer.1);
    }
    let large = send(&server, Method::POST, MAPS, "application/json", vec![b' '; (3 << 20) + 1]).await;
    large.fails(413);
    let applied = send(
        &server,
        Method::PATCH,
        &format!("{MAPS}/bomb?fieldManager=m"),
        "application/apply-patch+yaml",
        bomb().into_bytes(),
    )
    .await;
    applied.fails(400);
    let list = server.get(&format!("{MAPS}?fieldSelector=metadata.name%21%3Dkube-root-ca.crt")).await.ok();
    assert_eq!(list["items"], json!([]));
}

#[tokio::test]
async fn patches_that_explode_change_nothing() {
    let server = Server::start().await;
    server.post(MAPS, json!({"metadata": {"name": "a"}, "data": {"k": "x".repeat(10_000)}})).await.ok();
    let path = format!("{MAPS}/a");
    let before = server.get(&path).await.ok();
    let copies: Vec<Value> =
        (0..400).map(|n| json!({"op": "copy", "from": "/data/k", "path": format!("/data/k{n}")})).collect();
    let refusal = server.json_patch(&path, copies.into()).await.fails(413);
    assert!(
        refusal.starts_with("Unable to complete the copy, the accumulated size increase of copy is"),
        "{refusal}"
    );
    let mut nest = "/data".to_owned();
    let mut doubling = Vec::new();
    for _ in 0..10 {
        doubling.push(json!({"op": "copy", "from": "/data", "path": format!("{nest}/n")}));
        nest = format!("{nest}/n");
    }
    assert!(server.json_patch(&path, doubling.into()).await.0 >= 400);
    let many: Vec<Value> =
        (0..10_001).map(|_| json!({"op": "test", "path": "/kind", "value": "ConfigMap"})).collect();
    assert_eq!(
        server.json_patch(&path, many.into()).await.fails(413),
        "The allowed maximum operations in a JSON patch is 10000, got 10001"
    );
    let deep = format!("{{\"data\":{}1{}}}", "{\"a\":".repeat(120), "}".repeat(120));
    for kind in ["application/merge-patch+json", "application/strategic-merge-patch+json"] {
        assert_eq!(server.patch(&path, kind, &deep).await.0, 400);
    }
    assert_eq!(server.get(&path).await.ok(), before);
}
