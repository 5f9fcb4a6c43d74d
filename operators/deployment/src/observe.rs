//! What is known of Deployments and their ReplicaSets (client).

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use keelson_operator_kit::informer::Change;
use keelson_operator_kit::owner::controller_of;
use keelson_operator_kit::selection::Selection;
use keelson_operator_kit::{Context, Controller, Informer, ObjectKey, Recorder, WorkQueue, pod};
use kube::runtime::watcher;
use kube::{Api, Client};

use crate::replica_set::{self, LAST_APPLIED, SetView};
use crate::validate::Set;

/// Everything that a reconcile reads and writes.
pub struct World {
    /// The API.
    pub client: Client,
    /// Writes Events.
    pub recorder: Recorder,
    /// All Deployments.
    pub deployments: Informer<Deployment>,
    /// The ReplicaSets of Deployments, and those that nobody manages.
    pub sets: Informer<SetView>,
    /// The pods of ReplicaSets that have not ended.
    pub pods: Informer<RunningPod>,
    /// Deployments to look at.
    pub queue: WorkQueue<ObjectKey>,
}

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

impl World {
    /// Sets up the watches.
    pub fn new(context: &Context, controller: &mut Controller) -> Arc<Self> {
        let world = Arc::new(World {
            client: context.client.clone(),
            recorder: context.recorder.clone(),
            deployments: Informer::default(),
            sets: Informer::with_index(replica_set::index),
            pods: Informer::with_index(|_, pod: &RunningPod| pod.set_uid.clone()),
            queue: WorkQueue::default(),
        });
        let all = watcher::Config::default;
        let queue = world.queue.clone();
        let api: Api<Deployment> = Api::all(context.client.clone());
        controller.watch(api, all(), &world.deployments, read, move |it| queue.add(it.key.clone()));
        let sets = Arc::clone(&world);
        let api: Api<ReplicaSet> = Api::all(context.client.clone());
        controller.watch(api, all(), &world.sets, SetView::read, move |it| sets.set_changed(it));
        let pods = Arc::clone(&world);
        let api: Api<Pod> = Api::all(context.client.clone());
        controller.watch(api, all(), &world.pods, read_pod, move |it| pods.pod_changed(it));
        world
    }

    /// What is known of a Deployment; `None` when it is gone.
    pub fn observe(&self, key: &ObjectKey) -> Option<Observed> {
        let object = self.deployments.get(key)?;
        let own = self.sets.indexed(object.metadata.uid.as_deref()?);
        let orphans = self.sets.indexed(&replica_set::orphans(key.namespace()));
        let has_pods = |uid: &String| !self.pods.indexed(uid).is_empty();
        let running = own.iter().map(|(_, set)| set.uid.clone()).filter(has_pods).collect();
        Some(Observed { key: key.clone(), object, own, orphans, running })
    }

    fn set_changed(&self, change: &Change<SetView>) {
        let owner = |set: &Option<Arc<SetView>>| set.as_ref().and_then(|set| set.owner.clone());
        let (old, new) = (owner(&change.old), owner(&change.new));
        for owner in old.iter().filter(|old| Some(*old) != new.as_ref()).chain(&new) {
            self.queue.add(change.key.sibling(&owner.name));
        }
        let Some(orphan) = change.new.as_ref().filter(|set| set.owner.is_none() && !set.terminating) else {
            return;
        };
        for (key, deployment) in self.deployments.in_namespace(change.key.namespace()) {
            let selector = deployment.spec.as_ref().map(|spec| Selection::new(&spec.selector));
            if selector.is_some_and(|it| it.is_ok_and(|it| it.matches(&orphan.labels))) {
                self.queue.add(key);
            }
        }
    }

    /// A Deployment may wait for the last of its old pods to end.
    fn pod_changed(&self, change: &Change<RunningPod>) {
        let (Some(gone), None) = (&change.old, &change.new) else { return };
        let set = self.sets.get(&change.key.sibling(&gone.set_name)).filter(|set| set.uid == gone.set_uid);
        let Some(owner) = set.and_then(|set| set.owner.clone()) else { return };
        if self.pods.indexed(&gone.set_uid).is_empty() {
            self.queue.add(change.key.sibling(&owner.name));
        }
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
