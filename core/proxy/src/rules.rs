//! The table: its sets, chains and rules, and the elements of fronts (pure).
//!
//! ```text
//! prerouting, output:  address . protocol . port -> verdict (services); else refuse what is in the service range
//! pick-N[-from-O][-aS]: address . protocol . port . random -> endpoint (endpoints); destination NAT
//! split-L-A[-aS]:      who is inside goes to pick-A-from-L, others to pick-L
//! postrouting:         of what was translated: hairpin, by range, by front (masquerade)
//! ```

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use keelson_nftables::{
    AddressType, Batch, Chain, Comparison, ConntrackKey, Data, DataType, Element, Expression, Family,
    FibInput, Hook, Meta, NatKind, PayloadBase, Register, Reject, Rule, Set, SetKind, Table, Verdict,
    ct_status,
};

use crate::config::Node;
use crate::front::{Action, Affinity, Endpoint, Front, Masquerade, Target};

const R0: Register = Register::new(0);
const R1: Register = Register::new(1);
const R2: Register = Register::new(2);
const R3: Register = Register::new(3);
const R4: Register = Register::new(4);
const R5: Register = Register::new(5);

/// Offsets of addresses in the IP header.
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;

/// How many clients are remembered; more are balanced anew with each connection.
const CLIENTS: u32 = 1 << 18;

/// Chains that are always there.
const REJECT: &str = "reject";
const OUTSIDE: &str = "masquerade-outside";
const ALWAYS: &str = "masquerade-all";
const NODE: &str = "masquerade-node";

/// The table of a cluster's Services.
pub(crate) fn table(cluster_id: &str) -> Table {
    Table::new(Family::Ipv4, format!("keelson-{cluster_id}-proxy"))
}

const FRONT: [DataType; 3] = [DataType::Ipv4Address, DataType::Protocol, DataType::Port];

fn endpoint_value() -> SetKind {
    SetKind::Map(vec![DataType::Ipv4Address, DataType::Port])
}

pub(crate) fn services() -> Set {
    Set::new("services", &FRONT, SetKind::VerdictMap)
}

pub(crate) fn endpoints() -> Set {
    let [address, protocol, port] = FRONT;
    Set::new("endpoints", &[address, protocol, port, DataType::Mark], endpoint_value())
}

pub(crate) fn masquerade() -> Set {
    Set::new("masquerade", &FRONT, SetKind::VerdictMap)
}

pub(crate) fn hairpin() -> Set {
    Set::new("hairpin", &[DataType::Ipv4Address, DataType::Ipv4Address], SetKind::Set)
}

/// A client and a front, and the endpoint to which the client comes back.
pub(crate) fn affinity() -> Set {
    let [address, protocol, port] = FRONT;
    let key = [DataType::Ipv4Address, address, protocol, port];
    Set::new("affinity", &key, endpoint_value()).with_dynamic(CLIENTS)
}

fn pods() -> Set {
    Set::new("pods", &[DataType::Ipv4Address], SetKind::Set).with_intervals()
}

pub(crate) fn front_key(front: &Front) -> Data {
    Data::of(&[&front.address.octets(), &[front.protocol.number()], &front.port.to_be_bytes()])
}

pub(crate) fn endpoint_data(address: Ipv4Addr, port: u16) -> Data {
    Data::of(&[&address.octets(), &port.to_be_bytes()])
}

/// The verdict of a front.
pub(crate) fn service_element(front: &Front, action: Action) -> Element {
    Element::verdict(front_key(front), verdict(action))
}

/// Who is seen with the node's address at a front, if that needs to be said.
pub(crate) fn masquerade_element(front: &Front, masquerade: Masquerade) -> Option<Element> {
    let chain = match masquerade {
        Masquerade::ByRange => return None,
        Masquerade::Outside => OUTSIDE,
        Masquerade::Always => ALWAYS,
        Masquerade::Node => NODE,
    };
    Some(Element::verdict(front_key(front), Verdict::Goto(chain.to_owned())))
}

/// The endpoint with this index at a front.
pub(crate) fn endpoint_element(front: &Front, index: u32, endpoint: &Endpoint) -> Element {
    let protocol = [front.protocol.number()];
    let fields: [&[u8]; 4] =
        [&front.address.octets(), &protocol, &front.port.to_be_bytes(), &index.to_ne_bytes()];
    Element::value(Data::of(&fields), endpoint_data(endpoint.address, endpoint.port))
}

pub(crate) fn hairpin_element(address: Ipv4Addr) -> Element {
    Element::key(Data::of(&[&address.octets(), &address.octets()]))
}

/// The part of a key of [`affinity`] that is the front, as [`front_key`] writes it.
pub(crate) fn affinity_front(key: &Data) -> Option<&[u8]> {
    key.0.get(4..16)
}

