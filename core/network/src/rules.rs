//! The network's nftables table; pure.
//!
//! What leaves the cluster gets the node's address; ports of the node lead to pods; a pod does not reach the node's loopback, though
//! the bridge routes such addresses (the node's own connections to `127.0.0.1` may lead to pods, and their answers come back).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use keelson_nftables::{
    AddressType, Batch, Chain, Comparison, Data, DataType, Element, Expression, Family, FibInput, Hook, Meta,
    NatKind, PayloadBase, Register, Rule, Set, SetKind, Table, Verdict,
};

use crate::config::Layout;
use crate::pod::{PortMapping, Protocol};

const R0: Register = Register::new(0);
const R1: Register = Register::new(1);
const R2: Register = Register::new(2);

/// Multicast is not translated.
const MULTICAST: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);

/// The table of a cluster's pod network.
pub(crate) fn table(cluster_id: &str) -> Table {
    Table::new(Family::Ipv4, format!("keelson-{cluster_id}-net"))
}

/// A port of the node, on all its addresses or on one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct HostPort {
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) address: Option<Ipv4Addr>,
}

impl HostPort {
    /// Of an IPv4 mapping; IPv6 addresses of the node have no pods behind them.
    pub(crate) fn of(mapping: &PortMapping) -> Option<Self> {
        let address = match mapping.host_ip {
            None => None,
            Some(IpAddr::V4(address)) if address.is_unspecified() => None,
            Some(IpAddr::V4(address)) => Some(address),
            Some(IpAddr::V6(address)) if address.is_unspecified() => None,
            Some(IpAddr::V6(_)) => return None,
        };
        Some(Self { protocol: mapping.protocol, port: mapping.host_port, address })
    }
}

/// A pod's address and port.
pub(crate) type Target = (Ipv4Addr, u16);

fn ports() -> Set {
    let value = SetKind::Map(vec![DataType::Ipv4Address, DataType::Port]);
    Set::new("host-ports", &[DataType::Protocol, DataType::Port], value)
}

fn ports_at() -> Set {
    let value = SetKind::Map(vec![DataType::Ipv4Address, DataType::Port]);
    Set::new("host-ports-at", &[DataType::Ipv4Address, DataType::Protocol, DataType::Port], value)
}

fn hairpin() -> Set {
    Set::new("hairpin", &[DataType::Ipv4Address, DataType::Ipv4Address], SetKind::Set)
}

fn inside() -> Set {
    Set::new("inside", &[DataType::Ipv4Address], SetKind::Set).with_intervals()
}

fn port_element(port: &HostPort, (address, number): Target) -> (Set, Element) {
    let value = Data::of(&[&address.octets(), &number.to_be_bytes()]);
    let protocol = [port.protocol.number()];
    let host_port = port.port.to_be_bytes();
    match port.address {
        None => (ports(), Element::value(Data::of(&[&protocol, &host_port]), value)),
        Some(at) => (ports_at(), Element::value(Data::of(&[&at.octets(), &protocol, &host_port]), value)),
    }
}

fn hairpin_element(address: Ipv4Addr) -> Element {
    Element::key(Data::of(&[&address.octets(), &address.octets()]))
}

/// Leads ports of the node to a pod.
pub(crate) fn publish(batch: &mut Batch, cluster_id: &str, ports: &[(HostPort, Target)]) {
    let table = table(cluster_id);
    for (port, target) in ports {
        let (set, element) = port_element(port, *target);
        batch.add_elements(&table, &set, [element]);
        batch.add_elements(&table, &hairpin(), [hairpin_element(target.0)]);
    }
}

/// Takes them back; all of them must be there.
pub(crate) fn withdraw(batch: &mut Batch, cluster_id: &str, ports: &[(HostPort, Target)]) {
    let table = table(cluster_id);
    for (port, target) in ports {
        let (set, element) = port_element(port, *target);
        batch.delete_elements(&table, &set, [element]);
    }
    // The pod's own ports all go together.
    if let Some((_, target)) = ports.first() {
        batch.delete_elements(&table, &hairpin(), [hairpin_element(target.0)]);
    }
}

