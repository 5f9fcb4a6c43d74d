//! Rows as upstream's own tests of its printers have them.

use super::*;
use crate::Catalog;

#[test]
fn every_row_has_a_cell_for_each_column() {
    let object = Object::from_value(json!({"metadata": {"name": "a"}})).unwrap();
    for resource in Catalog::builtin().resources() {
        let gvk = resource.gvk();
        let (columns, cells) = (columns(&gvk), cells(&gvk, &object, Timestamp::UNIX_EPOCH));
        assert_eq!(columns.len(), cells.len(), "{gvk:?}");
    }
}

/// The cells after the name of an object of a kind of that group.
fn row(api_version: &str, kind: &str, document: Value) -> Value {
    let now = "2026-01-01T00:10:00Z".parse().unwrap();
    let object = Object::from_value(document).unwrap();
    let mut cells = cells(&GroupVersionKind::from_api_version(api_version, kind), &object, now);
    cells.remove(0);
    cells.into()
}

const UNKNOWN: &str = "<unknown>";

#[test]
fn a_service_shows_how_it_is_reached_from_outside() {
    let service = |spec: Value, status: Value| {
        let cells = row("v1", "Service", json!({"spec": spec, "status": status}));
        cells[2].as_str().unwrap().to_owned()
    };
    let balancer = |ingress: Value| json!({"loadBalancer": {"ingress": ingress}});
    assert_eq!(service(json!({"type": "ClusterIP"}), json!({})), "<none>");
    assert_eq!(service(json!({"type": "NodePort", "externalIPs": ["9.9.9.9"]}), json!({})), "9.9.9.9");
    assert_eq!(service(json!({"type": "LoadBalancer"}), json!({})), "<pending>");
    let both = json!({"type": "LoadBalancer", "externalIPs": ["5.5.5.5"]});
    let given = balancer(json!([{"ip": "2.2.2.2"}, {"hostname": "b.example.com"}, {"ip": "1.1.1.1"}]));
    assert_eq!(service(both, given), "1.1.1.1,2.2.2.2,b.example.com,5.5.5.5");
    assert_eq!(service(json!({"type": "ExternalName", "externalName": "x.example"}), json!({})), "x.example");
    let ports = row(
        "v1",
        "Service",
        json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1",
        "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}),
    );
    assert_eq!(ports, json!(["NodePort", "10.0.0.1", "<none>", "80:30000/TCP,53/UDP", UNKNOWN, "<none>"]));
}

#[test]
fn an_ingress_shows_three_hosts_and_its_whole_address() {
    let ingress = |rules: Value| {
        let address = json!([{"hostname": "a-name-of-more-than-sixteen-letters.example.com"}]);
        row(
            "networking.k8s.io/v1",
            "Ingress",
            json!({"spec": {"rules": rules},
            "status": {"loadBalancer": {"ingress": address}}}),
        )
    };
    let long = "a-name-of-more-than-sixteen-letters.example.com";
    assert_eq!(ingress(json!([{}])), json!(["<none>", "*", long, "80", UNKNOWN]));
    let rules = json!([{"host": "a"}, {"host": "b"}, {"host": "c"}, {}]);
    assert_eq!(ingress(rules)[1], "a,b,c + 1 more...");
    assert_eq!(ingress(json!([{"host": "a"}, {}, {"host": "b"}, {"host": "c"}]))[1], "a,b,c");
}

#[test]
fn endpoints_show_three_addresses_or_ports() {
    let slice = |ports: Value, addresses: Value| {
        row(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            json!({"addressType": "IPv4", "ports": ports,
            "endpoints": [{"addresses": addresses}]}),
        )
    };
    assert_eq!(
        slice(json!([{"name": "http"}, {}, {"port": 80}]), json!(["1.1.1.1", "2.2.2.2"])),
        json!(["IPv4", "http,*,80", "1.1.1.1,2.2.2.2", UNKNOWN])
    );
    assert_eq!(slice(json!([]), json!([]))[1], "<unset>");
    let endpoints = |subsets: Value| row("v1", "Endpoints", json!({"subsets": subsets}))[0].clone();
    assert_eq!(endpoints(json!([])), "<none>");
    assert_eq!(endpoints(json!([{"ports": [{"port": 8001}], "notReadyAddresses": [{"ip": "1.2.3.4"}]}])), "");
    assert_eq!(
        endpoints(
            json!([{"ports": [{"port": 1}, {"port": 2}], "addresses": [{"ip": "1.1.1.1"}, {"ip": "::1"}]}])
        ),
        "1.1.1.1:1,[::1]:1,1.1.1.1:2 + 1 more..."
    );
}