fn verdict(action: Action) -> Verdict {
    match action {
        Action::Reject => Verdict::Goto(REJECT.to_owned()),
        Action::Drop => Verdict::Drop,
        Action::Balance { endpoints, affinity } => {
            Verdict::Goto(Choice { offset: 0, count: endpoints, affinity }.chain())
        }
        Action::Split { local, all, affinity } => Verdict::Goto(split_chain(local, all, affinity)),
    }
}

fn suffix(affinity: Option<Affinity>) -> String {
    affinity.map(|Affinity(seconds)| format!("-a{seconds}")).unwrap_or_default()
}

fn split_chain(local: u32, all: u32, affinity: Option<Affinity>) -> String {
    format!("split-{local}-{all}{}", suffix(affinity))
}

/// Which indexes are drawn.
#[derive(Debug, Clone, Copy)]
struct Choice {
    offset: u32,
    count: u32,
    affinity: Option<Affinity>,
}

impl Choice {
    fn chain(self) -> String {
        let from = if self.offset == 0 { String::new() } else { format!("-from-{}", self.offset) };
        format!("pick-{}{from}{}", self.count, suffix(self.affinity))
    }

    fn rules(self) -> Vec<Rule> {
        let random = |to| Expression::Random { modulus: self.count, offset: self.offset, to };
        let map = |key, to| Expression::Map { map: "endpoints".to_owned(), key, to };
        let mut plain = load_front(R0);
        plain.extend([random(R3), map(R0, R0), nat(R0, R1)]);
        let plain = Rule::new(plain);
        let Some(Affinity(seconds)) = self.affinity else { return vec![plain] };
        let remember = Expression::Remember {
            map: "affinity".to_owned(),
            key: R0,
            value: R4,
            timeout: Duration::from_secs(u64::from(seconds)),
        };
        let mut load = vec![load(SOURCE, R0)];
        load.extend(load_front(R1));
        let mut back = load.clone();
        back.push(Expression::Map { map: "affinity".to_owned(), key: R0, to: R4 });
        back.extend([remember.clone(), nat(R4, R5)]);
        let mut first = load;
        first.extend([random(R4), map(R1, R4), remember, nat(R4, R5)]);
        vec![
            Rule::new(back).comment("a client that comes back"),
            Rule::new(first).comment("a client's first time"),
            // When no more clients can be remembered.
            plain,
        ]
    }
}

/// The chains that an action needs, those first that others lead to.
pub(crate) fn chains(action: Action) -> Vec<(String, Vec<Rule>)> {
    match action {
        Action::Reject | Action::Drop => Vec::new(),
        Action::Balance { endpoints, affinity } => {
            let choice = Choice { offset: 0, count: endpoints, affinity };
            vec![(choice.chain(), choice.rules())]
        }
        Action::Split { local, all, affinity } => {
            let inside = Choice { offset: local, count: all, affinity };
            let outside = Choice { offset: 0, count: local, affinity };
            let goto = |choice: Choice| Expression::Verdict(Verdict::Goto(choice.chain()));
            let mut made = vec![(inside.chain(), inside.rules())];
            let last = if local == 0 {
                Expression::Verdict(Verdict::Drop)
            } else {
                if outside.chain() != inside.chain() {
                    made.push((outside.chain(), outside.rules()));
                }
                goto(outside)
            };
            let from_pods = vec![load(SOURCE, R0), in_pods(), goto(inside)];
            let mut from_node = from_here().to_vec();
            from_node.push(goto(inside));
            let rules = vec![
                Rule::new(from_pods).comment("pods"),
                Rule::new(from_node).comment("the node"),
                Rule::new([last]).comment("from outside"),
            ];
            made.push((split_chain(local, all, affinity), rules));
            made
        }
    }
}

/// Adds a chain with its rules.
pub(crate) fn add_chain(batch: &mut Batch, table: &Table, name: &str, rules: &[Rule]) {
    batch.add_chain(table, &Chain::regular(name));
    for rule in rules {
        batch.add_rule(table, name, rule);
    }
}

/// The table anew, in place of what is there, without Services.
pub(crate) fn install(batch: &mut Batch, node: &Node) {
    let table = table(&node.cluster_id);
    batch.clear_table(&table);
    batch.add_table(&table);
    for set in [services(), endpoints(), masquerade(), hairpin(), affinity(), pods()] {
        batch.add_set(&table, &set);
    }
    let range = |net: &Ipv4Net| {
        let first = Data(net.network().octets().to_vec());
        Element::range(first, Data(net.broadcast().octets().to_vec()))
    };
    batch.add_elements(&table, &pods(), node.pods.iter().map(range));
    let masquerade = Expression::Masquerade;
    let mut node_only = from_here().to_vec();
    node_only.push(masquerade.clone());
    let refuse = vec![
        Rule::new([
            Expression::Meta { key: Meta::Protocol, to: R0 },
            compare(R0, vec![6]),
            Expression::Reject(Reject::TcpReset),
        ]),
        Rule::new([Expression::Reject(Reject::PortUnreachable)]),
    ];
    let outside = vec![Rule::new([load(SOURCE, R0), not_in_pods(), masquerade.clone()])];
    let always = vec![Rule::new([masquerade])];
    let chains = [(REJECT, refuse), (OUTSIDE, outside), (ALWAYS, always), (NODE, vec![Rule::new(node_only)])];
    for (name, rules) in chains {
        add_chain(batch, &table, name, &rules);
    }
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        batch.add_chain(&table, &Chain::nat(name, hook, -100));
        for rule in entrance(node.services) {
            batch.add_rule(&table, name, &rule);
        }
    }
    batch.add_chain(&table, &Chain::nat("postrouting", Hook::Postrouting, 100));
    for rule in exit(node.services) {
        batch.add_rule(&table, "postrouting", &rule);
    }
}

