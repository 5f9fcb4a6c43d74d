//! What is known of nodes (client).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use keelson_operator_kit::{Informer, ObjectKey, Observe, Watches};
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::ranges::Ranges;

/// A node, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Which one of its name.
    pub uid: String,
    /// At which revision.
    pub resource_version: String,
    /// Whether it has a range, of whatever kind.
    pub has_range: bool,
    /// Its ranges of IPv4.
    pub ranges: Vec<Ipv4Net>,
}

/// What is given and to be given.
pub struct Given {
    /// The cluster's range.
    pub ranges: Ranges,
    /// What was written and has not been seen at its node yet.
    pub unseen: BTreeMap<ObjectKey, Ipv4Net>,
    /// Nodes that came with a range, which has been looked at.
    pub known: BTreeSet<ObjectKey>,
}

/// What is known of the cluster.
pub struct Known {
    nodes: Informer<NodeView>,
    given: Mutex<Given>,
}

/// Everything that a reconcile reads and writes.
pub type World = keelson_operator_kit::World<Known>;

fn view(node: &Node) -> NodeView {
    let spec = node.spec.as_ref();
    let one = spec.and_then(|spec| spec.pod_cidr.clone());
    let all = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
    let told: Vec<String> = all.into_iter().chain(one).filter(|range| !range.is_empty()).collect();
    NodeView {
        uid: node.uid().unwrap_or_default(),
        resource_version: node.resource_version().unwrap_or_default(),
        has_range: !told.is_empty(),
        ranges: told.iter().filter_map(|range| range.parse().ok()).collect(),
    }
}

/// The node, for Events about it: they are found by its name in the place of a UID.
pub fn reference(key: &ObjectKey) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(key.name().to_owned()),
        uid: Some(key.name().to_owned()),
        ..ObjectReference::default()
    }
}

impl Observe for Known {
    type Subject = ObjectKey;

    fn watch(watches: &mut Watches<'_, Self>) {
        watches.all(
            |it| &it.nodes,
            |node| Some(view(&node)),
            |world, change| world.queue.add(change.key.clone()),
        );
    }
}

impl Known {
    /// No node yet, and what may be given.
    pub fn new(ranges: Ranges) -> Self {
        let given = Given { ranges, unseen: BTreeMap::new(), known: BTreeSet::new() };
        Known { nodes: Informer::default(), given: Mutex::new(given) }
    }

    /// What is known of a node.
    pub fn node(&self, key: &ObjectKey) -> Option<Arc<NodeView>> {
        self.nodes.get(key)
    }

    /// A range that nobody has, for a node that has none; `None` if there is none left.
    pub fn reserve(&self, key: &ObjectKey) -> Option<Ipv4Net> {
        let nodes = self.nodes.all();
        let mut given = self.given.lock();
        if let Some(range) = given.unseen.get(key) {
            return Some(*range);
        }
        let Given { ranges, unseen, known: _ } = &mut *given;
        let used = nodes.iter().flat_map(|(_, node)| &node.ranges).chain(unseen.values());
        let range = ranges.next(used)?;
        unseen.insert(key.clone(), range);
        Some(range)
    }

    /// The node shows what it has. Says whether that is new and not from here.
    pub fn seen(&self, key: &ObjectKey) -> bool {
        let mut given = self.given.lock();
        let own = given.unseen.remove(key).is_some();
        given.known.insert(key.clone()) && !own
    }

    /// The node is gone.
    pub fn forget(&self, key: &ObjectKey) {
        let mut given = self.given.lock();
        given.unseen.remove(key);
        given.known.remove(key);
    }

    /// Whether a range lies in the cluster's.
    pub fn contains(&self, range: &Ipv4Net) -> bool {
        self.given.lock().ranges.contains(range)
    }

    /// Another node with one of these ranges.
    pub fn rival(&self, key: &ObjectKey, ranges: &[Ipv4Net]) -> Option<ObjectKey> {
        let mut nodes = self.nodes.all().into_iter();
        let overlaps = |one: &Ipv4Net, other: &Ipv4Net| one.contains(other) || other.contains(one);
        let found = nodes.find(|(other, node)| {
            other != key && node.ranges.iter().any(|one| ranges.iter().any(|own| overlaps(one, own)))
        });
        found.map(|(other, _)| other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_either_field() {
        let node = |spec: serde_json::Value| -> NodeView {
            view(
                &serde_json::from_value(serde_json::json!({"metadata": {"name": "a"}, "spec": spec}))
                    .unwrap(),
            )
        };
        assert!(!node(serde_json::json!({})).has_range);
        let both =
            node(serde_json::json!({"podCIDR": "10.42.1.0/24", "podCIDRs": ["10.42.1.0/24", "fd00::/64"]}));
        assert!(both.has_range);
        assert_eq!(both.ranges, ["10.42.1.0/24".parse::<Ipv4Net>().unwrap(); 2]);
        assert!(node(serde_json::json!({"podCIDR": "fd00::/64"})).has_range);
    }
}
