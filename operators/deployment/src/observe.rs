//! What is known of Deployments and their ReplicaSets (client).

use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use keelson_operator_kit::informer::Change;
use keelson_operator_kit::owner::controller_of;
use keelson_operator_kit::selection::Selection;
use keelson_operator_kit::{Informer, ObjectKey, Observe, Watches, pod};

use crate::replica_set::{self, LAST_APPLIED, SetView};
use crate::validate::Set;

/// What is known of the cluster.
pub struct Known {
    /// All Deployments.
    pub deployments: Informer<Deployment>,
    /// The ReplicaSets of Deployments, and those that nobody manages.
    pub sets: Informer<SetView>,
    /// The pods of ReplicaSets that have not ended.
    pub pods: Informer<RunningPod>,
}

/// Everything that a reconcile reads and writes.
pub type World = keelson_operator_kit::World<Known>;

/// A pod that has not ended.
#[derive(Debug, PartialEq, Eq)]
pub struct RunningPod {
    /// The UID of the ReplicaSet that manages it.
    pub set_uid: String,
    /// Its name.
    pub set_name: String,
}

/// What matters for one Deployment.
#[derive(Debug)]
pub struct Observed {
    /// Its name.
    pub key: ObjectKey,
    /// The object.
    pub object: Arc<Deployment>,
    /// The ReplicaSets that it manages.
    pub own: Vec<Set>,
    /// The ReplicaSets of its namespace that nobody manages.
    pub orphans: Vec<Set>,
    /// The UIDs of those of its ReplicaSets that have pods which have not ended.
    pub running: Vec<String>,
}

impl Default for Known {
    fn default() -> Self {
        Known {
            deployments: Informer::default(),
            sets: Informer::with_index(replica_set::index),
            pods: Informer::with_index(|_, pod: &RunningPod| pod.set_uid.clone()),
        }
    }
}

impl Observe for Known {
    type Subject = ObjectKey;

    fn watch(watches: &mut Watches<'_, Self>) {
        watches.all(|it| &it.deployments, read, |world, change| world.queue.add(change.key.clone()));
        watches.all(|it| &it.sets, SetView::read, set_changed);
        watches.all(|it| &it.pods, read_pod, pod_changed);
    }
}

fn set_changed(world: &World, change: &Change<SetView>) {
    let owner = |set: &Option<Arc<SetView>>| set.as_ref().and_then(|set| set.owner.clone());
    let (old, new) = (owner(&change.old), owner(&change.new));
    for owner in old.iter().filter(|old| Some(*old) != new.as_ref()).chain(&new) {
        world.queue.add(change.key.sibling(&owner.name));
    }
    let Some(orphan) = change.new.as_ref().filter(|set| set.owner.is_none() && !set.terminating) else {
        return;
    };
    for (key, deployment) in world.known.deployments.in_namespace(change.key.namespace()) {
        let selector = deployment.spec.as_ref().map(|spec| Selection::new(&spec.selector));
        if selector.is_some_and(|it| it.is_ok_and(|it| it.matches(&orphan.labels))) {
            world.queue.add(key);
        }
    }
}

/// A Deployment may wait for the last of its old pods to end.
fn pod_changed(world: &World, change: &Change<RunningPod>) {
    let (Some(gone), None) = (&change.old, &change.new) else { return };
    let set = world.known.sets.get(&change.key.sibling(&gone.set_name)).filter(|set| set.uid == gone.set_uid);
    let Some(owner) = set.and_then(|set| set.owner.clone()) else { return };
    if world.known.pods.indexed(&gone.set_uid).is_empty() {
        world.queue.add(change.key.sibling(&owner.name));
    }
}

impl Known {
    /// What is known of a Deployment; `None` when it is gone.
    pub fn observe(&self, key: &ObjectKey) -> Option<Observed> {
        let object = self.deployments.get(key)?;
        let own = self.sets.indexed(object.metadata.uid.as_deref()?);
        let orphans = self.sets.indexed(&replica_set::orphans(key.namespace()));
        let has_pods = |uid: &String| !self.pods.indexed(uid).is_empty();
        let running = own.iter().map(|(_, set)| set.uid.clone()).filter(has_pods).collect();
        Some(Observed { key: key.clone(), object, own, orphans, running })
    }
}

fn read(mut deployment: Deployment) -> Option<Deployment> {
    if let Some(annotations) = &mut deployment.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    Some(deployment)
}

fn read_pod(object: Pod) -> Option<RunningPod> {
    let owner = controller_of(&object.metadata).filter(|owner| owner.kind == "ReplicaSet")?;
    let pod = RunningPod { set_uid: owner.uid.clone(), set_name: owner.name.clone() };
    (!pod::is_terminal(&object)).then_some(pod)
}
