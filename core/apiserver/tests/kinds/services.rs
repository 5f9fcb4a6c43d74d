//! The Service of the server itself.

use std::time::Duration;

use futures::StreamExt;
use http_body_util::BodyExt;
use serde_json::{Value, json};

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

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

fn service(name: &str, spec: serde_json::Value) -> serde_json::Value {
    let mut service =
        json!({"metadata": {"name": name}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}});
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    service
}

#[tokio::test]
async fn the_clusters_own_range_is_ready_and_an_address_belongs_to_its_service() {
    let server = Server::start().await;
    let range = server.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await.ok();
    assert_eq!(range["spec"]["cidrs"], json!(["10.96.0.0/16"]));
    assert_eq!(range["status"]["conditions"][0]["type"], "Ready");
    assert_eq!(range["status"]["conditions"][0]["status"], "True");
    let made = server.post(SERVICES, service("s", json!({}))).await.ok();
    let address = made["spec"]["clusterIP"].as_str().unwrap();
    let noted = server.get(&format!("{ADDRESSES}/{address}")).await.ok();
    assert_eq!(
        noted["spec"]["parentRef"],
        json!({"resource": "services", "namespace": "default", "name": "s"})
    );
    assert_eq!(noted["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], "IPv4");
    server.get(&format!("{ADDRESSES}/10.96.0.1")).await.ok();
}

#[tokio::test]
async fn two_services_that_ask_for_one_address_at_once_do_not_both_get_it() {
    let server = Server::start().await;
    let names: Vec<String> = (0..8).map(|place| format!("s{place}")).collect();
    let asked = names.iter().map(|name| {
        let ports = json!([{"port": 80, "nodePort": 30099}]);
        let spec = json!({"clusterIP": "10.96.3.3", "type": "NodePort", "ports": ports});
        server.post(SERVICES, service(name, spec))
    });
    let answers = futures::future::join_all(asked).await;
    let made: Vec<_> = answers.iter().filter(|answer| answer.0 == 201).collect();
    assert_eq!(made.len(), 1);
    for refused in answers.into_iter().filter(|answer| answer.0 != 201) {
        let message = refused.fails(422);
        assert!(
            message.contains(
                "spec.clusterIPs: Invalid value: [\"10.96.3.3\"]: failed to allocate IP 10.96.3.3: provided IP is already allocated"
            ),
            "{message}"
        );
    }
}

#[tokio::test]
async fn what_a_deleted_service_had_is_free_at_once() {
    let server = Server::start().await;
    let spec =
        json!({"clusterIP": "10.96.3.3", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30099}]});
    for name in ["a", "b", "a"] {
        server.post(SERVICES, service(name, spec.clone())).await.ok();
        let port = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30099}]});
        let message = server.post(SERVICES, service("other", port)).await.fails(422);
        assert!(
            message
                .contains("spec.ports[0].nodePort: Invalid value: 30099: provided port is already allocated"),
            "{message}"
        );
        server.delete(&format!("{SERVICES}/{name}"), json!({})).await.ok();
    }
    let outside = service("o", json!({"clusterIP": "192.0.2.1"}));
    let message = server.post(SERVICES, outside).await.fails(422);
    assert!(message.contains("the provided network does not match the current range"), "{message}");
    let outside = service("o", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}));
    let message = server.post(SERVICES, outside).await.fails(422);
    assert!(message.contains("The range of valid ports is 30000-32767"), "{message}");
}

