use kube::core::ApiResource;

use super::*;

const OWNERS: KindId = KindId(0);
const PODS: KindId = KindId(1);

fn graph() -> Graph {
    let mut graph = Graph::default();
    for (id, plural) in [(OWNERS, "owners"), (PODS, "pods")] {
        let resource = ApiResource {
            group: String::new(),
            version: "v1".to_owned(),
            api_version: "v1".to_owned(),
            kind: plural.to_owned(),
            plural: plural.to_owned(),
        };
        graph.add_kind(id, Arc::new(Served { resource, namespaced: true, verbs: Vec::new() }));
    }
    graph
}

fn uid(number: u32) -> Uid {
    Uid::new(&format!("{number:08x}-0000-4000-8000-000000000000"))
}

fn node(kind: KindId, owners: &[(u32, bool)], ending: Ending) -> Node {
    let owners = owners.iter().map(|(owner, blocks)| Owner { uid: uid(*owner), blocks: *blocks }).collect();
    Node { kind, key: ObjectKey::new("a", "x"), owners, ending }
}

/// The owner 1 with the dependents 2, which blocks it, and 3, which does not.
fn family() -> Graph {
    let mut graph = graph();
    assert!(graph.apply(uid(1), node(OWNERS, &[], Ending::No)).is_empty());
    assert!(graph.apply(uid(2), node(PODS, &[(1, true)], Ending::No)).is_empty());
    assert!(graph.apply(uid(3), node(PODS, &[(1, false)], Ending::No)).is_empty());
    graph
}

#[test]
fn of_an_object_without_owners_only_its_uid_is_kept() {
    let graph = family();
    assert_eq!((graph.present.len(), graph.nodes.len()), (3, 2));
}

#[test]
fn dependents_are_looked_at_when_their_owner_is_gone() {
    let mut graph = family();
    assert!(matches!(graph.look(uid(2)), Look::Nothing));
    assert_eq!(graph.remove(uid(1)), [uid(2), uid(3)]);
    assert!(matches!(graph.look(uid(2)), Look::Judge { has_dependents: false, .. }));
    graph.remove(uid(2));
    graph.remove(uid(3));
    assert!(graph.nodes.is_empty() && graph.dependents.is_empty() && graph.present.is_empty());
}

#[test]
fn an_owner_that_was_never_seen_is_looked_for() {
    let mut graph = graph();
    assert_eq!(graph.apply(uid(2), node(PODS, &[(1, true)], Ending::No)), [uid(2)]);
    graph.apply(uid(1), node(OWNERS, &[], Ending::No));
    assert!(matches!(graph.look(uid(2)), Look::Nothing), "the dependent came first");
}

#[test]
fn what_a_list_no_longer_holds_is_gone() {
    let mut graph = family();
    let wanted = graph.retain(OWNERS, &HashSet::new());
    assert_eq!(wanted, [uid(2), uid(3)]);
    assert_eq!(graph.present.len(), 2);
}

#[test]
fn foreground_deletion_waits_for_those_that_block() {
    let mut graph = family();
    let wanted = graph.apply(uid(1), node(OWNERS, &[], Ending::Foreground));
    assert_eq!(wanted, [uid(1), uid(2), uid(3)]);
    let Look::Foreground { blocked, dependents, .. } = graph.look(uid(1)) else { panic!() };
    assert!(blocked);
    assert_eq!(dependents, [uid(2)]);
    assert!(matches!(graph.look(uid(3)), Look::Judge { .. }), "it goes along, though nobody waits for it");
    assert_eq!(graph.remove(uid(2)), [uid(1)]);
    assert!(matches!(graph.look(uid(1)), Look::Foreground { blocked: false, .. }));
}

#[test]
fn an_owner_is_looked_at_when_a_dependent_no_longer_blocks_it() {
    let mut graph = family();
    graph.apply(uid(1), node(OWNERS, &[], Ending::Foreground));
    let wanted = graph.apply(uid(2), node(PODS, &[(1, false)], Ending::No));
    assert!(wanted.contains(&uid(1)));
    assert!(matches!(graph.look(uid(1)), Look::Foreground { blocked: false, .. }));
}

#[test]
fn an_orphaning_owner_lets_go_of_all_dependents_also_of_late_ones() {
    let mut graph = family();
    assert_eq!(graph.apply(uid(1), node(OWNERS, &[], Ending::Orphan)), [uid(1)]);
    assert_eq!(graph.apply(uid(4), node(PODS, &[(1, true)], Ending::No)), [uid(1)]);
    let Look::Orphan { dependents, .. } = graph.look(uid(1)) else { panic!() };
    assert_eq!(dependents.len(), 3);
    graph.apply(uid(2), node(PODS, &[], Ending::No));
    let Look::Orphan { dependents, .. } = graph.look(uid(1)) else { panic!() };
    assert_eq!(dependents.len(), 2);
}

#[test]
fn objects_that_wait_for_one_another_are_noticed() {
    let mut graph = graph();
    graph.apply(uid(1), node(OWNERS, &[(2, true)], Ending::Foreground));
    graph.apply(uid(2), node(OWNERS, &[(1, true)], Ending::No));
    assert!(matches!(graph.look(uid(2)), Look::Judge { has_dependents: true, may_be_circle: true, .. }));
}
