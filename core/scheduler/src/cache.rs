//! The state of the cluster, kept up to date by each event and by the scheduler's own decisions.
//!
//! **Invariant:** a pod counts on exactly one node: from the moment that it is assumed, through the confirmation
//! by the API, until it is gone. A pod on a node that is not known (yet, or any more) waits among the orphans.

mod view;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::device::Devices;
use crate::names::{NodeName, PodUid};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::pod::affinity::Namespaces;
use crate::queue::event::ClusterEvents;
use crate::volume::Volumes;
pub use view::View;

/// The state of the cluster.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: Vec<NodeInfo>,
    index: HashMap<NodeName, usize>,
    order: Vec<usize>,
    order_is_stale: bool,
    placed: HashMap<PodUid, Placed>,
    orphans: HashMap<NodeName, Vec<Arc<PodInfo>>>,
    nominated: HashMap<NodeName, Vec<Arc<PodInfo>>>,
    image_nodes: HashMap<Box<str>, i64>,
    with_affinity: usize,
    with_forbidden: usize,
    /// Namespaces and their labels.
    pub namespaces: Namespaces,
    /// Claims and volumes.
    pub volumes: Volumes,
    /// Claims to devices, and devices.
    pub devices: Devices,
}

#[derive(Debug)]
struct Placed {
    node: NodeName,
    pod: Arc<PodInfo>,
    assumed: bool,
}

