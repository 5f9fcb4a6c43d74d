//! Server-side apply as kubectl does it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use keelson_e2e::Server;
use serde_json::Value;

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: "example/web:1", ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: "1", b: "2"}
"#;

const APPLY: [&str; 4] = ["apply", "--server-side", "-f", "-"];

fn managers(server: &Server, kind: &str, name: &str) -> Vec<String> {
    let text = server.kubectl(&["get", kind, name, "-o", "json", "--show-managed-fields"]).unwrap();
    let object: Value = serde_json::from_str(&text).unwrap();
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    let name = |entry: &Value| {
        format!("{} {}", entry["manager"].as_str().unwrap(), entry["operation"].as_str().unwrap())
    };
    entries.iter().map(name).collect()
}

#[test]
fn kubectl_applies_on_the_server_and_sees_what_would_change() {
    let server = Server::start().unwrap();
    let applied = "deployment.apps/web serverside-applied\nconfigmap/settings serverside-applied\n";
    assert_eq!(server.kubectl_with(&APPLY, WEB).unwrap(), applied);
    let version = ["get", "deploy", "web", "-o", "jsonpath={.metadata.resourceVersion}"];
    let before = server.kubectl(&version).unwrap();
    assert_eq!(server.kubectl_with(&APPLY, WEB).unwrap(), applied);
    assert_eq!(server.kubectl(&version).unwrap(), before);
    let newer = WEB.replace("b: \"2\"", "c: \"3\"");
    let diff = server.kubectl_with(&["diff", "--server-side", "-f", "-"], &newer).unwrap_err().to_string();
    let changes: Vec<&str> =
        diff.lines().filter(|line| line.starts_with("-  ") || line.starts_with("+  ")).collect();
    assert_eq!(changes, ["-  b: \"2\"", "+  c: \"3\""], "{diff}");
    server.kubectl_with(&APPLY, &newer).unwrap();
    let data = server.kubectl(&["get", "cm", "settings", "-o", "jsonpath={.data}"]).unwrap();
    assert_eq!(data, r#"{"a":"1","c":"3"}"#);
    assert_eq!(managers(&server, "cm", "settings"), ["kubectl Apply"]);
}

#[test]
fn kubectl_names_the_manager_of_a_field_in_conflict_and_forces_it() {
    let server = Server::start().unwrap();
    server.kubectl_with(&["apply", "-f", "-"], WEB).unwrap();
    let other = ["apply", "--server-side", "--field-manager=other", "-f", "-"];
    let scaled = WEB.replace("replicas: 3", "replicas: 4");
    let refused = server.kubectl_with(&other, &scaled).unwrap_err().to_string();
    let text = "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas";
    assert!(refused.contains(text), "{refused}");
    let forced = [&other[..2], &["--force-conflicts"], &other[2..]].concat();
    server.kubectl_with(&forced, &scaled).unwrap();
    let replicas = server.kubectl(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]).unwrap();
    assert_eq!(replicas, "4");
    server.kubectl(&["scale", "deploy", "web", "--replicas=7"]).unwrap();
    let refused = server.kubectl_with(&other, &scaled).unwrap_err().to_string();
    assert!(
        refused.contains("\"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas"),
        "{refused}"
    );
}

#[test]
fn kubectl_moves_from_client_side_apply_to_the_server() {
    let server = Server::start().unwrap();
    server.kubectl_with(&["apply", "-f", "-"], WEB).unwrap();
    assert_eq!(managers(&server, "cm", "settings"), ["kubectl-client-side-apply Update"]);
    // What the client had set is taken over, even where the value is a new one.
    let newer = WEB.replace("a: \"1\", b: \"2\"", "a: \"9\"").replace("web:1", "web:2");
    server.kubectl_with(&APPLY, &newer).unwrap();
    let data = server.kubectl(&["get", "cm", "settings", "-o", "jsonpath={.data}"]).unwrap();
    assert_eq!(data, r#"{"a":"9"}"#);
    let found = managers(&server, "cm", "settings");
    assert!(found.contains(&"kubectl Apply".to_owned()), "{found:?}");
    assert!(!found.iter().any(|manager| manager.starts_with("kubectl-client-side-apply")), "{found:?}");
    // And back again.
    let back = server.kubectl_with(&["apply", "-f", "-"], WEB).unwrap();
    assert_eq!(back, "deployment.apps/web configured\nconfigmap/settings configured\n");
}

#[test]
fn kubectl_is_told_of_a_field_that_does_not_exist() {
    let server = Server::start().unwrap();
    let wrong = WEB.replace("replicas: 3", "replica: 3");
    let refused = server.kubectl_with(&APPLY, &wrong).unwrap_err().to_string();
    let text = "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.replica: field not declared in schema";
    assert!(refused.contains(text), "{refused}");
    let dry = ["apply", "--server-side", "--dry-run=server", "-f", "-"];
    let output = server.kubectl_with(&dry, WEB).unwrap();
    assert!(output.contains("deployment.apps/web serverside-applied (server dry run)"), "{output}");
    server.kubectl_fails(&["get", "deploy", "web"]).unwrap();
}
