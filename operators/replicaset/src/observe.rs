//! What is known of ReplicaSets and their pods (client).

use std::sync::Arc;

use keelson_operator_kit::informer::Change;
use keelson_operator_kit::{Informer, ObjectKey, Observe, Watches};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::expectations::Expectations;
use crate::pod::{self, Owner, PodView};
use crate::replica_set::{self, ReplicaSetView};
use crate::validate;

/// What is known of the cluster.
pub struct Known {
    /// All ReplicaSets.
    pub sets: Informer<ReplicaSetView>,
    /// The pods of ReplicaSets, and those that nobody manages.
    pub pods: Informer<PodView>,
    /// What was asked for and is not seen yet.
    pub expectations: Mutex<Expectations>,
}

/// Everything that a reconcile reads and writes.
pub type World = keelson_operator_kit::World<Known>;

/// What matters for one ReplicaSet.
#[derive(Debug)]
pub struct Observed {
    /// Its name.
    pub key: ObjectKey,
    /// What is known of it.
    pub set: Arc<ReplicaSetView>,
    /// The pods that it manages.
    pub own: Vec<validate::Pod>,
    /// The pods of its namespace that nobody manages.
    pub orphans: Vec<validate::Pod>,
    /// The pods of all ReplicaSets with the same owner, its own included.
    pub related: Vec<Arc<PodView>>,
    /// Whether the watch has told of everything that was done before.
    pub settled: bool,
}

impl Default for Known {
    fn default() -> Self {
        Known {
            sets: Informer::with_index(replica_set::index),
            pods: Informer::with_index(pod::index),
            expectations: Mutex::default(),
        }
    }
}

impl Observe for Known {
    type Subject = ObjectKey;

    fn watch(watches: &mut Watches<'_, Self>) {
        watches.all(|it| &it.sets, ReplicaSetView::read, set_changed);
        watches.all(|it| &it.pods, PodView::read, pod_changed);
    }
}

fn set_changed(world: &World, change: &Change<ReplicaSetView>) {
    let replaced = |new: &Arc<ReplicaSetView>| change.old.as_ref().is_some_and(|old| old.uid != new.uid);
    if let Some(old) = &change.old
        && change.new.as_ref().is_none_or(replaced)
    {
        world.known.expectations.lock().forget(&old.uid);
    }
    world.queue.add(change.key.clone());
}

fn pod_changed(world: &World, change: &Change<PodView>) {
    let (old, new) = (change.old.as_deref(), change.new.as_deref());
    world.known.meet_expectations(old, new);
    let owner = |pod: Option<&PodView>| pod.and_then(|pod| pod.owner.clone());
    let (old_owner, new_owner) = (owner(old), owner(new));
    for Owner { name, .. } in
        old_owner.iter().filter(|old| Some(*old) != new_owner.as_ref()).chain(&new_owner)
    {
        world.queue.add(change.key.sibling(name));
    }
    let Some(orphan) = new.filter(|pod| pod.owner.is_none() && !pod.terminating) else { return };
    for (key, set) in world.known.sets.in_namespace(change.key.namespace()) {
        if set.selection.as_ref().is_ok_and(|selection| selection.matches(&orphan.labels)) {
            world.queue.add(key);
        }
    }
}

impl Known {
    /// What is known of a ReplicaSet; `None` when it is gone.
    pub fn observe(&self, key: &ObjectKey) -> Option<Observed> {
        let set = self.sets.get(key)?;
        // First whether the watch has told everything, then what it has told: not the other way round.
        let settled = self.expectations.lock().are_settled(&set.uid, Instant::now());
        let own = self.pods.indexed(&set.uid);
        let orphans = self.pods.indexed(&pod::orphans(key.namespace()));
        let related = match &set.owner {
            Some(owner) => {
                let sets = self.sets.indexed(owner);
                sets.iter().flat_map(|(_, set)| self.pods.indexed(&set.uid)).map(|(_, pod)| pod).collect()
            }
            None => own.iter().map(|(_, pod)| Arc::clone(pod)).collect(),
        };
        Some(Observed { key: key.clone(), set, own, orphans, related, settled })
    }

    fn meet_expectations(&self, old: Option<&PodView>, new: Option<&PodView>) {
        let replaced = old.zip(new).is_some_and(|(old, new)| old.uid != new.uid);
        let mut expectations = self.expectations.lock();
        if let Some((old, owner)) = old.and_then(|old| old.owner.as_ref().map(|owner| (old, owner)))
            && (replaced || new.is_none_or(|new| new.terminating))
        {
            expectations.deleted(&owner.uid, &old.uid);
        }
        if let Some((new, owner)) = new.and_then(|new| new.owner.as_ref().map(|owner| (new, owner))) {
            if old.is_none() || replaced {
                expectations.created(&owner.uid, 1);
            }
            if new.terminating {
                expectations.deleted(&owner.uid, &new.uid);
            }
        }
    }
}
