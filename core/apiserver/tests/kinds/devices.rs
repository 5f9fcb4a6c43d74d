//! Claims to devices: their expressions, their immutability, and who gets devices that are in use.

use serde_json::{Value, json};

use crate::harness::Server;

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const CLASSES: &str = "/apis/resource.k8s.io/v1/deviceclasses";
const TEMPLATES: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates";

fn spec(expression: &str) -> Value {
    json!({"devices": {"requests": [{"name": "gpu", "exactly": {
        "deviceClassName": "gpus", "selectors": [{"cel": {"expression": expression}}],
    }}]}})
}

fn claim(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn expressions_are_compiled_before_they_are_stored() {
    let server = Server::start().await;
    let good = r#"device.attributes["gpu.example.com"].model == "x" && device.driver == "gpu.example.com""#;
    server.post(CLAIMS, claim("a", spec(good))).await.ok();
    let path = "spec.devices.requests[0].exactly.selectors[0].cel.expression";
    for (source, fault) in [
        ("device.", format!("{path}: Invalid value: \"device.\": compilation failed: ERROR: <input>:1:8: ")),
        (
            "noSuch",
            format!(
                "{path}: Invalid value: \"noSuch\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'noSuch'"
            ),
        ),
        (
            "device.driver",
            format!(
                "{path}: Invalid value: \"device.driver\": must evaluate to bool or the unknown type, not string"
            ),
        ),
    ] {
        let message = server.post(CLAIMS, claim("b", spec(source))).await.fails(422);
        assert!(message.contains(&fault), "{message}\nexpected {fault}");
    }
    let class = |source: &str| json!({"metadata": {"name": "gpus"}, "spec": {"selectors": [{"cel": {"expression": source}}]}});
    let message = server.post(CLASSES, class("1")).await.fails(422);
    assert!(
        message.contains("spec.selectors[0].cel.expression: Invalid value: \"1\": must evaluate to bool"),
        "{message}"
    );
    server.post(CLASSES, class("device.driver == 'x'")).await.ok();
    let template = json!({"metadata": {"name": "t"}, "spec": {"spec": spec("2 + ")}});
    let message = server.post(TEMPLATES, template).await.fails(422);
    assert!(
        message.contains("spec.spec.devices.requests[0].exactly.selectors[0].cel.expression"),
        "{message}"
    );
}

#[tokio::test]
async fn a_claim_stays_what_it_is_and_is_allocated_once() {
    let server = Server::start().await;
    server.post(CLAIMS, claim("a", spec("true"))).await.ok();
    let path = format!("{CLAIMS}/a");
    let message = server.merge(&path, json!({"spec": {"devices": {"requests": []}}})).await.fails(422);
    assert!(
        message.contains("spec: Invalid value: ") && message.ends_with("field is immutable"),
        "{message}"
    );
    let device = json!({"request": "gpu", "driver": "gpu.example.com", "pool": "p", "device": "d"});
    let allocation = json!({"status": {"allocation": {"devices": {"results": [device]}}}});
    let status = format!("{path}/status");
    server.merge(&status, allocation).await.ok();
    let consumer = json!({"resource": "pods", "name": "p", "uid": "1"});
    server.merge(&status, json!({"status": {"reservedFor": [consumer]}})).await.ok();
    let told = json!({"driver": "gpu.example.com", "pool": "p", "device": "d", "data": {"a": 1}});
    server.merge(&status, json!({"status": {"devices": [told]}})).await.ok();
    let moved = json!({"status": {"allocation": {"devices": {"results": []}}}});
    let message = server.merge(&status, moved).await.fails(422);
    assert!(message.contains("status.allocation: Invalid value: "), "{message}");
    let message = server.merge(&status, json!({"status": {"allocation": null}})).await.fails(422);
    assert!(
        message.contains("status.reservedFor: Forbidden: may not be specified when `allocated` is not set"),
        "{message}"
    );
    let freed = json!({"status": {"allocation": null, "reservedFor": null}});
    let left = server.merge(&status, freed).await.ok();
    assert_eq!(left["status"].get("devices"), None, "{left}");
}

#[tokio::test]
async fn devices_in_use_are_for_administrators_namespaces() {
    let server = Server::start().await;
    let mut asked = claim("a", spec("true"));
    asked["spec"]["devices"]["requests"][0]["exactly"]["adminAccess"] = true.into();
    let message = server.post(CLAIMS, asked.clone()).await.fails(422);
    assert!(
        message.ends_with("spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace"),
        "{message}"
    );
    let label = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}});
    server.merge("/api/v1/namespaces/default", label).await.ok();
    server.post(CLAIMS, asked).await.ok();
}
