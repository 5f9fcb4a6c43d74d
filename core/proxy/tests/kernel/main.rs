//! Against the kernel: a node, its pods and an outsider are threads, each in a network namespace of its own that ends with it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod harness;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Instant;

use harness::{Asker, CLUSTER, NODE, Node, OUTSIDE, ask, in_a_node, serve};
use keelson_nftables::{Connection, Family, Table};
use serde_json::{Value, json};

const WEB: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 7), 80);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);

fn spec(more: Value) -> Value {
    let mut spec = json!({
        "clusterIP": "10.96.0.7", "type": "ClusterIP",
        "ports": [
            {"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080},
            {"name": "udp", "port": 80, "protocol": "UDP", "nodePort": 30080},
        ],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

fn ports() -> Value {
    json!([{"name": "tcp", "port": 8080, "protocol": "TCP"}, {"name": "udp", "port": 8080, "protocol": "UDP"}])
}

fn here(addresses: &[Ipv4Addr]) -> Vec<(String, &'static str)> {
    addresses.iter().map(|address| (address.to_string(), "here")).collect()
}

fn table() -> Table {
    Table::new(Family::Ipv4, format!("keelson-{CLUSTER}-proxy"))
}

/// All servers that answer to many connections.
fn servers(mut ask: impl FnMut() -> String) -> BTreeSet<String> {
    (0..40).map(|_| ask()).collect()
}

fn all(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_cluster_ip_answers_from_the_node_and_from_pods_by_all_endpoints() {
    in_a_node(async |node: &mut Node| {
        let (a, first) = node.pod("a").await;
        let (_b, second) = node.pod("b").await;
        node.api.slice("web", ports(), &here(&[first, second]));
        node.api.service("web", spec(json!({})));
        node.eventually("the Service answers", || ask(WEB).is_ok()).await;
        assert_eq!(servers(|| ask(WEB).unwrap().server), all(&["a", "b"]));
        assert_eq!(servers(|| Asker::new(WEB).ask().unwrap().server), all(&["a", "b"]));

        let from_pod = a.run(|| (0..40).map(|_| ask(WEB).unwrap()).collect::<Vec<_>>());
        assert_eq!(from_pod.iter().map(|one| one.server.clone()).collect::<BTreeSet<_>>(), all(&["a", "b"]));
        for answer in from_pod {
            // A pod that reaches itself is seen with the node's address; others see the pod's own.
            let seen = if answer.server == "a" { GATEWAY } else { first };
            assert_eq!(answer.client, seen, "{answer:?}");
        }
        a.run(|| Asker::new(WEB).ask().expect("by UDP from a pod"));

        let refused = ask((WEB.0, 81)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "no such port");
        let refused = a.run(|| ask((Ipv4Addr::new(10, 96, 99, 99), 80)).unwrap_err());
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "no such Service");

        node.api.delete_service("web");
        node.eventually("the Service is gone", || ask(WEB).is_err()).await;
        assert_eq!(ask(WEB).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_service_without_endpoints_refuses_and_datagrams_follow_the_endpoints() {
    in_a_node(async |node: &mut Node| {
        let (a, first) = node.pod("a").await;
        let (_b, second) = node.pod("b").await;
        node.api.service("web", spec(json!({})));
        node.api.slice("web", ports(), &[]);
        let refused = || ask(WEB).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        node.eventually("the Service refuses", refused).await;
        let refused = a.run(|| ask(WEB).unwrap_err());
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "from a pod");
        let refused = a.run(|| Asker::new(WEB).ask().unwrap_err());
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "by UDP from a pod");

        node.api.slice("web", ports(), &here(&[first]));
        node.eventually("the Service answers", || ask(WEB).is_ok()).await;
        let asker = Asker::new(WEB);
        assert_eq!(asker.ask().unwrap().server, "a");
        node.api.slice("web", ports(), &here(&[second]));
        // The same socket: the kernel must have forgotten where its datagrams went.
        node.eventually("the client reaches the other endpoint", || {
            asker.ask().is_ok_and(|answer| answer.server == "b")
        })
        .await;
    });
}

#[test]
fn node_ports_and_external_addresses_answer_outsiders() {
    in_a_node(async |node: &mut Node| {
        let (a, first) = node.pod("a").await;
        let endpoints = here(&[first]);
        node.api.slice("web", ports(), &endpoints);
        node.api.service("web", spec(json!({"type": "NodePort", "externalIPs": ["198.51.100.1"]})));
        node.eventually("the node port answers", || ask((NODE, 30080)).is_ok()).await;
        let seen = node.outside.run(|| ask((NODE, 30080)).unwrap());
        assert_eq!(seen.client, GATEWAY, "an outsider is seen with the node's address");
        node.outside.run(|| Asker::new((NODE, 30080)).ask().expect("by UDP"));
        node.outside.run(|| ask(([198, 51, 100, 1], 80)).expect("by the external address"));
        node.outside.run(|| ask(WEB).expect("by the ClusterIP, when its route leads here"));
        a.run(|| ask((NODE, 30080)).expect("from the pod itself"));
        ask((Ipv4Addr::LOCALHOST, 30080)).expect_err("not at loopback");

        let local = json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
        node.api.service("web", spec(local));
        let seen = || node.outside.run(|| ask((NODE, 30080)).map(|answer| answer.client)).ok();
        node.eventually("an outsider is seen with its own address", || seen() == Some(OUTSIDE)).await;
        ask((NODE, 30080)).expect("from the node");
        a.run(|| ask((NODE, 30080)).expect("from a pod"));
        let elsewhere = [(first.to_string(), "there")];
        node.api.slice("web", ports(), &elsewhere);
        node.eventually("no local endpoint is left", || seen().is_none()).await;
        ask((NODE, 30080)).expect("the node may go elsewhere");
    });
}

#[test]
fn a_client_comes_back_to_its_endpoint_while_that_serves() {
    in_a_node(async |node: &mut Node| {
        let (a, first) = node.pod("a").await;
        let (_b, second) = node.pod("b").await;
        let (_c, third) = node.pod("c").await;
        let sticky = json!({
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 100}},
        });
        node.api.slice("web", ports(), &here(&[first, second, third]));
        node.api.service("web", spec(sticky));
        node.eventually("the Service answers", || ask(WEB).is_ok()).await;
        let chosen = a.run(|| ask(WEB).unwrap().server);
        let again = a.run(|| servers(|| ask(WEB).unwrap().server));
        assert_eq!(again, all(&[&chosen]));

        node.stop().await;
        node.start();
        let rules = || Connection::open().unwrap().generation().unwrap();
        let before = rules();
        node.eventually("the table is made anew", || rules() != before).await;
        assert_eq!(a.run(|| servers(|| ask(WEB).unwrap().server)), all(&[&chosen]), "after a restart");

        let addresses = [("a", first), ("b", second), ("c", third)];
        let left: Vec<_> =
            addresses.iter().filter(|(name, _)| *name != chosen).map(|(_, address)| *address).collect();
        node.api.slice("web", ports(), &here(&left));
        node.eventually("another endpoint answers", || a.run(|| ask(WEB).unwrap().server) != chosen).await;
        assert_eq!(a.run(|| servers(|| ask(WEB).unwrap().server)).len(), 1, "and stays");
    });
}

#[test]
fn an_endpoint_on_the_node_itself_answers_everybody() {
    in_a_node(async |node: &mut Node| {
        let (a, _) = node.pod("a").await;
        serve("node", 6443);
        let port = json!([{"name": "tcp", "port": 6443, "protocol": "TCP"}]);
        node.api.slice("web", port, &here(&[NODE]));
        node.api.service("web", spec(json!({})));
        node.eventually("the Service answers", || ask(WEB).is_ok()).await;
        assert_eq!(a.run(|| ask(WEB).unwrap().server), "node");
        node.outside.run(|| ask(WEB).expect("from outside"));
    });
}

#[test]
fn a_restart_replaces_what_is_stale_and_a_deleted_table_is_made_again() {
    in_a_node(async |node: &mut Node| {
        let (_a, first) = node.pod("a").await;
        node.api.slice("web", ports(), &here(&[first]));
        node.api.service("web", spec(json!({})));
        node.eventually("the Service answers", || ask(WEB).is_ok()).await;
        node.stop().await;
        ask(WEB).expect("it answers without the proxy");
        let other = Ipv4Addr::new(10, 96, 0, 8);
        node.api.service("web", spec(json!({"clusterIP": "10.96.0.8"})));
        node.start();
        node.eventually("the new address answers", || ask((other, 80)).is_ok()).await;
        ask(WEB).expect_err("the old one does not");

        let mut kernel = Connection::open().unwrap();
        kernel.remove_table(&table()).unwrap();
        ask((other, 80)).expect_err("nothing without the table");
        node.eventually("the table is back", || kernel.tables(Family::Ipv4).unwrap().contains(&table().name))
            .await;
        ask((other, 80)).expect("it answers again");
    });
}

#[test]
fn ten_thousand_services_are_loaded_and_one_changes() {
    in_a_node(async |node: &mut Node| {
        node.stop().await;
        let address = |number: u32, base: [u8; 2]| {
            let [_, _, high, low] = number.to_be_bytes();
            Ipv4Addr::new(base[0], base[1], high, low)
        };
        for number in 0..10_000_u32 {
            let name = format!("s{number}");
            let spec = json!({
                "clusterIP": address(number + 10, [10, 96]),
                "ports": [{"port": 80, "protocol": "TCP"}],
            });
            let endpoints: Vec<_> =
                (0..3).map(|index| (address(number * 3 + index, [10, 42]).to_string(), "there")).collect();
            node.api.slice(&name, json!([{"port": 80, "protocol": "TCP"}]), &endpoints);
            node.api.service(&name, spec);
        }
        let mut kernel = Connection::open().unwrap();
        let begun = Instant::now();
        node.start();
        // While the transaction is prepared there may be an empty table of the same name.
        node.eventually("the Services are there", || {
            kernel.elements(&table(), "services").is_ok_and(|elements| !elements.is_empty())
        })
        .await;
        println!(
            "10,000 Services with 3 endpoints each, from the lists to the kernel: {:?}",
            begun.elapsed()
        );
        // What is read while the kernel gives a set another size may lack some.
        let mut has = |set: &str, count: usize| kernel.elements(&table(), set).unwrap().len() == count;
        node.eventually("all Services", || has("services", 10_000)).await;
        node.eventually("all endpoints", || has("endpoints", 30_000)).await;
        let before = kernel.generation().unwrap();
        let begun = Instant::now();
        node.api.slice("s7", json!([{"port": 80, "protocol": "TCP"}]), &[("10.43.0.1".to_owned(), "there")]);
        while kernel.generation().unwrap() == before {
            tokio::task::yield_now().await;
        }
        println!("one endpoint of them changed: {:?}", begun.elapsed());
        node.eventually("the endpoints without the old ones", || {
            kernel.elements(&table(), "endpoints").unwrap().len() == 29_998
        })
        .await;
    });
}