#[tokio::test]
async fn a_local_load_balancer_gets_a_port_for_its_health_and_a_headless_service_gets_nothing() {
    let server = Server::start().await;
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let made = server.post(SERVICES, service("l", spec)).await.ok();
    let (health, node) = (&made["spec"]["healthCheckNodePort"], &made["spec"]["ports"][0]["nodePort"]);
    assert!(health.as_u64().unwrap() >= 30086 && node.as_u64().unwrap() >= 30086 && health != node, "{made}");
    let made = server.post(SERVICES, service("h", json!({"clusterIP": "None"}))).await.ok();
    assert_eq!(made["spec"]["clusterIPs"], json!(["None"]));
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4"]));
    let spec = json!({"clusterIP": "None", "selector": {}, "ipFamilyPolicy": "RequireDualStack"});
    let made = server.post(SERVICES, service("d", spec)).await.ok();
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let spec = json!({"ipFamilyPolicy": "RequireDualStack"});
    let message = server.post(SERVICES, service("r", spec)).await.fails(422);
    assert!(message.contains("this cluster is not configured for dual-stack services"), "{message}");
}

#[tokio::test]
async fn addresses_that_nobody_has_noted_are_noted_when_the_server_starts() {
    let server = Server::start().await;
    let made = server.post(SERVICES, service("s", json!({}))).await.ok();
    let path = format!("{ADDRESSES}/{}", made["spec"]["clusterIP"].as_str().unwrap());
    server.delete(&path, json!({})).await.ok();
    let server = server.restart().await;
    server.get(&path).await.ok();
}

const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";

/// The state of a range in which something is so, as a watch tells of it; `None` is that it has gone.
async fn until(server: &Server, name: &str, is_so: impl Fn(Option<&Value>) -> bool) -> Option<Value> {
    let path = format!("{RANGES}?watch=true&fieldSelector=metadata.name%3D{name}");
    let request = http::Request::get(path).body(kube::client::Body::empty()).unwrap();
    let mut events = server.api.administrator().send(request).await.unwrap().into_body().into_data_stream();
    // What was gone before the watch began is told by none of its events.
    if server.get(&format!("{RANGES}/{name}")).await.0 == 404 && is_so(None) {
        return None;
    }
    let mut text = Vec::new();
    while let Some(chunk) = events.next().await {
        text.extend_from_slice(&chunk.unwrap());
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).unwrap();
            let state = (event["type"] != "DELETED").then(|| event["object"].clone());
            if is_so(state.as_ref()) {
                return state;
            }
        }
    }
    panic!("the watch of {name} ended");
}

fn ready(range: &Value) -> &Value {
    &range["status"]["conditions"][0]
}

#[tokio::test]
async fn a_range_stays_as_long_as_addresses_are_in_it_alone() {
    let server = Server::start_with(|config| config.service_cidr_grace = Duration::ZERO).await;
    let range = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.50.0.0/24"]}});
    server.post(RANGES, range).await.ok();
    let path = format!("{RANGES}/more");
    let made =
        until(&server, "more", |range| range.is_some_and(|it| ready(it)["status"] == "True")).await.unwrap();
    assert_eq!(made["metadata"]["finalizers"], json!(["networking.k8s.io/service-cidr-finalizer"]));
    assert_eq!(ready(&made)["message"], "Kubernetes Service CIDR is ready");
    let asked = service("s", json!({"clusterIP": "10.50.0.9"}));
    server.post(SERVICES, asked).await.ok();
    server.delete(&path, json!({})).await.ok();
    let held =
        until(&server, "more", |range| range.is_some_and(|it| ready(it)["status"] == "False")).await.unwrap();
    assert_eq!(ready(&held)["reason"], "Terminating");
    let message = server.post(SERVICES, service("t", json!({"clusterIP": "10.50.0.8"}))).await.fails(422);
    assert!(message.contains("the provided network does not match the current range"), "{message}");
    // A larger range takes its addresses over.
    let wider = json!({"metadata": {"name": "wider"}, "spec": {"cidrs": ["10.50.0.0/16"]}});
    server.post(RANGES, wider).await.ok();
    until(&server, "more", |range| range.is_none()).await;
    server.get(&format!("{ADDRESSES}/10.50.0.9")).await.ok();
}

