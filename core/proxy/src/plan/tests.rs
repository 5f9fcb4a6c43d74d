use serde_json::{Value, json};

use super::*;
use crate::front::Protocol;

fn node() -> Node {
    Node {
        cluster_id: "0badcafe".to_owned(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        pods: vec!["10.42.0.0/16".parse().unwrap()],
        services: "10.96.0.0/16".parse().unwrap(),
    }
}

fn planned(spec: Value, endpoints: Value) -> Vec<(Front, Target)> {
    let service = json!({"metadata": {"name": "web", "namespace": "a"}, "spec": spec});
    let (service, refused) =
        Service::read(&serde_json::from_value(service).unwrap()).expect("it has an address");
    assert!(refused.is_empty());
    let slice = json!({
        "metadata": {"name": "web-1", "namespace": "a", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "other", "port": 1, "protocol": "TCP"}],
        "endpoints": endpoints,
    });
    let (_, slice) =
        Slice::read(&serde_json::from_value(slice).unwrap(), "here").expect("it belongs to a Service");
    plan(&service, [slice].iter(), &node())
}

fn service(more: Value) -> Value {
    let mut spec = json!({
        "clusterIP": "10.96.0.7", "type": "ClusterIP",
        "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP", "nodePort": 30080}],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

fn endpoint(last: u8, node: &str, conditions: Value) -> Value {
    json!({"addresses": [format!("10.42.0.{last}")], "nodeName": node, "conditions": conditions})
}

fn addresses(target: &Target) -> Vec<u8> {
    target.endpoints.iter().map(|one| one.address.octets()[3]).collect()
}

#[test]
fn a_front_leads_to_the_ready_endpoints_at_the_port_of_its_name() {
    let endpoints = json!([
        endpoint(3, "here", json!({"ready": true})),
        endpoint(2, "there", json!({})),
        endpoint(4, "there", json!({"ready": false})),
        endpoint(5, "there", json!({"ready": false, "serving": true, "terminating": true})),
        endpoint(3, "here", json!({"ready": true})),
    ]);
    let planned = planned(service(json!({})), endpoints);
    let front = Front { address: "10.96.0.7".parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
    let at = |last: u8, local| Endpoint { address: [10, 42, 0, last].into(), port: 8080, local };
    let target = Target {
        action: Action::Balance { endpoints: 2, affinity: None },
        masquerade: Masquerade::ByRange,
        endpoints: vec![at(2, false), at(3, true)],
    };
    assert_eq!(planned, [(front, target)]);
}

#[test]
fn those_that_end_serve_when_nobody_else_does() {
    let ending = json!({"ready": false, "serving": true, "terminating": true});
    let endpoints = json!([endpoint(2, "here", ending), endpoint(3, "here", json!({"ready": false}))]);
    let planned = planned(service(json!({})), endpoints);
    assert_eq!(addresses(&planned[0].1), [2]);
}

#[test]
fn a_service_without_endpoints_is_refused_and_one_without_local_ones_drops_what_has_to_stay_here() {
    let none = planned(service(json!({})), json!([]));
    assert_eq!(none[0].1.action, Action::Reject);
    let local = json!({"internalTrafficPolicy": "Local"});
    let elsewhere = planned(service(local.clone()), json!([endpoint(2, "there", json!({}))]));
    assert_eq!(elsewhere[0].1.action, Action::Drop);
    let none = planned(service(local.clone()), json!([]));
    assert_eq!(none[0].1.action, Action::Reject);
    let both =
        planned(service(local), json!([endpoint(2, "there", json!({})), endpoint(3, "here", json!({}))]));
    assert_eq!(addresses(&both[0].1), [3]);
}

#[test]
fn node_ports_and_external_addresses_are_fronts_too_and_translate_everybody() {
    let spec = json!({"type": "NodePort", "externalIPs": ["198.51.100.1"], "sessionAffinity": "ClientIP"});
    let planned = planned(service(spec), json!([endpoint(2, "there", json!({}))]));
    let fronts: Vec<_> = planned
        .iter()
        .map(|(front, target)| {
            assert_eq!(target.action, Action::Balance { endpoints: 1, affinity: Some(Affinity(10800)) });
            (front.address.to_string(), front.port, target.masquerade)
        })
        .collect();
    assert_eq!(
        fronts,
        [
            ("10.96.0.7".to_owned(), 80, Masquerade::ByRange),
            ("198.51.100.1".to_owned(), 80, Masquerade::Always),
            ("192.0.2.1".to_owned(), 30080, Masquerade::Always),
        ]
    );
}

#[test]
fn with_a_local_external_policy_outsiders_stay_on_the_node_and_others_need_not() {
    let spec = json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
    let endpoints = json!([endpoint(2, "there", json!({})), endpoint(3, "here", json!({}))]);
    let planned = planned(service(spec), endpoints);
    assert_eq!(planned[0].1.action, Action::Balance { endpoints: 2, affinity: None });
    let (_, target) = &planned[1];
    assert_eq!(target.action, Action::Split { local: 1, all: 2, affinity: None });
    assert_eq!(addresses(target), [3, 2, 3]);
    assert_eq!(target.masquerade, Masquerade::Node);
}

#[test]
fn headless_and_external_name_services_have_no_fronts() {
    let read =
        |spec: Value| Service::read(&serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap());
    assert!(read(json!({"clusterIP": "None"})).is_none());
    assert!(read(json!({"type": "ExternalName", "externalName": "example.org"})).is_none());
    assert!(read(json!({"clusterIP": ""})).is_none());
}