/// The whole table anew, in place of what is there.
pub(crate) fn install(layout: &Layout, published: &HashMap<HostPort, Target>) -> Batch {
    let table = table(&layout.cluster_id);
    let mut batch = Batch::new();
    batch.clear_table(&table);
    batch.add_table(&table);
    for set in [ports(), ports_at(), hairpin(), inside()] {
        batch.add_set(&table, &set);
    }
    let ranges = Ipv4Net::aggregate(&layout.inside.iter().copied().chain([MULTICAST]).collect());
    let range = |net: &Ipv4Net| {
        let end = Data(net.broadcast().octets().to_vec());
        Element::range(Data(net.network().octets().to_vec()), end)
    };
    batch.add_elements(&table, &inside(), ranges.iter().map(range));

    let chains = [
        Chain::filter("guard", Hook::Prerouting, -300),
        Chain::regular("to-host-ports"),
        Chain::nat("prerouting", Hook::Prerouting, -101),
        Chain::nat("output", Hook::Output, -101),
        Chain::nat("postrouting", Hook::Postrouting, 100),
    ];
    for chain in &chains {
        batch.add_chain(&table, chain);
    }
    for (chain, rule) in rules(layout) {
        batch.add_rule(&table, chain, &rule);
    }
    let published: Vec<_> = published.iter().map(|(port, target)| (*port, *target)).collect();
    publish(&mut batch, &layout.cluster_id, &published);
    batch
}

fn rules(layout: &Layout) -> Vec<(&'static str, Rule)> {
    let bridge = |key, how| {
        let with = Expression::interface_bytes(&layout.bridge);
        [Expression::Meta { key, to: R0 }, Expression::Compare { how, from: R0, with }]
    };
    let load = |offset, to| Expression::Payload { base: PayloadBase::Network, offset, length: 4, to };
    let (source, destination) = (12, 16);
    let port = |to| Expression::Payload { base: PayloadBase::Transport, offset: 2, length: 2, to };
    let protocol = |to| Expression::Meta { key: Meta::Protocol, to };
    let loopback = |offset| {
        [
            Expression::Payload { base: PayloadBase::Network, offset, length: 1, to: R0 },
            Expression::Compare { how: Comparison::Equal, from: R0, with: vec![127] },
        ]
    };
    let to_pod = |map: &str| {
        [
            Expression::Map { map: map.to_owned(), key: R0, to: R0 },
            Expression::Nat { kind: NatKind::Destination, family: Family::Ipv4, address: R0, port: Some(R1) },
        ]
    };
    let local = [
        Expression::AddressType { of: FibInput::Destination, to: R0 },
        Expression::address_type(Comparison::Equal, R0, AddressType::Local),
        Expression::Verdict(Verdict::Jump("to-host-ports".to_owned())),
    ];
    let pods = layout.pods;
    let from_pods = [
        load(source, R0),
        Expression::Bitwise { from: R0, to: R0, mask: pods.netmask().octets().to_vec(), xor: vec![0; 4] },
        Expression::Compare { how: Comparison::Equal, from: R0, with: pods.network().octets().to_vec() },
    ];
    let chain = |parts: &[&[Expression]]| Rule::new(parts.concat());
    let masquerade = [Expression::Masquerade];
    vec![
        (
            "guard",
            chain(&[
                &bridge(Meta::InputName, Comparison::Equal),
                &loopback(destination),
                &[Expression::Verdict(Verdict::Drop)],
            ])
            .comment("pods do not reach the node's loopback"),
        ),
        (
            "to-host-ports",
            chain(&[&[load(destination, R0), protocol(R1), port(R2)], &to_pod("host-ports-at")]),
        ),
        ("to-host-ports", chain(&[&[protocol(R0), port(R1)], &to_pod("host-ports")])),
        ("prerouting", chain(&[&local])),
        ("output", chain(&[&local])),
        (
            "postrouting",
            chain(&[
                &[load(source, R0), load(destination, R1)],
                &[Expression::InSet { set: "hairpin".to_owned(), key: R0 }],
                &masquerade,
            ])
            .comment("a pod to itself"),
        ),
        (
            "postrouting",
            chain(&[&bridge(Meta::OutputName, Comparison::Equal), &loopback(source), &masquerade])
                .comment("the node's loopback to a pod"),
        ),
        (
            "postrouting",
            chain(&[
                &from_pods,
                &[load(destination, R0), Expression::NotInSet { set: "inside".to_owned(), key: R0 }],
                &bridge(Meta::OutputName, Comparison::NotEqual),
                &masquerade,
            ])
            .comment("pods to the outside"),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_to_an_ipv6_address_of_the_node_leads_nowhere_and_unspecified_means_all() {
        let mapping = |ip: Option<&str>| PortMapping {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_port: 8080,
            host_ip: ip.map(|ip| ip.parse().unwrap()),
        };
        let all = HostPort { protocol: Protocol::Tcp, port: 8080, address: None };
        assert_eq!(HostPort::of(&mapping(None)), Some(all));
        assert_eq!(HostPort::of(&mapping(Some("0.0.0.0"))), Some(all));
        assert_eq!(HostPort::of(&mapping(Some("::"))), Some(all));
        assert_eq!(HostPort::of(&mapping(Some("::1"))), None);
        let one = HostPort { address: Some(Ipv4Addr::LOCALHOST), ..all };
        assert_eq!(HostPort::of(&mapping(Some("127.0.0.1"))), Some(one));
    }
}
