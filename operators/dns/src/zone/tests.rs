use hickory_proto::rr::{Record, RecordType};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde_json::{Value, json};

use super::*;

/// A domain `cluster.local` with namespaces `default` and `other`.
pub(crate) fn empty() -> Zone {
    let domain = Domain {
        origin: Name::from_ascii("cluster.local.").unwrap(),
        server: "10.96.0.10".parse().unwrap(),
        ranges: vec!["10.96.0.0/16".parse().unwrap(), "10.42.0.0/16".parse().unwrap()],
    };
    let mut zone = Zone::new(domain, 1);
    zone.set_namespace("default", true);
    zone.set_namespace("other", true);
    zone
}

pub(crate) fn add_service(zone: &mut Zone, name: &str, spec: Value) {
    let object = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
    let object: core::Service = serde_json::from_value(object).unwrap();
    zone.set_service(&ObjectKey::new("default", name), read::Service::read(&object).map(Arc::new));
}

fn slice(service: &str, endpoints: &[Value]) -> Slice {
    let object = json!({
        "metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}, {"name": "", "port": 81}],
        "endpoints": endpoints,
    });
    let object: discovery::EndpointSlice = serde_json::from_value(object).unwrap();
    Slice::read(&object).unwrap()
}

pub(crate) fn add_slice(zone: &mut Zone, name: &str, service: &str, endpoints: &[Value]) {
    let new = Arc::new(slice(service, endpoints));
    zone.set_slice(&ObjectKey::new("default", name), None, Some(new));
}

fn ports() -> Value {
    json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}])
}

fn filled() -> Zone {
    let mut zone = empty();
    add_service(
        &mut zone,
        "web",
        json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "ports": ports()}),
    );
    add_service(&mut zone, "db", json!({"clusterIP": "None", "ports": ports()}));
    add_slice(
        &mut zone,
        "db-1",
        "db",
        &[
            json!({"addresses": ["10.42.0.5"], "hostname": "db-0"}),
            json!({"addresses": ["10.42.0.6"], "conditions": {"ready": true}}),
            json!({"addresses": ["10.42.0.7"], "conditions": {"ready": false}, "hostname": "db-2"}),
        ],
    );
    add_service(&mut zone, "nobody", json!({"clusterIP": "None", "ports": ports()}));
    add_service(&mut zone, "away", json!({"type": "ExternalName", "externalName": "example.com"}));
    zone
}

/// Records without their owners and times, or why there is none.
fn ask(zone: &Zone, name: &str, wanted: RecordType) -> Vec<String> {
    match zone.look_up(&Name::from_ascii(name).unwrap(), wanted) {
        Lookup::Elsewhere => vec!["elsewhere".to_owned()],
        Lookup::NoName => vec!["no name".to_owned()],
        Lookup::NoData => vec!["no data".to_owned()],
        Lookup::Found { answers, .. } => answers.iter().map(|record| record.data.to_string()).collect(),
        Lookup::Alias(record, _) => vec![record.data.to_string()],
    }
}

#[test]
fn a_service_has_its_cluster_ips_by_family_and_whatever_the_case_of_its_name() {
    let zone = filled();
    assert_eq!(ask(&zone, "web.default.svc.cluster.local.", RecordType::A), ["10.96.0.7"]);
    assert_eq!(ask(&zone, "WEB.default.SVC.Cluster.local.", RecordType::AAAA), ["fd00::7"]);
    assert_eq!(ask(&zone, "web.default.svc.cluster.local.", RecordType::TXT), ["no data"]);
    assert_eq!(ask(&zone, "web.other.svc.cluster.local.", RecordType::A), ["no name"]);
    assert_eq!(ask(&zone, "db-0.web.default.svc.cluster.local.", RecordType::A), ["no name"]);
    assert_eq!(ask(&zone, "away.default.svc.cluster.local.", RecordType::A), ["example.com."]);
}

#[test]
fn a_headless_service_has_its_ready_endpoints_together_and_by_name() {
    let zone = filled();
    assert_eq!(ask(&zone, "db.default.svc.cluster.local.", RecordType::A), ["10.42.0.5", "10.42.0.6"]);
    assert_eq!(ask(&zone, "db.default.svc.cluster.local.", RecordType::AAAA), ["no data"]);
    assert_eq!(ask(&zone, "db-0.db.default.svc.cluster.local.", RecordType::A), ["10.42.0.5"]);
    assert_eq!(ask(&zone, "10-42-0-6.db.default.svc.cluster.local.", RecordType::A), ["10.42.0.6"]);
    assert_eq!(ask(&zone, "db-2.db.default.svc.cluster.local.", RecordType::A), ["no name"]);
    assert_eq!(ask(&zone, "nobody.default.svc.cluster.local.", RecordType::A), ["no name"]);
}

