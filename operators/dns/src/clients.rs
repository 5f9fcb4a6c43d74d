//! Who is answered (pure): pods and nodes. The server listens at a node's address, where others may reach it, too.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

/// Pods and nodes.
#[derive(Debug)]
pub(crate) struct Clients {
    pods: IpNet,
    own: IpAddr,
    /// By name.
    nodes: HashMap<String, Vec<IpAddr>>,
}

impl Clients {
    /// All pods, and who is at the server's own address.
    pub(crate) fn new(pods: IpNet, own: IpAddr) -> Self {
        Clients { pods, own, nodes: HashMap::new() }
    }

    /// A node has other addresses, or none any more.
    pub(crate) fn set_node(&mut self, name: &str, addresses: Option<&Vec<IpAddr>>) {
        match addresses {
            Some(addresses) => drop(self.nodes.insert(name.to_owned(), addresses.clone())),
            None => drop(self.nodes.remove(name)),
        }
    }

    pub(crate) fn allow(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback()
            || address == self.own
            || self.pods.contains(&address)
            || self.nodes.values().flatten().any(|one| *one == address)
    }
}

/// The addresses of a node.
pub(crate) fn addresses(node: &Node) -> Vec<IpAddr> {
    let told = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    told.filter_map(|one| one.address.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_nodes_are_answered_and_others_are_not() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut clients = Clients::new("10.42.0.0/16".parse().unwrap(), ip("192.0.2.1"));
        clients.set_node("b", Some(&vec![ip("192.0.2.2")]));
        for friend in ["10.42.3.4", "192.0.2.1", "192.0.2.2", "127.0.0.1", "::ffff:10.42.0.9"] {
            assert!(clients.allow(ip(friend)), "{friend}");
        }
        assert!(!clients.allow(ip("192.0.2.3")));
        clients.set_node("b", None);
        assert!(!clients.allow(ip("192.0.2.2")));
    }
}
