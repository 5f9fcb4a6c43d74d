//! Against the kernel: a node and its pods are threads, each in a network namespace of its own that ends with it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;
mod plugins;
mod routes;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use harness::{Namespace, Node, ask, ask_udp, in_a_node, ip, pod, port, serve, serve_udp};
use keelson_network::{Error, PodNetwork, Protocol};
use keelson_nftables::{Connection, Family, Table};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);

#[test]
fn pods_reach_each_other_and_the_node_with_their_own_addresses() {
    in_a_node(async |node: Node| {
        let network = PodNetwork::start(node.config()).await.unwrap();
        let (a, b) = (Namespace::new(), Namespace::new());
        let first = network.add(a.path(), &pod("a"), &[]).await.unwrap();
        let second = network.add(b.path(), &pod("b"), &[]).await.unwrap();
        assert_eq!(first.ips, [IpAddr::from([10, 42, 0, 2])]);
        assert_eq!(second.ips, [IpAddr::from([10, 42, 0, 3])]);
        assert_eq!(first.gateway, Some(IpAddr::V4(GATEWAY)));

        let server = a.run(|| serve(([0, 0, 0, 0], 8080)));
        let seen = b.run(|| ask(([10, 42, 0, 2], 8080)).unwrap());
        assert_eq!(seen, IpAddr::from([10, 42, 0, 3]), "pods see each other's addresses");
        assert_eq!(ask(([10, 42, 0, 2], 8080)).unwrap(), IpAddr::V4(GATEWAY), "the node reaches a pod");
        assert_eq!(a.run(|| ask(([127, 0, 0, 1], 8080)).unwrap()), IpAddr::V4(Ipv4Addr::LOCALHOST));
        let on_node = serve((GATEWAY.octets(), 9090));
        assert_eq!(a.run(|| ask((GATEWAY.octets(), 9090)).unwrap()), IpAddr::from([10, 42, 0, 2]));
        drop((server, on_node));
        network.check("a").await.unwrap();
        network.check("b").await.unwrap();
        network.status().await.unwrap();
        network.remove_all().await.unwrap();
        node.assert_empty();
    });
}

#[test]
fn a_pod_leaves_the_cluster_with_the_nodes_address() {
    in_a_node(async |node: Node| {
        let outside = Namespace::new();
        node.connect(&outside, "192.0.2.1/24", "192.0.2.2/24");
        let server = outside.run(|| serve(([0, 0, 0, 0], 80)));
        let network = PodNetwork::start(node.config()).await.unwrap();
        let a = Namespace::new();
        network.add(a.path(), &pod("a"), &[]).await.unwrap();
        assert_eq!(a.run(|| ask(([192, 0, 2, 2], 80)).unwrap()), IpAddr::from([192, 0, 2, 1]));
        drop(server);
        network.remove_all().await.unwrap();
    });
}

#[test]
fn a_port_of_the_node_leads_to_the_pod_from_everywhere() {
    in_a_node(async |node: Node| {
        let outside = Namespace::new();
        node.connect(&outside, "192.0.2.1/24", "192.0.2.2/24");
        let network = PodNetwork::start(node.config()).await.unwrap();
        let (a, b) = (Namespace::new(), Namespace::new());
        let ports = [
            port(Protocol::Tcp, 8080, 80, None),
            port(Protocol::Udp, 5353, 53, None),
            port(Protocol::Tcp, 8081, 81, Some("192.0.2.1")),
        ];
        network.add(a.path(), &pod("a"), &ports).await.unwrap();
        network.add(b.path(), &pod("b"), &[]).await.unwrap();
        let servers =
            a.run(|| (serve(([0, 0, 0, 0], 80)), serve(([0, 0, 0, 0], 81)), serve_udp(([0, 0, 0, 0], 53))));
        let from_outside = outside.run(|| ask(([192, 0, 2, 1], 8080)).unwrap());
        assert_eq!(from_outside, IpAddr::from([192, 0, 2, 2]), "the client's address is seen");
        ask(([127, 0, 0, 1], 8080)).expect("from the node by loopback");
        ask(([192, 0, 2, 1], 8080)).expect("from the node by its address");
        b.run(|| ask(([192, 0, 2, 1], 8080)).expect("from another pod"));
        a.run(|| ask(([192, 0, 2, 1], 8080)).expect("from the pod itself"));
        ask_udp(([127, 0, 0, 1], 5353)).expect("by UDP from the node");
        outside.run(|| ask_udp(([192, 0, 2, 1], 5353)).expect("by UDP from outside"));
        outside.run(|| ask(([192, 0, 2, 1], 8081)).expect("by one address"));
        ask(([127, 0, 0, 1], 8081)).expect_err("not by another");

        let c = Namespace::new();
        let taken = network.add(c.path(), &pod("c"), &ports[..1]).await.unwrap_err();
        assert_eq!(taken.to_string(), "port 8080 (Tcp) of the node already leads to pod default/a");
        ask(([127, 0, 0, 1], 8080)).expect("still the first one's");
        drop(servers);
        network.del("a").await.unwrap();
        ask(([127, 0, 0, 1], 8080)).expect_err("the port went with the pod");
        network.add(c.path(), &pod("c"), &ports).await.unwrap();
        let servers = c.run(|| (serve(([0, 0, 0, 0], 80)), serve_udp(([0, 0, 0, 0], 53))));
        ask(([127, 0, 0, 1], 8080)).expect("another pod has it now");
        ask_udp(([127, 0, 0, 1], 5353)).expect("and by UDP");
        drop(servers);
        network.remove_all().await.unwrap();
    });
}