fn entrance(services: Ipv4Net) -> Vec<Rule> {
    let mut find = load_front(R0);
    find.push(Expression::VerdictMap { map: "services".to_owned(), key: R0 });
    let mut refuse = vec![load(DESTINATION, R0)];
    refuse.extend(within(R0, services));
    refuse.push(Expression::Verdict(Verdict::Goto(REJECT.to_owned())));
    vec![Rule::new(find).comment("Services"), Rule::new(refuse).comment("no such Service or port")]
}

fn exit(services: Ipv4Net) -> Vec<Rule> {
    let bit = ct_status::DESTINATION_NAT.to_ne_bytes().to_vec();
    let untouched = [
        Expression::Conntrack { key: ConntrackKey::Status, to: R0 },
        Expression::Bitwise { from: R0, to: R0, mask: bit, xor: vec![0; 4] },
        compare(R0, vec![0; 4]),
        Expression::Verdict(Verdict::Accept),
    ];
    let hairpin = [
        load(SOURCE, R0),
        load(DESTINATION, R1),
        Expression::InSet { set: "hairpin".to_owned(), key: R0 },
        Expression::Masquerade,
    ];
    let mut by_range = vec![Expression::Conntrack { key: ConntrackKey::OriginalDestination, to: R0 }];
    by_range.extend(within(R0, services));
    by_range.extend([load(SOURCE, R0), not_in_pods(), Expression::Masquerade]);
    let by_front = [
        Expression::Conntrack { key: ConntrackKey::OriginalDestination, to: R0 },
        Expression::Meta { key: Meta::Protocol, to: R1 },
        Expression::Conntrack { key: ConntrackKey::OriginalPort, to: R2 },
        Expression::VerdictMap { map: "masquerade".to_owned(), key: R0 },
    ];
    vec![
        Rule::new(untouched).comment("not to a Service"),
        Rule::new(hairpin).comment("an endpoint to itself"),
        Rule::new(by_range).comment("to a ClusterIP from outside of the pods"),
        Rule::new(by_front).comment("to the other addresses of Services"),
    ]
}

fn load(offset: u32, to: Register) -> Expression {
    Expression::Payload { base: PayloadBase::Network, offset, length: 4, to }
}

/// Address, protocol and port of the destination, into three registers.
fn load_front(first: Register) -> Vec<Expression> {
    let (second, third) = if first == R0 { (R1, R2) } else { (R2, R3) };
    vec![
        load(DESTINATION, first),
        Expression::Meta { key: Meta::Protocol, to: second },
        Expression::Payload { base: PayloadBase::Transport, offset: 2, length: 2, to: third },
    ]
}

fn nat(address: Register, port: Register) -> Expression {
    Expression::Nat { kind: NatKind::Destination, family: Family::Ipv4, address, port: Some(port) }
}

fn compare(from: Register, with: Vec<u8>) -> Expression {
    Expression::Compare { how: Comparison::Equal, from, with }
}

fn within(register: Register, net: Ipv4Net) -> [Expression; 2] {
    let mask = net.netmask().octets().to_vec();
    [
        Expression::Bitwise { from: register, to: register, mask, xor: vec![0; 4] },
        compare(register, net.network().octets().to_vec()),
    ]
}

fn in_pods() -> Expression {
    Expression::InSet { set: "pods".to_owned(), key: R0 }
}

fn not_in_pods() -> Expression {
    Expression::NotInSet { set: "pods".to_owned(), key: R0 }
}

fn from_here() -> [Expression; 2] {
    [
        Expression::AddressType { of: FibInput::Source, to: R0 },
        Expression::address_type(Comparison::Equal, R0, AddressType::Local),
    ]
}

/// How many rules the table has beside those of [`chains`].
pub(crate) const FIXED_RULES: usize = 2 + 1 + 1 + 1 + 2 + 2 + 4;

/// The endpoints of a front.
pub(crate) fn endpoint_elements<'a>(
    front: &'a Front,
    target: &'a Target,
) -> impl Iterator<Item = Element> + 'a {
    (0_u32..).zip(&target.endpoints).map(|(index, endpoint)| endpoint_element(front, index, endpoint))
}
