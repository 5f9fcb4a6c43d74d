//! Against the kernel, each test in a network namespace of its own that ends with its thread.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use keelson_nftables::{
    AddressType, Batch, Chain, ChainKind, Comparison, Connection, ConntrackKey, Data, DataType, Element,
    ElementValue, Expression, Family, FibInput, Hook, Meta, NatKind, PayloadBase, Policy, Register, Reject,
    Rule, Set, SetKind, Table, Verdict, conntrack, ct_state, ct_status,
};

/// Runs `test` in a new network namespace; without root there is nothing to test.
fn in_a_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: a network namespace needs root");
        return;
    }
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn loopback_up() {
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
}

const R0: Register = Register::new(0);
const R1: Register = Register::new(1);
const R2: Register = Register::new(2);
const R3: Register = Register::new(3);

fn table() -> Table {
    Table::new(Family::Ipv4, "keelson-0badcafe-test")
}

fn front(address: [u8; 4], port: u16) -> Data {
    Data::of(&[&address, &[17], &port.to_be_bytes()])
}

fn load_front() -> Vec<Expression> {
    vec![
        Expression::Payload { base: PayloadBase::Network, offset: 16, length: 4, to: R0 },
        Expression::Meta { key: Meta::Protocol, to: R1 },
        Expression::Payload { base: PayloadBase::Transport, offset: 2, length: 2, to: R2 },
    ]
}

fn services() -> Set {
    Set::new("services", &[DataType::Ipv4Address, DataType::Protocol, DataType::Port], SetKind::VerdictMap)
}

fn endpoints() -> Set {
    Set::new(
        "endpoints",
        &[DataType::Ipv4Address, DataType::Protocol, DataType::Port, DataType::Mark],
        SetKind::Map(vec![DataType::Ipv4Address, DataType::Port]),
    )
}

/// The shape of the proxy's rules: a verdict map to a chain that picks one of two endpoints.
fn balanced(port: u16) -> Batch {
    let mut batch = Batch::new();
    let table = table();
    batch.clear_table(&table);
    batch.add_table(&table);
    batch.add_set(&table, &services());
    batch.add_set(&table, &endpoints());
    batch.add_chain(&table, &Chain::nat("output", Hook::Output, -100));
    batch.add_chain(&table, &Chain::regular("pick-2"));
    let mut find = load_front();
    find.push(Expression::VerdictMap { map: "services".to_owned(), key: R0 });
    batch.add_rule(&table, "output", &Rule::new(find).comment("find the service"));
    let mut pick = load_front();
    pick.extend([
        Expression::Random { modulus: 2, offset: 0, to: R3 },
        Expression::Map { map: "endpoints".to_owned(), key: R0, to: R0 },
        Expression::Nat { kind: NatKind::Destination, family: Family::Ipv4, address: R0, port: Some(R1) },
    ]);
    batch.add_rule(&table, "pick-2", &Rule::new(pick));
    let service = Element::verdict(front([10, 96, 0, 1], 53), Verdict::Goto("pick-2".to_owned()));
    batch.add_elements(&table, &services(), [service]);
    let endpoint = |index: u32| {
        let key = Data::of(&[&[10, 96, 0, 1], &[17], &53_u16.to_be_bytes(), &index.to_ne_bytes()]);
        Element::value(key, Data::of(&[&[127, 0, 0, 1], &port.to_be_bytes()]))
    };
    batch.add_elements(&table, &endpoints(), (0..2).map(endpoint));
    batch
}

#[test]
fn a_datagram_to_a_service_reaches_an_endpoint() {
    in_a_namespace(|| {
        loopback_up();
        assert!(
            Command::new("ip").args(["route", "add", "default", "dev", "lo"]).status().unwrap().success()
        );
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut kernel = Connection::open().unwrap();
        kernel.commit(balanced(server.local_addr().unwrap().port())).unwrap();

        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.connect((Ipv4Addr::new(10, 96, 0, 1), 53)).unwrap();
        client.send(b"question").unwrap();
        let mut buffer = [0; 64];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"question");
        server.send_to(b"answer", from).unwrap();
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"answer");

        let entries = kernel.connections(Family::Ipv4, conntrack::UDP).unwrap();
        let entry = entries.iter().find(|entry| entry.original.destination_port == 53).expect("tracked");
        assert_eq!(entry.original.destination, Ipv4Addr::new(10, 96, 0, 1));
        assert_eq!(entry.reply.source, Ipv4Addr::LOCALHOST);
        kernel.forget(Family::Ipv4, entry).unwrap();
        kernel.forget(Family::Ipv4, entry).unwrap();
        let entries = kernel.connections(Family::Ipv4, conntrack::UDP).unwrap();
        assert!(entries.iter().all(|entry| entry.original.destination_port != 53));
    });
}

