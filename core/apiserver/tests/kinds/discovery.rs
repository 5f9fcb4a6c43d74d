//! What the server tells of what it serves, and of itself.

use http::{Method, Request};
use serde_json::{Value, json};

use crate::harness::Server;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

async fn table(server: &Server, path: &str) -> Value {
    let request = Request::builder().method(Method::GET).uri(path).header("accept", TABLE);
    let request = request.body(kube::client::Body::empty()).unwrap();
    let response = server.api.administrator().send(request).await.unwrap();
    let bytes = response.into_body().collect_bytes().await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn cells(table: &Value) -> Vec<&Value> {
    table["rows"].as_array().unwrap().iter().map(|row| &row["cells"]).collect()
}

#[tokio::test]
async fn a_resource_tells_by_a_hash_in_which_version_it_is_stored() {
    let server = Server::start().await;
    let core = server.get("/api/v1").await.ok();
    let of = |name: &str| core["resources"].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap();
    assert_eq!(of("pods")["storageVersionHash"], "xPOwRZ+Yhw8=");
    assert_eq!(of("configmaps")["storageVersionHash"], "qFsyl6wFWjQ=");
    assert!(of("pods/status").get("storageVersionHash").is_none());
    assert!(of("bindings").get("storageVersionHash").is_none());
    let apps = server.get("/apis/apps/v1").await.ok();
    let deployments = apps["resources"].as_array().unwrap().iter().find(|it| it["name"] == "deployments");
    assert_eq!(deployments.unwrap()["storageVersionHash"], "8aSe+NMegvE=");
}

#[tokio::test]
async fn the_root_tells_where_everything_is() {
    let server = Server::start().await;
    let versions = server.get("/api").await.ok();
    let address = &versions["serverAddressByClientCIDRs"][0];
    assert_eq!(address["clientCIDR"], "0.0.0.0/0");
    assert_eq!(address["serverAddress"], server.api.address().to_string());
    let root = server.get("/").await.ok();
    let paths: Vec<&str> = root["paths"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for path in ["/api/v1", "/apis/apps", "/apis/apps/v1", "/apis/autoscaling/v1", "/openapi/v3", "/version"]
    {
        assert!(paths.contains(&path), "{path} of {paths:?}");
    }
}

#[tokio::test]
async fn components_tell_how_they_are() {
    let server = Server::start().await;
    let running = server.api.components().begin("scheduler");
    let list = server.get("/api/v1/componentstatuses").await.ok();
    assert_eq!(list["kind"], "ComponentStatusList");
    let names: Vec<&Value> =
        list["items"].as_array().unwrap().iter().map(|it| &it["metadata"]["name"]).collect();
    assert_eq!(names, ["scheduler", "etcd-0"]);
    let store = server.get("/api/v1/componentstatuses/etcd-0").await.ok();
    assert_eq!(store["conditions"], json!([{"type": "Healthy", "status": "True", "message": "ok"}]));
    let shown = table(&server, "/api/v1/componentstatuses").await;
    assert_eq!(cells(&shown)[0], &json!(["scheduler", "Healthy", "ok", ""]));
    drop(running);
    let ended = server.get("/api/v1/componentstatuses/scheduler").await.ok();
    assert_eq!(ended["conditions"][0]["status"], "False");
    let message = server.get("/api/v1/componentstatuses/none").await.fails(500);
    assert_eq!(message, "component not found: none");
    server.post("/api/v1/componentstatuses", json!({"metadata": {"name": "a"}})).await.fails(405);
    let one = server.get("/api/v1/componentstatuses?fieldSelector=metadata.name%3Detcd-0").await.ok();
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn tables_tell_of_scales_of_pods_that_ended_and_of_precedence() {
    let server = Server::start().await;
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server
        .post(
            "/apis/apps/v1/namespaces/default/deployments",
            json!({"metadata": {"name": "d"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": template}}),
        )
        .await
        .ok();
    let scale = table(&server, "/apis/apps/v1/namespaces/default/deployments/d/scale").await;
    assert_eq!(scale["columnDefinitions"][1]["name"], "Desired");
    assert_eq!(cells(&scale)[0].as_array().unwrap()[..3], [json!("d"), json!(3), json!(0)]);
    server
        .post("/api/v1/namespaces/default/pods", json!({"metadata": {"name": "p"}, "spec": template["spec"]}))
        .await
        .ok();
    server
        .merge("/api/v1/namespaces/default/pods/p/status", json!({"status": {"phase": "Failed"}}))
        .await
        .ok();
    let pods = table(&server, "/api/v1/namespaces/default/pods").await;
    assert_eq!(
        pods["rows"][0]["conditions"],
        json!([
        {"type": "Completed", "status": "True", "reason": "Failed", "message": "The pod failed."}])
    );
    let schemas = table(&server, "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas").await;
    let precedence: Vec<i64> = cells(&schemas).iter().map(|cells| cells[2].as_i64().unwrap()).collect();
    assert!(precedence.len() > 5 && precedence.is_sorted(), "{precedence:?}");
}
