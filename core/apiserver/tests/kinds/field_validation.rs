//! `fieldValidation` in every format of a write, and the options of requests.

use http::{Method, Request};
use serde_json::{Value, json};

use crate::harness::Server;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Code, warnings and document of a request with a body of any kind.
async fn send(
    server: &Server,
    method: Method,
    path: &str,
    kind: &str,
    body: &str,
) -> (u16, Vec<String>, Value) {
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.body(kube::client::Body::from(body.as_bytes().to_vec())).unwrap();
    let response = server.api.administrator().send(request).await.unwrap();
    let warnings = response.headers().get_all("warning").iter();
    let warnings = warnings.map(|text| text.to_str().unwrap().to_owned()).collect();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect_bytes().await.unwrap();
    (code, warnings, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

const YAML: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  paused: true
  paused: false
  replcas: 2
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec: {containers: [{name: c, image: x, imagee: y}]}
";

#[tokio::test]
async fn unknown_and_duplicate_fields_are_told_or_refused_in_json_and_yaml() {
    let server = Server::start().await;
    let path = |mode: &str| format!("{DEPLOYMENTS}?fieldValidation={mode}");
    let (code, _, status) = send(&server, Method::POST, &path("Strict"), "application/yaml", YAML).await;
    assert_eq!((code, status["reason"].as_str()), (400, Some("BadRequest")));
    assert_eq!(
        status["message"],
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: yaml: unmarshal errors:\n  line 6: key \"paused\" already set in map, unknown field \"spec.replcas\", unknown field \"spec.template.spec.containers[0].imagee\""
    );
    let (code, warnings, made) = send(&server, Method::POST, &path("Warn"), "application/yaml", YAML).await;
    assert_eq!(code, 201);
    assert_eq!(
        warnings,
        [
            r#"299 - "line 6: key \"paused\" already set in map""#,
            r#"299 - "unknown field \"spec.replcas\"""#,
            r#"299 - "unknown field \"spec.template.spec.containers[0].imagee\"""#,
        ]
    );
    assert_eq!((&made["spec"]["paused"], &made["spec"]["replcas"]), (&Value::Null, &Value::Null));
    let json = r#"{"metadata":{"name":"a"},"dta":{"x":1,"x":2},"data":{"a":"1","a":"2"}}"#;
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let (_, _, status) = send(&server, Method::POST, &strict, "application/json", json).await;
    assert_eq!(
        status["message"],
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dta\", duplicate field \"data.a\""
    );
    let ignore = format!("{MAPS}?fieldValidation=Ignore");
    let (code, warnings, _) = send(&server, Method::POST, &ignore, "application/json", json).await;
    assert_eq!((code, warnings.len()), (201, 0));
    let other = server.post(&format!("{MAPS}?fieldValidation=strict"), json!({})).await.fails(422);
    assert_eq!(
        other,
        "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"strict\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
    );
}

#[tokio::test]
async fn unknown_and_duplicate_fields_of_patches_are_told_or_refused() {
    let server = Server::start().await;
    server.post(MAPS, json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await.ok();
    let strict = format!("{MAPS}/a?fieldValidation=Strict");
    let merge = r#"{"data":{"k":"1","k":"2"},"dta":{}}"#;
    let faults = "strict decoding error: duplicate field \"data.k\", unknown field \"dta\"";
    let refused = server.patch(&strict, "application/merge-patch+json", merge).await.fails(422);
    assert!(
        refused.starts_with(" \"\" is invalid: patch: Invalid value: \"{\\\"apiVersion\\\":"),
        "{refused}"
    );
    assert!(refused.ends_with(faults), "{refused}");
    let refused = server.patch(&strict, "application/strategic-merge-patch+json", merge).await.fails(422);
    let shown = "map[data:map[k:2] dta:map[]]";
    assert_eq!(refused, format!(" \"\" is invalid: patch: Invalid value: \"{shown}\": {faults}"));
    let operations = r#"[{"op":"add","op":"replace","path":"/data/k","value":"1","why":""}]"#;
    let refused = server.patch(&strict, "application/json-patch+json", operations).await.fails(422);
    let faults =
        "strict decoding error: json patch duplicate field \"[0].op\", json patch unknown field \"[0].why\"";
    assert!(refused.ends_with(faults), "{refused}");
    let path = format!("{MAPS}/a");
    let kind = "application/merge-patch+json";
    let (code, warnings, _) = send(&server, Method::PATCH, &path, kind, merge).await;
    assert_eq!(code, 200);
    assert_eq!(warnings, [r#"299 - "duplicate field \"data.k\"""#, r#"299 - "unknown field \"dta\"""#]);
    let mistyped = server.merge(&path, json!({"data": {"k": 1}})).await.fails(422);
    assert!(mistyped.contains("json: cannot unmarshal number"), "{mistyped}");
    let twice = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: '1'}\ndata: {b: '1'}\n";
    let apply = "application/apply-patch+yaml";
    let by = format!("{MAPS}/a?fieldManager=me&force=true");
    let refused = server.patch(&format!("{by}&fieldValidation=Strict"), apply, twice).await.fails(400);
    assert_eq!(
        refused,
        "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 5: key \"data\" already set in map"
    );
    let (code, warnings, _) = send(&server, Method::PATCH, &by, apply, twice).await;
    assert_eq!(
        (code, warnings),
        (200, vec![r#"299 - "line 5: key \"data\" already set in map""#.to_owned()])
    );
}

#[tokio::test]
async fn options_of_a_deletion_are_checked_before_anything_goes() {
    let server = Server::start().await;
    server.post(MAPS, json!({"metadata": {"name": "a"}})).await.ok();
    let path = format!("{MAPS}/a");
    let refused = server.delete(&path, json!({"dryRun": ["None"]})).await.fails(422);
    assert_eq!(
        refused,
        "DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"None\"]: supported values: \"All\""
    );
    let refused = server.delete(MAPS, json!({"propagationPolicy": "Slowly"})).await.fails(422);
    assert!(refused.contains("propagationPolicy: Unsupported value: \"Slowly\""), "{refused}");
    server.delete(&path, json!({"kind": "Pod"})).await.fails(400);
    server.delete(&format!("{MAPS}?dryRun=All"), Value::Null).await.fails(400);
    let (code, ..) =
        send(&server, Method::DELETE, &format!("{MAPS}?dryRun=All"), "application/json", "").await;
    assert_eq!(code, 200);
    // What a body says goes before what the path says.
    server.delete(&format!("{path}?dryRun=Some"), json!({"dryRun": ["All"]})).await.ok();
    server.get(&path).await.ok();
    let held = json!({"metadata": {"name": "b", "finalizers": ["e.com/x"]}});
    server.post(MAPS, held).await.ok();
    let answer = server.delete(&format!("{MAPS}/b"), json!({"orphanDependents": false})).await;
    assert_eq!(answer.0, 202);
}

#[tokio::test]
async fn a_method_that_a_path_does_not_have_is_refused_as_such() {
    let server = Server::start().await;
    let text = "the server does not allow this method on the requested resource";
    assert_eq!(server.post(&format!("{MAPS}/a"), json!({})).await.fails(405), text);
    assert_eq!(server.put(MAPS, json!({})).await.fails(405), text);
    let head = send(&server, Method::HEAD, MAPS, "application/json", "").await;
    let options = send(&server, Method::OPTIONS, MAPS, "application/json", "").await;
    assert_eq!((head.0, options.0), (405, 405));
    let refused = server.post(&format!("{MAPS}?dryRun=None"), json!({})).await.fails(422);
    assert!(
        refused.ends_with("dryRun: Unsupported value: [\"None\"]: supported values: \"All\""),
        "{refused}"
    );
}

#[tokio::test]
async fn what_other_readers_could_not_read_is_never_stored() {
    let server = Server::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let made =
        server.post(maps, json!({"metadata": {"name": "a", "labels": {"x": null}}, "data": {"y": null}}));
    let made = made.await.ok();
    assert_eq!((&made["metadata"]["labels"]["x"], &made["data"]["y"]), (&json!(""), &json!("")));
    let patch = json!([{"op": "add", "path": "/metadata/labels/z", "value": null}]);
    let patched = server.json_patch(&format!("{maps}/a"), patch).await.ok();
    assert_eq!(patched["metadata"]["labels"]["z"], "");
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({"metadata": {"name": "l"}, "spec": {"renewTime": "soon"}});
    let told = server.post(leases, lease).await.fails(400);
    assert!(told.contains("parsing time \"soon\" as \"2006-01-02T15:04:05.000000Z07:00\""), "{told}");
    let config = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"renewTime": "soon"}});
    let told = server.apply(&format!("{leases}/l"), "fieldManager=m", config).await.fails(400);
    assert!(told.contains("parsing time \"soon\""), "{told}");
    let pod = |cpu: &str| {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "c", "image": "i", "resources": {"limits": {"cpu": cpu}}}]}})
    };
    let told = server.post("/api/v1/namespaces/default/pods", pod("much")).await.fails(400);
    assert!(
        told.starts_with("Pod in version \"v1\" cannot be handled as a Pod: quantities must match"),
        "{told}"
    );
    let secret = json!({"metadata": {"name": "s"}, "data": {"a": "####"}});
    let told = server.post("/api/v1/namespaces/default/secrets", secret).await.fails(400);
    assert!(told.ends_with("illegal base64 data at input byte 0"), "{told}");
    let secret = json!({"metadata": {"name": "s"}, "data": {"a": "YWJ\nj\n"}});
    assert_eq!(server.post("/api/v1/namespaces/default/secrets", secret).await.ok()["data"]["a"], "YWJj");
}