#[test]
fn ports_have_names_of_their_own() {
    let zone = filled();
    let http = |service: &str| format!("_http._tcp.{service}.default.svc.cluster.local.");
    assert_eq!(ask(&zone, &http("web"), RecordType::SRV), ["0 100 80 web.default.svc.cluster.local."]);
    assert_eq!(ask(&zone, &http("web"), RecordType::A), ["no data"]);
    assert_eq!(
        ask(&zone, &http("db"), RecordType::SRV),
        ["0 50 8080 10-42-0-6.db.default.svc.cluster.local.", "0 50 8080 db-0.db.default.svc.cluster.local."]
    );
    let name = Name::from_ascii(http("db")).unwrap();
    let Lookup::Found { additionals, .. } = zone.look_up(&name, RecordType::SRV) else { panic!() };
    let addresses: Vec<String> = additionals.iter().map(Record::to_string).collect();
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    for missing in ["_http._udp.web", "_smtp._tcp.web", "http._tcp.web", "_http._tcp.nobody", "_sctp.web"] {
        let name = format!("{missing}.default.svc.cluster.local.");
        assert_eq!(ask(&zone, &name, RecordType::SRV), ["no name"], "{missing}");
    }
    assert_eq!(ask(&zone, "_tcp.web.default.svc.cluster.local.", RecordType::SRV), ["no data"]);
}

#[test]
fn addresses_have_names() {
    let zone = filled();
    let ptr = |name: &str| ask(&zone, name, RecordType::PTR);
    assert_eq!(ptr("7.0.96.10.in-addr.arpa."), ["web.default.svc.cluster.local."]);
    assert_eq!(ptr("5.0.42.10.in-addr.arpa."), ["db-0.db.default.svc.cluster.local."]);
    let fd00_7 = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
    assert_eq!(ptr(fd00_7), ["web.default.svc.cluster.local."]);
    assert_eq!(ask(&zone, "7.0.96.10.in-addr.arpa.", RecordType::A), ["no data"]);
    assert_eq!(ptr("99.0.96.10.in-addr.arpa."), ["no name"]);
    assert_eq!(ptr("1.2.0.192.in-addr.arpa."), ["elsewhere"]);
    assert_eq!(ptr("96.10.in-addr.arpa."), ["elsewhere"]);
}

#[test]
fn pods_namespaces_and_the_zone_itself_have_names() {
    let zone = filled();
    assert_eq!(ask(&zone, "10-42-0-9.default.pod.cluster.local.", RecordType::A), ["10.42.0.9"]);
    assert_eq!(ask(&zone, "fd00--9.default.pod.cluster.local.", RecordType::AAAA), ["fd00::9"]);
    assert_eq!(ask(&zone, "10-42-0-9.missing.pod.cluster.local.", RecordType::A), ["no name"]);
    assert_eq!(ask(&zone, "web.default.pod.cluster.local.", RecordType::A), ["no name"]);
    for there in ["default.svc", "default.pod", "svc", "pod", "dns"] {
        assert_eq!(ask(&zone, &format!("{there}.cluster.local."), RecordType::A), ["no data"], "{there}");
    }
    assert_eq!(ask(&zone, "missing.svc.cluster.local.", RecordType::A), ["no name"]);
    assert_eq!(ask(&zone, "dns-version.cluster.local.", RecordType::TXT), ["1.1.0"]);
    assert_eq!(ask(&zone, "cluster.local.", RecordType::NS), ["ns.dns.cluster.local."]);
    assert_eq!(ask(&zone, "ns.dns.cluster.local.", RecordType::A), ["10.96.0.10"]);
    assert_eq!(ask(&zone, "cluster.local.", RecordType::SOA).len(), 1);
    assert_eq!(ask(&zone, "cluster.local.", RecordType::A), ["no data"]);
    assert_eq!(ask(&zone, "notcluster.local.", RecordType::A), ["elsewhere"]);
    assert_eq!(ask(&zone, "example.com.", RecordType::A), ["elsewhere"]);
}

#[test]
fn what_is_gone_leaves_no_name_behind() {
    let mut zone = filled();
    let old = slice("db", &[json!({"addresses": ["10.42.0.5"]}), json!({"addresses": ["10.42.0.6"]})]);
    let name = ObjectKey::new("default", "db-1");
    let new = Arc::new(slice("db", &[json!({"addresses": ["10.42.0.8"], "hostname": "db-0"})]));
    zone.set_slice(&name, Some(&old), Some(Arc::clone(&new)));
    assert_eq!(ask(&zone, "db.default.svc.cluster.local.", RecordType::A), ["10.42.0.8"]);
    assert_eq!(ask(&zone, "5.0.42.10.in-addr.arpa.", RecordType::PTR), ["no name"]);
    zone.set_slice(&name, Some(&new), None);
    assert_eq!(ask(&zone, "db.default.svc.cluster.local.", RecordType::A), ["no name"]);
    for service in ["web", "db", "nobody", "away"] {
        zone.set_service(&ObjectKey::new("default", service), None);
    }
    assert_eq!(ask(&zone, "web.default.svc.cluster.local.", RecordType::A), ["no name"]);
    assert_eq!(ask(&zone, "7.0.96.10.in-addr.arpa.", RecordType::PTR), ["no name"]);
    zone.set_namespace("default", false);
    assert_eq!(ask(&zone, "default.svc.cluster.local.", RecordType::A), ["no name"]);
    assert!(zone.by_address.is_empty() && zone.slices.is_empty() && zone.services.is_empty());
}
