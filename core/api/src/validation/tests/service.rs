//! Services, field by field.

use serde_json::{Value, json};

use super::{each_change_has_its_fault, faults, update_faults};

fn good() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "ns"}, "spec": {
        "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80}],
    }})
}

#[test]
fn each_fault_of_a_service_has_its_path() {
    each_change_has_its_fault(
        &good(),
        vec![
            (
                "/spec/clusterIPs",
                json!(["10.96.0.10"]),
                "spec.clusterIPs: Invalid value: [\"10.96.0.10\"]: first value must match `clusterIP`",
            ),
            (
                "/spec/clusterIPs",
                json!(["10.96.0.9", "10.96.0.8"]),
                "spec.clusterIPs: Invalid value: [\"10.96.0.9\",\"10.96.0.8\"]: may specify no more than one IP for each IP family",
            ),
            (
                "/spec/ipFamilies",
                json!(["IPv6"]),
                "spec.clusterIPs[0]: Invalid value: \"10.96.0.9\": expected an IPv6 value as indicated by `ipFamilies[0]`",
            ),
            (
                "/spec/ipFamilies",
                json!(["IPv5"]),
                "spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\"",
            ),
            ("/spec/sessionAffinity", json!("Some"), "spec.sessionAffinity: Unsupported value: \"Some\""),
            (
                "/spec/externalIPs",
                json!(["127.0.0.1"]),
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range",
            ),
            (
                "/spec/externalTrafficPolicy",
                json!("Local"),
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ),
            (
                "/spec/healthCheckNodePort",
                json!(30000),
                "spec.healthCheckNodePort: Invalid value: 30000: may only be set when",
            ),
            (
                "/spec/loadBalancerClass",
                json!("a"),
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ),
            (
                "/spec/loadBalancerSourceRanges",
                json!(["10.0.0.0/8"]),
                "spec.LoadBalancerSourceRanges: Forbidden",
            ),
            (
                "/spec/trafficDistribution",
                json!("PreferFar"),
                "spec.trafficDistribution: Unsupported value: \"PreferFar\": supported values: \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\"",
            ),
            (
                "/spec/ports/0/nodePort",
                json!(30001),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            ("/spec/ports/0/appProtocol", json!("a b"), "spec.ports[0].appProtocol: Invalid value: \"a b\""),
            (
                "/spec/internalTrafficPolicy",
                json!("Far"),
                "spec.internalTrafficPolicy: Unsupported value: \"Far\": supported values: \"Cluster\", \"Local\"",
            ),
            ("/metadata/name", json!("1a"), "metadata.name: Invalid value: \"1a\""),
        ],
    );
    let external = [("/spec/type", json!("ExternalName")), ("/spec/externalName", json!("a.example."))];
    assert_eq!(
        faults(&good(), &external),
        [
            "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
            "spec.ipFamilies: Forbidden: may not be set for ExternalName services",
            "spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services",
        ],
    );
}

#[test]
fn a_second_address_comes_and_goes_and_the_first_stays() {
    let two = json!(["10.96.0.9", "fd00::9"]);
    let grown = [("/spec/clusterIPs", two.clone()), ("/spec/ipFamilies", json!(["IPv4", "IPv6"]))];
    assert!(update_faults(&good(), "", &grown).is_empty());
    let mut both = good();
    both["spec"]["clusterIPs"] = two;
    both["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    both["spec"]["ipFamilyPolicy"] = "PreferDualStack".into();
    let shrunk = [("/spec/clusterIPs", json!(["10.96.0.9"])), ("/spec/ipFamilies", json!(["IPv4"]))];
    let found = update_faults(&both, "", &shrunk);
    assert!(
        found[0].ends_with("must be set to 'SingleStack' when releasing the secondary clusterIP"),
        "{found:?}"
    );
    let moved = [("/spec/clusterIP", json!("10.96.0.1")), ("/spec/clusterIPs", json!(["10.96.0.1"]))];
    assert_eq!(
        update_faults(&good(), "", &moved),
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.1\"]: may not change once set"]
    );
}

#[test]
fn a_load_balancer_says_how_its_address_is_meant() {
    let mut balanced = good();
    balanced["spec"]["type"] = "LoadBalancer".into();
    let at = "/status/loadBalancer/ingress";
    assert!(update_faults(&balanced, "status", &[(at, json!([{"ip": "192.0.2.1"}]))]).is_empty());
    let found = update_faults(&balanced, "status", &[(at, json!([{"hostname": "192.0.2.1"}]))]);
    assert_eq!(
        found,
        [
            "status.loadBalancer.ingress[0].hostname: Invalid value: \"192.0.2.1\": must be a DNS name, not an IP address"
        ]
    );
    let found = update_faults(&good(), "status", &[(at, json!([{"ip": "192.0.2.1"}]))]);
    assert_eq!(
        found,
        ["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"]
    );
}