impl Cache {
    /// The state as decisions see it.
    pub fn view(&mut self) -> View<'_> {
        if self.order_is_stale {
            self.order = interleaved(&self.nodes);
            self.order_is_stale = false;
        }
        View::of(self)
    }

    /// Adds a node or takes over its changes; says what might help a pod.
    pub fn set_node(&mut self, node: NodeInfo) -> ClusterEvents {
        self.count_images(&node.images, 1);
        if let Some(at) = self.index.get(&node.name).copied()
            && let Some(known) = self.nodes.get_mut(at)
        {
            let before = std::mem::take(&mut known.images);
            let zone = known.zone();
            let changes = known.update(node);
            self.order_is_stale |= known.zone() != zone;
            self.count_images(&before, -1);
            return changes;
        }
        let name = node.name.clone();
        self.index.insert(name.clone(), self.nodes.len());
        self.nodes.push(node);
        self.order_is_stale = true;
        for pod in self.orphans.remove(&name).unwrap_or_default() {
            self.add_to_node(&name, pod);
        }
        ClusterEvents::NODE_ADDED
    }

    /// Removes a node. Its pods stay known until they are removed themselves.
    pub fn remove_node(&mut self, name: &NodeName) -> ClusterEvents {
        let Some(at) = self.index.remove(name) else { return ClusterEvents::NONE };
        let node = self.nodes.swap_remove(at);
        if let Some(moved) = self.nodes.get(at) {
            self.index.insert(moved.name.clone(), at);
        }
        self.order_is_stale = true;
        self.with_affinity = self.with_affinity.saturating_sub(node.with_affinity);
        self.with_forbidden = self.with_forbidden.saturating_sub(node.with_forbidden);
        self.count_images(&node.images, -1);
        if !node.pods.is_empty() {
            self.orphans.insert(name.clone(), node.pods);
        }
        ClusterEvents::NODE_GONE
    }

    /// The names of all nodes.
    pub fn node_names(&self) -> Vec<NodeName> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// Places a pod that the API shows on a node, also one that was assumed; says what might help another pod.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: NodeName) -> ClusterEvents {
        let (news, same) = match self.placed.get_mut(&pod.uid) {
            Some(placed) => {
                (std::mem::replace(&mut placed.assumed, false), placed.node == node && placed.pod == pod)
            }
            None => (true, false),
        };
        let events = if news { ClusterEvents::POD_PLACED } else { ClusterEvents::NONE };
        if same {
            return events;
        }
        let before = self.take(&pod.uid);
        let changes = before.map_or(ClusterEvents::NONE, |before| changes(&before, &pod));
        self.put(pod, node, false);
        events | changes
    }

    /// Places a pod that is about to be bound.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: NodeName) {
        self.take(&pod.uid);
        self.put(pod, node, true);
    }

    /// Takes an assumed pod back; a pod that the API has confirmed stays.
    pub fn forget(&mut self, uid: &PodUid) -> ClusterEvents {
        if self.placed.get(uid).is_some_and(|placed| placed.assumed) {
            self.take(uid);
            return ClusterEvents::POD_GONE;
        }
        ClusterEvents::NONE
    }

    /// Removes a pod; says what might help another one.
    pub fn remove_pod(&mut self, uid: &PodUid) -> ClusterEvents {
        if self.take(uid).is_some() { ClusterEvents::POD_GONE } else { ClusterEvents::NONE }
    }

    /// Whether the pod counts on a node.
    pub fn is_placed(&self, uid: &PodUid) -> bool {
        self.placed.contains_key(uid)
    }

    /// The pods that count on a node.
    pub fn placed(&self) -> impl Iterator<Item = &PodUid> {
        self.placed.keys()
    }

    /// Reserves room on a node for a pod for which others had to go.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: NodeName) {
        self.denominate(&pod.uid);
        self.nominated.entry(node).or_default().push(pod);
    }

    /// Ends the reservation for a pod.
    pub fn denominate(&mut self, uid: &PodUid) {
        self.nominated.retain(|_, pods| {
            pods.retain(|pod| pod.uid != *uid);
            !pods.is_empty()
        });
    }

    /// The node that is reserved for a pod.
    pub fn nomination(&self, uid: &PodUid) -> Option<&NodeName> {
        self.nominated.iter().find(|(_, pods)| pods.iter().any(|pod| pod.uid == *uid)).map(|(node, _)| node)
    }

    fn put(&mut self, pod: Arc<PodInfo>, node: NodeName, assumed: bool) {
        self.add_to_node(&node, pod.clone());
        self.placed.insert(pod.uid.clone(), Placed { node, pod, assumed });
    }

    fn add_to_node(&mut self, name: &NodeName, pod: Arc<PodInfo>) {
        match self.index.get(name).and_then(|at| self.nodes.get_mut(*at)) {
            Some(node) => {
                if let Some(affinity) = &pod.affinity {
                    self.with_affinity += 1;
                    self.with_forbidden += usize::from(!affinity.forbidden.is_empty());
                }
                node.add(pod);
            }
            None => self.orphans.entry(name.clone()).or_default().push(pod),
        }
    }

    fn take(&mut self, uid: &PodUid) -> Option<Arc<PodInfo>> {
        let placed = self.placed.remove(uid)?;
        match self.index.get(&placed.node).and_then(|at| self.nodes.get_mut(*at)) {
            Some(node) => {
                let pod = node.remove(uid)?;
                if let Some(affinity) = &pod.affinity {
                    self.with_affinity = self.with_affinity.saturating_sub(1);
                    let forbidden = usize::from(!affinity.forbidden.is_empty());
                    self.with_forbidden = self.with_forbidden.saturating_sub(forbidden);
                }
            }
            None => {
                if let Some(pods) = self.orphans.get_mut(&placed.node) {
                    pods.retain(|pod| pod.uid != *uid);
                    if pods.is_empty() {
                        self.orphans.remove(&placed.node);
                    }
                }
            }
        }
        Some(placed.pod)
    }

    fn count_images(&mut self, images: &HashMap<Box<str>, i64>, sign: i64) {
        for name in images.keys() {
            let nodes = self.image_nodes.entry(name.clone()).or_insert(0);
            *nodes += sign;
            if *nodes == 0 {
                self.image_nodes.remove(name);
            }
        }
    }
}

fn changes(before: &PodInfo, after: &PodInfo) -> ClusterEvents {
    let mut events = ClusterEvents::NONE;
    if before.labels != after.labels {
        events = events | ClusterEvents::POD_LABELS;
    }
    if !before.deleting && after.deleting {
        // Terminating pods are not counted when pods are spread.
        events = events | ClusterEvents::POD_LABELS;
    }
    let (had, has) = (&before.requests.actual, &after.requests.actual);
    let others_shrank = had.others.iter().any(|(name, amount)| has.other(name) < *amount);
    if has.milli_cpu < had.milli_cpu || has.memory < had.memory || others_shrank {
        events = events | ClusterEvents::POD_SCALED_DOWN;
    }
    events
}

