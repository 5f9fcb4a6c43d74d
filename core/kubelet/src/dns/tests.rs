use serde_json::json;

use super::*;
use crate::testing::config;

fn pod(spec: serde_json::Value) -> Pod {
    let mut spec = spec;
    spec["containers"] = json!([]);
    serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec})).unwrap()
}

fn node() -> ResolvConf {
    ResolvConf::parse(
        "# made\nnameserver 192.0.2.53\nsearch example.com. example.net\noptions timeout:1 rotate\n",
    )
}

#[test]
fn a_resolver_file_is_read() {
    let node = node();
    assert_eq!(node.nameservers, ["192.0.2.53"]);
    assert_eq!(node.searches, ["example.com", "example.net"]);
    assert_eq!(node.options, ["timeout:1", "rotate"]);
}

#[test]
fn a_pod_asks_the_cluster_first() {
    let found = dns_config(&pod(json!({"dnsPolicy": "ClusterFirst"})), &config(), &node());
    assert_eq!(found.servers, ["10.96.0.10"]);
    let searches =
        ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com", "example.net"];
    assert_eq!(found.searches, searches);
    assert_eq!(found.options, ["ndots:5"]);
}

#[test]
fn a_pod_on_the_nodes_network_asks_as_the_node_does_unless_it_says_so() {
    let spec = json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true});
    assert_eq!(dns_config(&pod(spec), &config(), &node()).servers, ["192.0.2.53"]);
    let spec = json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true});
    assert_eq!(dns_config(&pod(spec), &config(), &node()).servers, ["10.96.0.10"]);
}

#[test]
fn the_pods_own_configuration_is_merged() {
    let own = json!({
        "nameservers": ["192.0.2.1", "192.0.2.53"],
        "searches": ["own.example"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
    });
    let found = dns_config(&pod(json!({"dnsPolicy": "Default", "dnsConfig": own})), &config(), &node());
    assert_eq!(found.servers, ["192.0.2.53", "192.0.2.1"]);
    assert_eq!(found.searches, ["example.com", "example.net", "own.example"]);
    assert_eq!(found.options, ["timeout:1", "rotate", "ndots:2", "edns0"]);
    let found = dns_config(&pod(json!({"dnsPolicy": "None", "dnsConfig": own})), &config(), &node());
    assert_eq!(found.servers, ["192.0.2.1", "192.0.2.53"]);
    let found = dns_config(&pod(json!({"dnsPolicy": "ClusterFirst", "dnsConfig": own})), &config(), &node());
    assert_eq!(found.options, ["ndots:2", "edns0"]);
}

#[test]
fn more_than_the_resolver_takes_is_left_out() {
    let servers: Vec<String> = (1..9).map(|n| format!("192.0.2.{n}")).collect();
    let searches: Vec<String> = (0..50).map(|n| format!("{n}.{}", "x".repeat(100))).collect();
    let own = json!({"nameservers": servers, "searches": searches});
    let found = dns_config(&pod(json!({"dnsPolicy": "None", "dnsConfig": own})), &config(), &node());
    assert_eq!(found.servers.len(), 3);
    assert_eq!(found.searches.len(), 19);
}

#[test]
fn a_pods_host_name_is_its_own_or_its_pods() {
    let of = |spec| hostname(&pod(spec), &config()).unwrap();
    assert_eq!(of(json!({})).name, "web-0");
    let found = of(json!({"hostname": "db", "subdomain": "sub"}));
    assert_eq!((found.name.as_str(), found.domain.as_deref()), ("db", Some("sub.shop.svc.cluster.local")));
    let found = of(json!({"hostname": "db", "subdomain": "sub", "setHostnameAsFQDN": true}));
    assert_eq!(found.name, "db.sub.shop.svc.cluster.local");
    assert_eq!(of(json!({"hostNetwork": true, "hostname": "db"})).name, "node-1");
    let mut long = pod(json!({}));
    long.metadata.name = Some(format!("{}-tail", "n".repeat(62)));
    assert_eq!(hostname(&long, &config()).unwrap().name, "n".repeat(62));
    let over = format!("{}.{}", "o".repeat(60), "abc");
    let found = of(json!({"hostnameOverride": over, "subdomain": "sub"}));
    assert_eq!((found.name, found.short, found.domain), (over[..63].to_owned(), over[..63].to_owned(), None));
}

#[test]
fn a_full_name_that_the_kernel_refuses_is_an_error() {
    let spec = json!({"hostname": "h".repeat(60), "subdomain": "sub", "setHostnameAsFQDN": true});
    assert!(matches!(hostname(&pod(spec), &config()), Err(HostnameError::TooLong { .. })));
}

#[test]
fn what_is_left_out_is_told() {
    let own: Vec<String> = (0..40).map(|number| format!("d{number}.example")).collect();
    let servers = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];
    let pod = serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": [],
        "dnsPolicy": "None", "dnsConfig": {"nameservers": servers, "searches": own}}});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let mut config = crate::testing::config();
    let told = notices(&pod, &config, &ResolvConf::default());
    assert_eq!(
        told.iter().map(|(reason, _)| *reason).collect::<Vec<_>>(),
        ["DNSConfigForming", "DNSConfigForming"]
    );
    assert!(told[0].1.ends_with(&format!("the applied search line is: {}", own[..32].join(" "))), "{told:?}");
    let line = "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 192.0.2.1 192.0.2.2 192.0.2.3";
    assert_eq!(told[1].1, line);
    config.cluster_dns.clear();
    let plain = serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": []}});
    let told = notices(&serde_json::from_value(plain).unwrap(), &config, &ResolvConf::default());
    assert_eq!(told[0].0, "MissingClusterDNS");
    assert!(told[0].1.starts_with("pod: \"p_n(u)\". kubelet does not have ClusterDNS IP"), "{told:?}");
}
