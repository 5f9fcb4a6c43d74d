//! Routes to other nodes' pods.

use keelson_network::{Config, NodeRoute, PodNetwork, recorded_routes};

use crate::harness::{Node, in_a_node, ip};

fn routes() -> String {
    ip("route show")
}

fn route(pods: &str, via: &str) -> NodeRoute {
    NodeRoute { pods: pods.parse().unwrap(), via: via.parse().unwrap() }
}

#[test]
fn routes_are_as_asked_and_those_of_others_stay() {
    in_a_node(async |node: Node| {
        ip("link add eth0 type veth peer name far0");
        ip("address add 192.0.2.1/24 dev eth0");
        ip("link set eth0 up");
        ip("link set far0 up");
        ip("route add 10.42.9.0/24 via 192.0.2.99");
        ip("route add default via 192.0.2.254");
        let cluster_cidrs = vec!["10.42.0.0/16".parse().unwrap()];
        let network = PodNetwork::start(Config { cluster_cidrs, ..node.config() }).await.unwrap();
        let (near, moved) = (route("10.42.1.0/24", "192.0.2.2"), route("10.42.1.0/24", "192.0.2.3"));
        let (taken, far) = (route("10.42.9.0/24", "192.0.2.4"), route("10.42.3.0/24", "198.51.100.1"));
        let own = route("10.42.4.0/24", "192.0.2.1");
        let mut unreachable = network.set_routes(&[near, taken, far, own]).await.unwrap();
        unreachable.sort();
        let which: Vec<_> = unreachable.iter().map(|it| it.route).collect();
        assert_eq!(which, [far, own, taken]);
        assert!(unreachable[0].why.contains("share one"), "{unreachable:?}");
        assert!(unreachable[2].why.contains("stands in the way"), "{unreachable:?}");
        assert!(routes().contains("10.42.1.0/24 via 192.0.2.2 dev eth0"), "{}", routes());
        assert_eq!(recorded_routes(&node.state()).unwrap(), [near]);
        // Again, and to another address of the node.
        network.set_routes(&[near]).await.unwrap();
        network.set_routes(&[moved]).await.unwrap();
        assert!(routes().contains("10.42.1.0/24 via 192.0.2.3 dev eth0"), "{}", routes());
        assert!(!routes().contains("via 192.0.2.2 "), "{}", routes());
        // An interface takes its routes along; they come back with it.
        ip("link set eth0 down");
        ip("link set eth0 up");
        network.set_routes(&[moved]).await.unwrap();
        assert!(routes().contains("10.42.1.0/24 via 192.0.2.3 dev eth0"), "{}", routes());
        ip("route add 10.42.9.0/24 via 192.0.2.99");
        network.remove_all().await.unwrap();
        assert!(!routes().contains("10.42.1.0/24"), "{}", routes());
        assert!(routes().contains("10.42.9.0/24 via 192.0.2.99"), "{}", routes());
    });
}