#[test]
fn a_pod_does_not_reach_the_nodes_loopback() {
    in_a_node(async |node: Node| {
        let network = PodNetwork::start(node.config()).await.unwrap();
        let a = Namespace::new();
        network.add(a.path(), &pod("a"), &[]).await.unwrap();
        let server = serve(([127, 0, 0, 1], 6443));
        a.run(|| {
            // What a pod with CAP_NET_ADMIN would do to send packets for 127.0.0.1 over the wire.
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            ip("addr del 127.0.0.1/8 dev lo");
            ip("route add 127.0.0.1 via 10.42.0.1 dev eth0 src 10.42.0.2");
        });
        let error = a.run(|| ask(([127, 0, 0, 1], 6443)).unwrap_err());
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
        drop(server);
        network.remove_all().await.unwrap();
    });
}

#[test]
fn a_restart_keeps_pods_and_never_gives_their_addresses_again() {
    in_a_node(async |node: Node| {
        let network = PodNetwork::start(node.config()).await.unwrap();
        let (a, b, c) = (Namespace::new(), Namespace::new(), Namespace::new());
        let ports = [port(Protocol::Tcp, 8080, 80, None)];
        network.add(a.path(), &pod("a"), &ports).await.unwrap();
        network.add(b.path(), &pod("b"), &[]).await.unwrap();
        drop(network);
        let server = a.run(|| serve(([0, 0, 0, 0], 80)));
        // Something that an interrupted run left: an interface without a record.
        ip("link add k0badcafe000000 type veth peer name other");

        let network = PodNetwork::start(node.config()).await.unwrap();
        assert!(!ip("link").contains("k0badcafe000000"));
        ask(([127, 0, 0, 1], 8080)).expect("the port still leads to the pod");
        network.check("a").await.unwrap();
        let third = network.add(c.path(), &pod("c"), &[]).await.unwrap();
        assert_eq!(third.ips, [IpAddr::from([10, 42, 0, 4])]);
        drop(server);

        let living = HashSet::from(["c".to_owned()]);
        assert_eq!(network.gc(&living).await.unwrap(), 2);
        assert!(matches!(network.check("a").await, Err(Error::Unknown(_))));
        network.check("c").await.unwrap();
        network.del("c").await.unwrap();
        network.del("c").await.unwrap();
        assert_eq!(std::fs::read_dir(node.state().join("pods")).unwrap().count(), 0);
        network.remove_all().await.unwrap();
        node.assert_empty();
    });
}