#[tokio::test]
async fn ranges_stay_but_one_of_the_other_family_may_come() {
    let server = Server::start().await;
    let path = format!("{RANGES}/more");
    for (cidrs, fault) in [
        (json!([]), "spec.cidrs: Required value: at least one CIDR required"),
        (
            json!(["10.50.0.0/24", "10.51.0.0/24"]),
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        ),
        (json!(["x"]), "spec.cidrs[0]: Invalid value: \"x\": must be a valid CIDR value"),
    ] {
        let range = json!({"metadata": {"name": "more"}, "spec": {"cidrs": cidrs}});
        let message = server.post(RANGES, range).await.fails(422);
        assert!(message.contains(fault), "{message}");
    }
    let range = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.50.0.0/24"]}});
    server.post(RANGES, range).await.ok();
    let message = server.merge(&path, json!({"spec": {"cidrs": ["10.51.0.0/24"]}})).await.fails(422);
    assert!(
        message.contains("spec.cidrs[0]: Invalid value: \"10.51.0.0/24\": field is immutable"),
        "{message}"
    );
    server.merge(&path, json!({"spec": {"cidrs": ["10.50.0.0/24", "fd00::/112"]}})).await.ok();
    let message = server.merge(&path, json!({"spec": {"cidrs": ["10.50.0.0/24"]}})).await.fails(422);
    assert!(message.contains("field is immutable"), "{message}");
}

#[tokio::test]
async fn a_range_that_was_configured_otherwise_before_stays_and_an_event_says_so() {
    let server = Server::start().await;
    let server = server.restart_with(|config| config.service_cidr = "10.97.0.0/16".parse().unwrap()).await;
    let range = server.get(&format!("{RANGES}/kubernetes")).await.ok();
    assert_eq!(range["spec"]["cidrs"], json!(["10.96.0.0/16"]));
    let events = server.get("/api/v1/namespaces/default/events").await.ok();
    let told: Vec<_> = events["items"].as_array().unwrap().iter().map(|it| &it["message"]).collect();
    let text = "The default ServiceCIDR [10.96.0.0/16] does not match the flag configurations [10.97.0.0/16]";
    assert!(told.iter().any(|it| **it == text), "{told:?}");
}

#[tokio::test]
async fn what_a_cluster_needs_is_made_again_when_it_was_deleted() {
    let server = Server::start().await;
    let gone = async |path: &str| {
        let uid = server.get(path).await.ok()["metadata"]["uid"].clone();
        server.delete(path, json!({})).await.ok();
        for _ in 0..100_000 {
            let found = server.get(path).await;
            if found.0 == 200 && found.1["metadata"]["uid"] != uid {
                return found.1;
            }
            tokio::task::yield_now().await;
        }
        panic!("{path} is not made again");
    };
    let service = gone("/api/v1/namespaces/default/services/kubernetes").await;
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let endpoints = gone("/api/v1/namespaces/default/endpoints/kubernetes").await;
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "127.0.0.1");
    gone("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
}

#[tokio::test]
async fn a_server_starts_although_its_own_service_cannot_be_made() {
    let server = Server::start().await;
    let range = "/apis/networking.k8s.io/v1/servicecidrs/kubernetes";
    let other = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    server.post("/api/v1/namespaces/default/services", other).await.ok();
    server.delete(range, json!({})).await.ok();
    assert!(server.get(range).await.ok()["metadata"]["deletionTimestamp"].is_string());
    let own = "/api/v1/namespaces/default/services/kubernetes";
    server.delete(own, json!({})).await.ok();
    let server = server.restart().await;
    server.get(own).await.fails(404);
    // Who takes the range away for good gets it anew, and what is in it with it.
    server.merge(range, json!({"metadata": {"finalizers": null}})).await.ok();
    for _ in 0..100_000 {
        let found = server.get(range).await;
        if found.0 == 200 && found.1["metadata"]["deletionTimestamp"].is_null() {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(server.get(range).await.ok()["spec"]["cidrs"], json!(["10.96.0.0/16"]));
}