#[test]
fn what_was_committed_is_read_back() {
    in_a_namespace(|| {
        let mut kernel = Connection::open().unwrap();
        let before = kernel.generation().unwrap();
        kernel.commit(balanced(4000)).unwrap();
        assert_ne!(kernel.generation().unwrap(), before);
        assert_eq!(kernel.tables(Family::Ipv4).unwrap(), [table().name]);
        let chains = kernel.chains(Family::Ipv4).unwrap();
        assert_eq!(chains.iter().map(|chain| chain.name.as_str()).collect::<Vec<_>>(), ["output", "pick-2"]);
        assert_eq!(chains[0].hook, Some((3, -100)));
        assert_eq!(chains[0].kind.as_deref(), Some("nat"));
        assert_eq!(kernel.rules(&table()).unwrap().len(), 2);
        let found = kernel.elements(&table(), "services").unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].key, front([10, 96, 0, 1], 53));
        assert_eq!(found[0].value, ElementValue::Verdict(Verdict::Goto("pick-2".to_owned())));
        let found = kernel.elements(&table(), "endpoints").unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].value, ElementValue::Data(Data::of(&[&[127, 0, 0, 1], &4000_u16.to_be_bytes()])));
        let rule = |comment: &str| Rule::new([Expression::Counter]).comment(comment);
        let mut batch = Batch::new();
        batch.insert_rule(&table(), "output", &rule("ahead"));
        kernel.commit(batch).unwrap();
        let rules = kernel.rules(&table()).unwrap();
        let comments: Vec<&str> = rules.iter().map(|rule| rule.comment.as_str()).collect();
        assert_eq!(comments, ["ahead", "find the service", ""]);
        let mut batch = Batch::new();
        batch.delete_rule(&table(), "output", rules[0].handle);
        kernel.commit(batch).unwrap();
        assert_eq!(kernel.rules(&table()).unwrap().len(), 2);
        kernel.remove_table(&table()).unwrap();
        kernel.remove_table(&table()).unwrap();
        assert!(kernel.tables(Family::Ipv4).unwrap().is_empty());
        assert!(kernel.elements(&table(), "services").unwrap_err().is_missing());
    });
}

#[test]
fn a_refused_change_is_named_and_nothing_of_its_batch_remains() {
    in_a_namespace(|| {
        let mut kernel = Connection::open().unwrap();
        let mut batch = Batch::new();
        batch.add_table(&table());
        batch.add_set(&table(), &services());
        batch.delete_elements(&table(), &services(), [Element::key(front([10, 0, 0, 1], 1))]);
        let error = kernel.commit(batch).unwrap_err();
        assert!(error.is_missing(), "{error:?}");
        assert_eq!(error.to_string(), "delete elements of keelson-0badcafe-test services");
        assert!(kernel.tables(Family::Ipv4).unwrap().is_empty());
        kernel.commit(Batch::new()).unwrap();
    });
}

#[test]
fn thirty_thousand_elements_fit_in_one_transaction() {
    in_a_namespace(|| {
        let mut kernel = Connection::open().unwrap();
        let mut batch = Batch::new();
        batch.add_table(&table());
        batch.add_set(&table(), &endpoints());
        let key = |number: u32| {
            Data::of(&[&number.to_be_bytes(), &[6], &80_u16.to_be_bytes(), &0_u32.to_ne_bytes()])
        };
        let value = Data::of(&[&[127, 0, 0, 1], &80_u16.to_be_bytes()]);
        batch.add_elements(
            &table(),
            &endpoints(),
            (0..30_000).map(|n| Element::value(key(n), value.clone())),
        );
        kernel.commit(batch).unwrap();
        let mut batch = Batch::new();
        batch.delete_elements(&table(), &endpoints(), (10..30_000).map(|n| Element::key(key(n))));
        kernel.commit(batch).unwrap();
        assert_eq!(kernel.elements(&table(), "endpoints").unwrap().len(), 10);
    });
}

/// Every expression and kind of set is accepted, and `nft` understands what was written.
#[test]
fn nft_lists_what_was_written() {
    in_a_namespace(|| {
        let mut kernel = Connection::open().unwrap();
        kernel.commit(everything()).unwrap();
        let Ok(listed) = Command::new("nft").args(["list", "ruleset"]).output() else {
            eprintln!("not compared: there is no nft here");
            return;
        };
        let text = String::from_utf8(listed.stdout).unwrap();
        eprintln!("{text}");
        for expected in [
            "type filter hook input priority filter; policy drop;",
            "type nat hook postrouting priority srcnat; policy accept;",
            "10.0.0.0/8",
            "10.1.0.0-10.1.0.9 . 80",
            "ct state new reject",
            "reject with tcp reset",
            "fib daddr type local",
            "ct status dnat",
            "iifname != \"keel0badcafe\"",
            "masquerade fully-random",
            "redirect to",
            "meta mark set",
            "counter packets 0 bytes 0",
            "update @affinity { ip saddr timeout 3h : 10.0.0.1 . 8080 }",
            "comment \"remember\"",
        ] {
            assert!(text.contains(expected), "{expected:?} is missing in\n{text}");
        }
    });
}

