use pretty_assertions::assert_eq;

use super::machine::Node;
use super::*;

/// A machine of so many nodes; neighbours in pairs (0 and 1, 2 and 3) are nearer than others.
fn machine(count: u32) -> NumaMachine {
    let distance = |a: u32, b: u32| {
        if a == b {
            10
        } else if a / 2 == b / 2 {
            12
        } else {
            21
        }
    };
    let node = |number: u32| Node {
        distances: (0..count).map(|other| (other, distance(number, other))).collect(),
        ..Node::default()
    };
    NumaMachine((0..count).map(|number| (number, node(number))).collect())
}

fn topology(policy: Policy, count: u32, closest: bool) -> Topology {
    Topology { policy, scope: Scope::Container, closest, machine: machine(count) }
}

fn mask(nodes: &[u32]) -> Mask {
    Mask::of(nodes.iter().copied())
}

fn hint(nodes: &[u32], preferred: bool) -> Hint {
    Hint { nodes: Some(mask(nodes)), preferred }
}

/// Where each policy places that on a machine of two nodes; `!` where it refuses.
fn places(hints: &[Vec<Hint>]) -> [String; 3] {
    [Policy::BestEffort, Policy::Restricted, Policy::SingleNumaNode].map(|policy| {
        match topology(policy, 2, false).place(hints) {
            Ok(Some(mask)) => mask.nodes().map(|node| node.to_string()).collect::<Vec<_>>().join(","),
            Ok(None) => "any".to_owned(),
            Err(Unaligned) => "!".to_owned(),
        }
    })
}

#[test]
fn what_all_prefer_is_chosen_and_strict_policies_refuse_the_rest() {
    let (zero, one, both) = (hint(&[0], true), hint(&[1], true), hint(&[0, 1], false));
    assert_eq!(places(&[vec![zero, one, both], vec![one, both]]), ["1", "1", "1"]);
    assert_eq!(places(&[vec![zero, both], vec![one, both]]), ["0", "!", "!"]);
    assert_eq!(places(&[]), ["0,1", "0,1", "any"]);
    assert_eq!(places(&[vec![Hint::ANYWHERE], vec![one, both]]), ["1", "1", "1"]);
    assert_eq!(places(&[vec![Hint::NOWHERE], vec![one]]), ["1", "!", "!"]);
    // The machine has it at two nodes alone.
    assert_eq!(places(&[vec![hint(&[0, 1], true)]]), ["0,1", "0,1", "!"]);
    // Nothing in common.
    assert_eq!(places(&[vec![zero], vec![one]]), ["0,1", "!", "!"]);
    assert_eq!(topology(Policy::None, 2, false).place(&[vec![Hint::NOWHERE]]), Ok(None));
}

#[test]
fn without_agreement_as_many_nodes_are_taken_as_the_neediest_needs() {
    let near = topology(Policy::BestEffort, 4, false);
    let needy = vec![hint(&[0, 1], true), hint(&[2, 3], true), hint(&[0, 1, 2, 3], false)];
    let modest = vec![hint(&[0], true), hint(&[2, 3], false), hint(&[0, 1, 2, 3], false)];
    assert_eq!(near.place(&[needy, modest]).unwrap(), Some(mask(&[0, 1])));
}

#[test]
fn nodes_that_are_nearer_to_each_other_go_first_where_that_is_wanted() {
    let hints = [vec![hint(&[1, 2], true), hint(&[2, 3], true)]];
    assert_eq!(topology(Policy::Restricted, 4, false).place(&hints).unwrap(), Some(mask(&[1, 2])));
    assert_eq!(topology(Policy::Restricted, 4, true).place(&hints).unwrap(), Some(mask(&[2, 3])));
}

#[test]
fn hints_are_the_places_with_enough_and_the_smallest_that_the_machine_has_are_preferred() {
    let at = |node: u32, count: usize| std::iter::repeat_n(mask(&[node]), count);
    let all: Vec<Mask> = at(0, 4).chain(at(1, 4)).collect();
    let supply = |free: Vec<Mask>, reused: Vec<Mask>| Supply { all: all.clone(), free, reused };
    let both = |preferred| hint(&[0, 1], preferred);
    let found = hints(&[0, 1], &supply(all.clone(), Vec::new()), 3);
    assert_eq!(found, [hint(&[0], true), hint(&[1], true), both(false)]);
    let some: Vec<Mask> = at(0, 2).chain(at(1, 3)).collect();
    assert_eq!(hints(&[0, 1], &supply(some.clone(), Vec::new()), 3), [hint(&[1], true), both(false)]);
    assert_eq!(hints(&[0, 1], &supply(some.clone(), Vec::new()), 5), [both(true)]);
    assert_eq!(hints(&[0, 1], &supply(some.clone(), Vec::new()), 6), [Hint::NOWHERE]);
    // What the pod has already stays part of it.
    assert_eq!(hints(&[0, 1], &supply(some, at(0, 1).collect()), 3), [hint(&[0], true), both(false)]);
}

#[test]
fn a_machine_of_too_many_nodes_is_refused() {
    let settings = |policy: &str| KubeletConfiguration {
        topology_manager_policy: policy.to_owned(),
        ..KubeletConfiguration::default()
    };
    assert!(Topology::new(&settings("none"), machine(9)).is_ok());
    let told = Topology::new(&settings("restricted"), machine(9)).unwrap_err().to_string();
    assert!(told.ends_with("more than 8 NUMA Nodes, and this one has 9"), "{told}");
}