#[test]
fn a_failed_add_leaves_nothing_and_a_repeated_one_connects_anew() {
    in_a_node(async |node: Node| {
        let network = PodNetwork::start(node.config()).await.unwrap();
        let missing = std::path::Path::new("/nonexistent/ns");
        let error = network.add(missing, &pod("a"), &[]).await.unwrap_err();
        assert_eq!(error.to_string(), "open network namespace /nonexistent/ns");
        let a = Namespace::new();
        a.run(|| ip("link add eth0 type veth peer name other"));
        let error = network.add(a.path(), &pod("a"), &[]).await.unwrap_err();
        assert!(error.to_string().starts_with("make veth k0badcafe"), "{error}");
        assert_eq!(std::fs::read_dir(node.state().join("pods")).unwrap().count(), 0);
        let b = Namespace::new();
        network.add(b.path(), &pod("b"), &[]).await.unwrap();
        network.add(b.path(), &pod("b"), &[]).await.unwrap();
        network.check("b").await.unwrap();
        network.remove_all().await.unwrap();
        node.assert_empty();
    });
}

#[test]
fn what_somebody_else_deletes_is_made_again() {
    in_a_node(async |node: Node| {
        let network = PodNetwork::start(node.config()).await.unwrap();
        let a = Namespace::new();
        network.add(a.path(), &pod("a"), &[port(Protocol::Tcp, 8080, 80, None)]).await.unwrap();
        let server = a.run(|| serve(([0, 0, 0, 0], 80)));
        let table = Table::new(Family::Ipv4, "keelson-0badcafe-net");
        Connection::open().unwrap().remove_table(&table).unwrap();
        ask(([127, 0, 0, 1], 8080)).expect_err("the rule is gone");
        network.status().await.unwrap();
        ask(([127, 0, 0, 1], 8080)).expect("healed");
        drop(server);
        ip("link del keel0badcafe");
        network.status().await.unwrap();
        let b = Namespace::new();
        network.add(b.path(), &pod("b"), &[]).await.unwrap();
        assert!(matches!(network.check("a").await, Err(Error::Damaged { .. })));
        network.remove_all().await.unwrap();
        node.assert_empty();
    });
}

#[test]
fn twenty_pods_at_once_get_twenty_addresses() {
    in_a_node(async |node: Node| {
        let network = PodNetwork::start(node.config()).await.unwrap();
        let pods: Vec<_> = (0..20).map(|n| (Namespace::new(), pod(&format!("p{n}")))).collect();
        let begin = Instant::now();
        let added =
            futures::future::join_all(pods.iter().map(|(ns, pod)| network.add(ns.path(), pod, &[]))).await;
        eprintln!("20 pods in {:?}", begin.elapsed());
        let addresses: HashSet<_> = added.into_iter().map(|added| added.unwrap().ips[0]).collect();
        assert_eq!(addresses.len(), 20);
        let extra = Namespace::new();
        let mut times = Vec::new();
        for _ in 0..10 {
            let begin = Instant::now();
            network.add(extra.path(), &pod("extra"), &[]).await.unwrap();
            times.push(begin.elapsed());
            network.del("extra").await.unwrap();
        }
        times.sort();
        eprintln!("one pod: median {:?}, most {:?}", times[5], times[9]);
        network.remove_all().await.unwrap();
        node.assert_empty();
    });
}

#[test]
fn a_table_of_iptables_that_drops_lets_pods_pass() {
    in_a_node(async |node: Node| {
        let table = Table::new(Family::Ipv4, "filter");
        let mut batch = keelson_nftables::Batch::new();
        batch.add_table(&table);
        let kind = keelson_nftables::ChainKind::Filter {
            hook: keelson_nftables::Hook::Forward,
            priority: 0,
            policy: keelson_nftables::Policy::Drop,
        };
        batch.add_chain(&table, &keelson_nftables::Chain { name: "FORWARD".to_owned(), kind });
        let mut kernel = Connection::open().unwrap();
        kernel.commit(batch).unwrap();
        drop(PodNetwork::start(node.config()).await.unwrap());
        let network = PodNetwork::start(node.config()).await.unwrap();
        assert_eq!(kernel.rules(&table).unwrap().len(), 2);
        let (a, b) = (Namespace::new(), Namespace::new());
        network.add(a.path(), &pod("a"), &[]).await.unwrap();
        network.add(b.path(), &pod("b"), &[]).await.unwrap();
        let server = a.run(|| serve(([0, 0, 0, 0], 80)));
        b.run(|| ask(([10, 42, 0, 2], 80)).unwrap());
        drop(server);
        network.remove_all().await.unwrap();
        assert!(kernel.rules(&table).unwrap().is_empty());
    });
}