fn everything() -> Batch {
    let table = table();
    let text = |text: &str| text.to_owned();
    let mut batch = Batch::new();
    batch.add_table(&table);
    let input = ChainKind::Filter { hook: Hook::Input, priority: 0, policy: Policy::Drop };
    batch.add_chain(&table, &Chain { name: text("input"), kind: input });
    batch.add_chain(&table, &Chain::nat("postrouting", Hook::Postrouting, 100));
    batch.add_chain(&table, &Chain::nat("prerouting", Hook::Prerouting, -100));
    let ranges = Set::new("ranges", &[DataType::Ipv4Address], SetKind::Set).with_intervals();
    batch.add_set(&table, &ranges);
    let several =
        Set::new("several", &[DataType::Ipv4Address, DataType::Port], SetKind::Set).with_intervals();
    batch.add_set(&table, &several);
    let affinity = Set::new(
        "affinity",
        &[DataType::Ipv4Address],
        SetKind::Map(vec![DataType::Ipv4Address, DataType::Port]),
    )
    .with_dynamic(65536);
    batch.add_set(&table, &affinity);
    let network = Element::range(Data(vec![10, 0, 0, 0]), Data(vec![10, 255, 255, 255]));
    let last = Element::range(Data(vec![240, 0, 0, 0]), Data(vec![255; 4]));
    batch.add_elements(&table, &ranges, [network, last]);
    let first = Data::of(&[&[10, 1, 0, 0], &[0, 80]]);
    let end = Data::of(&[&[10, 1, 0, 9], &[0, 80]]);
    batch.add_elements(&table, &several, [Element::range(first, end)]);

    let source = Expression::Payload { base: PayloadBase::Network, offset: 12, length: 4, to: R0 };
    let port = Expression::Payload { base: PayloadBase::Transport, offset: 2, length: 2, to: R1 };
    let equal = |with: &[u8]| Expression::Compare { how: Comparison::Equal, from: R0, with: with.to_vec() };
    let masked = |bit: u32| {
        let bit = bit.to_ne_bytes().to_vec();
        [
            Expression::Bitwise { from: R0, to: R0, mask: bit, xor: vec![0; 4] },
            Expression::Compare { how: Comparison::NotEqual, from: R0, with: vec![0; 4] },
        ]
    };
    let mut rule = |chain: &str, rule: Vec<Expression>| {
        batch.add_rule(&table, chain, &Rule::new(rule).comment("remember"))
    };
    rule(
        "input",
        vec![source.clone(), Expression::InSet { set: text("ranges"), key: R0 }, Expression::Counter],
    );
    rule("input", vec![source.clone(), port, Expression::NotInSet { set: text("several"), key: R0 }]);
    let mut new = vec![Expression::Conntrack { key: ConntrackKey::State, to: R0 }];
    new.extend(masked(ct_state::NEW));
    new.push(Expression::Reject(Reject::PortUnreachable));
    rule("input", new);
    let protocol = Expression::Meta { key: Meta::Protocol, to: R0 };
    rule("input", vec![protocol.clone(), equal(&[6]), Expression::Reject(Reject::TcpReset)]);
    rule(
        "input",
        vec![
            Expression::AddressType { of: FibInput::Destination, to: R0 },
            Expression::address_type(Comparison::Equal, R0, AddressType::Local),
            Expression::Verdict(Verdict::Accept),
        ],
    );
    let mut translated = vec![Expression::Conntrack { key: ConntrackKey::Status, to: R0 }];
    translated.extend(masked(ct_status::DESTINATION_NAT));
    translated.push(Expression::Masquerade);
    rule("postrouting", translated);
    let other = Expression::Compare {
        how: Comparison::NotEqual,
        from: R0,
        with: Expression::interface_bytes("keel0badcafe"),
    };
    rule(
        "prerouting",
        vec![
            Expression::Meta { key: Meta::InputName, to: R0 },
            other,
            protocol,
            equal(&[17]),
            Expression::Immediate { value: 5353_u16.to_be_bytes().to_vec(), to: R0 },
            Expression::Redirect { port: Some(R0) },
        ],
    );
    rule(
        "prerouting",
        vec![
            Expression::Meta { key: Meta::Mark, to: R0 },
            Expression::Bitwise {
                from: R0,
                to: R0,
                mask: (!0x4000_u32).to_ne_bytes().to_vec(),
                xor: 0x4000_u32.to_ne_bytes().to_vec(),
            },
            Expression::SetMeta { key: Meta::Mark, from: R0 },
        ],
    );
    rule(
        "prerouting",
        vec![
            source,
            Expression::Immediate { value: vec![10, 0, 0, 1], to: R1 },
            Expression::Immediate { value: 8080_u16.to_be_bytes().to_vec(), to: R2 },
            Expression::Remember {
                map: text("affinity"),
                key: R0,
                value: R1,
                timeout: Duration::from_secs(10800),
            },
        ],
    );
    batch
}