/// The nodes, one of each zone in turn, so that a search that ends early has seen all zones.
fn interleaved(nodes: &[NodeInfo]) -> Vec<usize> {
    let mut zones: BTreeMap<Option<String>, Vec<usize>> = BTreeMap::new();
    for (at, node) in nodes.iter().enumerate() {
        zones.entry(node.zone()).or_default().push(at);
    }
    let rounds = zones.values().map(Vec::len).max().unwrap_or(0);
    (0..rounds).flat_map(|round| zones.values().filter_map(move |zone| zone.get(round).copied())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn node(name: &str, zone: &str) -> NodeInfo {
        let labels = json!({"topology.kubernetes.io/zone": zone});
        NodeInfo::read(&from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()).unwrap()
    }

    fn pod(uid: &str) -> Arc<PodInfo> {
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        let pod = json!({"metadata": {"name": uid, "namespace": "d", "uid": uid}, "spec": spec});
        Arc::new(PodInfo::read(&from_value(pod).unwrap()).unwrap())
    }

    fn cpu(cache: &mut Cache, name: &str) -> i64 {
        let view = cache.view();
        view.node(view.position(name).unwrap()).unwrap().requested.milli_cpu
    }

    #[test]
    fn an_assumed_pod_counts_once_when_it_is_confirmed() {
        let mut cache = Cache::default();
        cache.set_node(node("a", "z"));
        cache.assume(pod("1"), NodeName::new("a"));
        assert_eq!(cache.place(pod("1"), NodeName::new("a")), ClusterEvents::POD_PLACED);
        assert_eq!(cpu(&mut cache, "a"), 1000);
        assert_eq!(cache.forget(&PodUid::new("1")), ClusterEvents::NONE);
        assert_eq!(cpu(&mut cache, "a"), 1000);
        assert_eq!(cache.remove_pod(&PodUid::new("1")), ClusterEvents::POD_GONE);
        assert_eq!(cpu(&mut cache, "a"), 0);
    }

    #[test]
    fn a_forgotten_pod_counts_no_more() {
        let mut cache = Cache::default();
        cache.set_node(node("a", "z"));
        cache.assume(pod("1"), NodeName::new("a"));
        assert_eq!(cache.forget(&PodUid::new("1")), ClusterEvents::POD_GONE);
        assert_eq!(cpu(&mut cache, "a"), 0);
    }

    #[test]
    fn pods_of_a_node_that_is_not_known_count_as_soon_as_it_is() {
        let mut cache = Cache::default();
        cache.place(pod("1"), NodeName::new("a"));
        cache.set_node(node("a", "z"));
        assert_eq!(cpu(&mut cache, "a"), 1000);
        cache.remove_node(&NodeName::new("a"));
        cache.set_node(node("a", "z"));
        assert_eq!(cpu(&mut cache, "a"), 1000);
    }

    #[test]
    fn nodes_are_searched_zone_by_zone_in_turn() {
        let mut cache = Cache::default();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a")] {
            cache.set_node(node(name, zone));
        }
        let view = cache.view();
        let names: Vec<_> =
            view.order().iter().map(|at| view.node(*at).unwrap().name.as_str().to_owned()).collect();
        assert_eq!(names, ["a1", "b1", "a2", "a3"]);
    }

    #[test]
    fn a_heartbeat_changes_nothing_that_could_help_a_pod() {
        let mut cache = Cache::default();
        assert_eq!(cache.set_node(node("a", "z")), ClusterEvents::NODE_ADDED);
        assert_eq!(cache.set_node(node("a", "z")), ClusterEvents::NONE);
        assert_eq!(cache.set_node(node("a", "y")), ClusterEvents::NODE_LABELS);
    }
}
