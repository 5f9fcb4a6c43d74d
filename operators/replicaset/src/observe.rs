//! What is known of ReplicaSets and their pods (client).

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use keelson_operator_kit::informer::Change;
use keelson_operator_kit::{Context, Controller, Informer, ObjectKey, Recorder, WorkQueue};
use kube::runtime::watcher;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::expectations::Expectations;
use crate::pod::{self, Owner, PodView};
use crate::replica_set::{self, ReplicaSetView};
use crate::validate;

/// Everything that a reconcile reads and writes.
pub struct World {
    /// The API.
    pub client: Client,
    /// Writes Events.
    pub recorder: Recorder,
    /// All ReplicaSets.
    pub sets: Informer<ReplicaSetView>,
    /// The pods of ReplicaSets, and those that nobody manages.
    pub pods: Informer<PodView>,
    /// What was asked for and is not seen yet.
    pub expectations: Mutex<Expectations>,
    /// ReplicaSets to look at.
    pub queue: WorkQueue<ObjectKey>,
}

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

impl World {
    /// Sets up the watches.
    pub fn new(context: &Context, controller: &mut Controller) -> Arc<Self> {
        let world = Arc::new(World {
            client: context.client.clone(),
            recorder: context.recorder.clone(),
            sets: Informer::with_index(replica_set::index),
            pods: Informer::with_index(pod::index),
            expectations: Mutex::default(),
            queue: WorkQueue::default(),
        });
        let (sets, pods) = (Arc::clone(&world), Arc::clone(&world));
        let all = watcher::Config::default;
        let api: Api<ReplicaSet> = Api::all(context.client.clone());
        controller.watch(api, all(), &world.sets, ReplicaSetView::read, move |it| sets.set_changed(it));
        let api: Api<Pod> = Api::all(context.client.clone());
        controller.watch(api, all(), &world.pods, PodView::read, move |it| pods.pod_changed(it));
        world
    }

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

    fn set_changed(&self, change: &Change<ReplicaSetView>) {
        let replaced = |new: &Arc<ReplicaSetView>| change.old.as_ref().is_some_and(|old| old.uid != new.uid);
        if let Some(old) = &change.old
            && change.new.as_ref().is_none_or(replaced)
        {
            self.expectations.lock().forget(&old.uid);
        }
        self.queue.add(change.key.clone());
    }

    fn pod_changed(&self, change: &Change<PodView>) {
        let (old, new) = (change.old.as_deref(), change.new.as_deref());
        self.meet_expectations(old, new);
        let owner = |pod: Option<&PodView>| pod.and_then(|pod| pod.owner.clone());
        let (old_owner, new_owner) = (owner(old), owner(new));
        for Owner { name, .. } in
            old_owner.iter().filter(|old| Some(*old) != new_owner.as_ref()).chain(&new_owner)
        {
            self.queue.add(change.key.sibling(name));
        }
        let Some(orphan) = new.filter(|pod| pod.owner.is_none() && !pod.terminating) else { return };
        for (key, set) in self.sets.in_namespace(change.key.namespace()) {
            if set.selection.as_ref().is_ok_and(|selection| selection.matches(&orphan.labels)) {
                self.queue.add(key);
            }
        }
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
