use super::*;
use crate::front::Action;

fn node() -> Node {
    Node {
        cluster_id: "0badcafe".to_owned(),
        addresses: Vec::new(),
        pods: Vec::new(),
        services: "10.96.0.0/16".parse().unwrap(),
    }
}

fn front(last: u8) -> Front {
    Front { address: [10, 96, 0, last].into(), protocol: Protocol::Udp, port: 53 }
}

fn target(endpoints: &[u8]) -> Target {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|last| Endpoint { address: [10, 42, 0, *last].into(), port: 53, local: true })
        .collect();
    let action = match endpoints.len() {
        0 => Action::Reject,
        count => Action::Balance { endpoints: count as u32, affinity: None },
    };
    Target { action, masquerade: Masquerade::ByRange, endpoints }
}

fn name(name: &str) -> Name {
    Name::new("a", name)
}

#[test]
fn what_is_as_it_was_changes_nothing() {
    let mut installed = Installed::new(node());
    let wanted = || vec![(name("web"), vec![(front(1), target(&[2, 3]))])];
    assert!(!installed.change(wanted()).batch.is_empty());
    let rules = installed.rules();
    let again = installed.change(wanted());
    assert!(again.batch.is_empty());
    assert_eq!(again.aftermath, Aftermath::default());
    assert_eq!(installed.rules(), rules);
}

#[test]
fn the_kernel_is_told_to_forget_datagrams_to_endpoints_that_went() {
    let mut installed = Installed::new(node());
    installed.change(vec![(name("dns"), vec![(front(1), target(&[2, 3]))])]);
    let changes = installed.change(vec![(name("dns"), vec![(front(1), target(&[3]))])]);
    let left = HashSet::from([(Ipv4Addr::new(10, 42, 0, 3), 53)]);
    assert_eq!(changes.aftermath.datagrams, HashMap::from([(front(1), left)]));
    let gone = installed.change(vec![(name("dns"), vec![])]);
    assert_eq!(gone.aftermath.datagrams, HashMap::from([(front(1), HashSet::new())]));
    assert!(installed.hairpins.is_empty());
}

#[test]
fn a_front_belongs_to_one_service_until_that_gives_it_up() {
    let mut installed = Installed::new(node());
    installed.change(vec![(name("first"), vec![(front(1), target(&[2]))])]);
    let second = || (name("second"), vec![(front(1), target(&[3]))]);
    let changes = installed.change(vec![second()]);
    assert_eq!(changes.taken, [(name("second"), front(1), name("first"))]);
    assert!(changes.batch.is_empty());
    let changes = installed.change(vec![(name("first"), vec![])]);
    assert_eq!(changes.freed, BTreeSet::from([name("second")]));
    let changes = installed.change(vec![second()]);
    assert!(changes.taken.is_empty() && !changes.batch.is_empty());
}
