//! The Service of the server itself.

use serde_json::json;

use crate::harness::Server;

const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";

#[tokio::test]
async fn the_service_kubernetes_leads_to_where_the_server_listens_after_each_start() {
    let server = Server::start().await;
    let slice = server.get(SLICE).await.ok();
    assert_eq!(slice["ports"][0]["port"], server.api.address().port());
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["127.0.0.1"]));
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "kubernetes");
    let uid = slice["metadata"]["uid"].clone();
    let server = server.restart().await;
    let port = server.api.address().port();
    let slice = server.get(SLICE).await.ok();
    assert_eq!((&slice["ports"][0]["port"], &slice["metadata"]["uid"]), (&json!(port), &uid));
    let endpoints = server.get("/api/v1/namespaces/default/endpoints/kubernetes").await.ok();
    assert_eq!(endpoints["subsets"][0]["ports"][0]["port"], port);
    let service = server.get("/api/v1/namespaces/default/services/kubernetes").await.ok();
    assert_eq!(service["spec"]["ports"][0]["targetPort"], port);
}

#[tokio::test]
async fn a_service_keeps_its_address_and_gives_its_node_port_back() {
    let server = Server::start().await;
    let services = "/api/v1/namespaces/default/services";
    let body = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80}]}});
    let made = server.post(services, body).await.ok();
    let (address, port) = (made["spec"]["clusterIP"].clone(), made["spec"]["ports"][0]["nodePort"].clone());
    assert!(port.as_u64().unwrap() >= 30000);
    let path = format!("{services}/s");
    let moved =
        server.merge(&path, json!({"spec": {"clusterIP": "10.96.77.7", "clusterIPs": ["10.96.77.7"]}})).await;
    let message = moved.fails(422);
    assert!(message.contains("may not change once set"), "{message}");
    // A client that sends only what it knows takes nothing away.
    let known = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 81}]}});
    let put = server.put(&path, known).await.ok();
    assert_eq!((&put["spec"]["clusterIP"], &put["spec"]["ports"][0]["nodePort"]), (&address, &port));
    let inside = server.merge(&path, json!({"spec": {"type": "ClusterIP"}})).await.ok();
    assert_eq!(inside["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(inside["spec"].get("externalTrafficPolicy"), None);
    let gone = server
        .merge(&path, json!({"spec": {"type": "ExternalName", "externalName": "example.com"}}))
        .await
        .ok();
    assert_eq!(gone["spec"].get("clusterIP"), None, "{gone}");
    let back = server.merge(&path, json!({"spec": {"type": "ClusterIP", "externalName": null}})).await.ok();
    assert!(back["spec"]["clusterIP"].as_str().unwrap().starts_with("10.96."));
}

#[tokio::test]
async fn a_service_with_two_ports_names_them() {
    let server = Server::start().await;
    let body =
        json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}, {"name": "b", "port": 80}]}});
    let message = server.post("/api/v1/namespaces/default/services", body).await.fails(422);
    assert!(message.contains("spec.ports[0].name: Required value"), "{message}");
    assert!(message.contains("spec.ports[1]: Duplicate value"), "{message}");
}