#[test]
fn an_autoscaler_names_the_resources_that_it_aims_at() {
    let targets = |metrics: Value, current: Value| {
        let cells = row(
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            json!({"spec": {"metrics": metrics, "maxReplicas": 10},
            "status": {"currentMetrics": current}}),
        );
        cells[1].as_str().unwrap().to_owned()
    };
    let of = |kind: &str, target: Value| {
        let field = format!("{}{}", kind[..1].to_lowercase(), &kind[1..]);
        json!({"type": kind, field: {"name": "cpu", "container": "app", "target": target}})
    };
    let used = |kind: &str, current: Value| {
        let field = format!("{}{}", kind[..1].to_lowercase(), &kind[1..]);
        json!([{"type": kind, field: {"name": "cpu", "current": current}}])
    };
    let utilization = json!({"averageUtilization": 80});
    assert_eq!(targets(json!([]), json!([])), "<none>");
    assert_eq!(targets(json!([of("Resource", utilization.clone())]), json!([])), "cpu: <unknown>/80%");
    assert_eq!(
        targets(
            json!([of("ContainerResource", utilization)]),
            used("ContainerResource", json!({"averageUtilization": 50}))
        ),
        "cpu: 50%/80%"
    );
    assert_eq!(
        targets(json!([of("Resource", json!({}))]), used("Resource", json!({"averageUtilization": 7}))),
        "cpu: 7%/<auto>"
    );
    let external = of("External", json!({"averageValue": "100m"}));
    assert_eq!(
        targets(json!([external]), used("External", json!({"averageValue": "50m"}))),
        "50m/100m (avg)"
    );
    let four: Vec<Value> = (0..4).map(|_| of("Pods", json!({"averageValue": "1"}))).collect();
    assert_eq!(targets(four.into(), json!([])), "<unknown>/1, <unknown>/1 + 2 more...");
}

#[test]
fn policies_show_their_parameters() {
    const GROUP: &str = "admissionregistration.k8s.io/v1";
    let policy =
        json!({"spec": {"mutations": [{}, {}], "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}});
    assert_eq!(row(GROUP, "MutatingAdmissionPolicy", policy), json!([2, "v1/ConfigMap", UNKNOWN]));
    let binding = |reference: Value| {
        let spec = json!({"spec": {"policyName": "p", "paramRef": reference}});
        row(GROUP, "ValidatingAdmissionPolicyBinding", spec)[1].clone()
    };
    assert_eq!(binding(Value::Null), "<unset>");
    assert_eq!(binding(json!({"name": "a"})), "*/a");
    assert_eq!(binding(json!({"name": "a", "namespace": "n"})), "n/a");
    assert_eq!(
        binding(json!({"selector": {"matchLabels": {"a": "b"}}})),
        "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}"
    );
}

#[test]
fn an_event_says_who_reports_it() {
    let event = |document: Value| row("v1", "Event", document);
    let cells = event(
        json!({"involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "kubelet"},
        "reportingComponent": "other", "reportingInstance": "node-1", "firstTimestamp": "2026-01-01T00:00:00Z", "message": " a\n"}),
    );
    // The name, which is cut off, is the last cell; the first is when it was seen last.
    assert_eq!(cells, json!(["", "", "pod/p", "", "kubelet, node-1", "a", "10m", 1, ""]));
    let series = event(json!({"series": {"count": 0, "lastObservedTime": "2026-01-01T00:09:00Z"}}));
    assert_eq!(series[7], 0);
}

#[test]
fn claims_quotas_and_drivers_show_what_is_known_of_them() {
    let claim = |document: Value| row("resource.k8s.io/v1", "ResourceClaim", document)[0].clone();
    assert_eq!(claim(json!({})), "pending");
    assert_eq!(claim(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})), "deleted");
    assert_eq!(claim(json!({"status": {"allocation": {}, "reservedFor": [{}]}})), "allocated,reserved");
    let hard = json!({"pods": "5", "limits.cpu": "1", "limitsy": "3"});
    let quota = row(
        "v1",
        "ResourceQuota",
        json!({"spec": {"hard": hard}, "status": {"hard": hard, "used": {"pods": "2"}}}),
    );
    assert_eq!(quota, json!(["limitsy: 0/3, pods: 2/5", "limits.cpu: 0/1", UNKNOWN]));
    assert_eq!(row("v1", "ResourceQuota", json!({"spec": {"hard": {"pods": "5"}}}))[0], "");
    let driver = row("storage.k8s.io/v1", "CSIDriver", json!({"spec": {}}));
    assert_eq!(driver, json!([true, false, false, "<unset>", false, "<none>", UNKNOWN]));
    let capacity = row("storage.k8s.io/v1", "CSIStorageCapacity", json!({"storageClassName": "fast"}));
    assert_eq!(capacity, json!(["fast", "<unset>"]));
    let level = row(
        "flowcontrol.apiserver.k8s.io/v1",
        "PriorityLevelConfiguration",
        json!({"spec": {"type": "Limited",
        "limited": {"nominalConcurrencyShares": 30, "limitResponse": {"queuing": {"queues": 64, "handSize": 8, "queueLengthLimit": 50}}}}}),
    );
    assert_eq!(level, json!(["Limited", 30, 64, 8, 50, UNKNOWN]));
    let address = row(
        "networking.k8s.io/v1",
        "IPAddress",
        json!({"spec": {"parentRef": {"group": "example.com", "resource": "Things", "name": "t"}}}),
    );
    assert_eq!(address, json!(["things.example.com/t"]));
}

#[test]
fn a_component_is_healthy_or_says_why_not() {
    let of = |conditions: Value| row("v1", "ComponentStatus", json!({"conditions": conditions}));
    assert_eq!(
        of(json!([{"type": "Healthy", "status": "True", "message": "ok"}])),
        json!(["Healthy", "ok", ""])
    );
    assert_eq!(
        of(json!([{"type": "Healthy", "status": "False", "error": "gone"}])),
        json!(["Unhealthy", "", "gone"])
    );
    assert_eq!(of(json!([])), json!(["Unknown", "", ""]));
}
