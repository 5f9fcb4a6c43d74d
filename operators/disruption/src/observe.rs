//! What is known of budgets and pods, and how large what manages the pods is to be (client).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use keelson_operator_kit::informer::Change;
use keelson_operator_kit::owner::controller_of;
use keelson_operator_kit::recorder::reference;
use keelson_operator_kit::selection::Selection;
use keelson_operator_kit::{Informer, ObjectKey, Observe, Watches, pod};
use kube::core::{DynamicObject, GroupVersion};
use kube::{Api, discovery};

use crate::validate::counts_managers;

/// What is known of the cluster.
#[derive(Default)]
pub struct Known {
    /// All budgets.
    pub budgets: Informer<PodDisruptionBudget>,
    /// All pods.
    pub pods: Informer<PodView>,
}

/// Everything that a reconcile reads and writes.
pub type World = keelson_operator_kit::World<Known>;

/// What the decisions need to know of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// The object, for Events.
    pub reference: ObjectReference,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What manages it.
    pub owner: Option<OwnerReference>,
    /// Whether it can serve.
    pub ready: bool,
    /// Whether its deletion has been asked for.
    pub terminating: bool,
}

/// What matters for one budget.
#[derive(Debug)]
pub struct Observed {
    /// Its name.
    pub key: ObjectKey,
    /// The object.
    pub object: Arc<PodDisruptionBudget>,
    /// The pods that it is about.
    pub pods: Vec<(ObjectKey, Arc<PodView>)>,
    /// How many pods all that manages these pods asks for, together; asked for only where that matters.
    pub managed: Result<i32, UnknownScale>,
}

/// Why it is not known how many pods there should be.
#[derive(Debug, thiserror::Error)]
pub enum UnknownScale {
    /// What manages a pod could not be read.
    #[error("read {kind} {name}, which manages pods")]
    Read {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// It is gone, or another one has its name.
    #[error("{kind} {name}, which manages pods, is gone")]
    Gone {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
}

impl Observe for Known {
    type Subject = ObjectKey;

    fn watch(watches: &mut Watches<'_, Self>) {
        watches.all(|it| &it.budgets, Some, |world, change| world.queue.add(change.key.clone()));
        watches.all(|it| &it.pods, read_pod, pod_changed);
    }
}

fn pod_changed(world: &World, change: &Change<PodView>) {
    let same = |pod: &Option<Arc<PodView>>| {
        pod.as_ref().map(|pod| (pod.labels.clone(), pod.owner.clone(), pod.ready, pod.terminating))
    };
    if same(&change.old) == same(&change.new) {
        return;
    }
    for (key, budget) in world.known.budgets.in_namespace(change.key.namespace()) {
        let mut pods = change.old.iter().chain(&change.new);
        if selection(&budget).is_some_and(|it| pods.any(|pod| it.matches(&pod.labels))) {
            world.queue.add(key);
        }
    }
}

/// What is known of a budget; `None` when it is gone.
pub async fn observe(world: &World, key: &ObjectKey) -> Option<Observed> {
    let object = world.known.budgets.get(key)?;
    let mut pods = Vec::new();
    if let Some(selection) = selection(&object) {
        pods = world.known.pods.in_namespace(key.namespace());
        pods.retain(|(_, pod)| selection.matches(&pod.labels));
    }
    let managed = if counts_managers(&object) { managed(world, key.namespace(), &pods).await } else { Ok(0) };
    Some(Observed { key: key.clone(), object, pods, managed })
}

async fn managed(
    world: &World,
    namespace: &str,
    pods: &[(ObjectKey, Arc<PodView>)],
) -> Result<i32, UnknownScale> {
    // A pod that goes may be the last trace of what managed it: it does not decide alone.
    let mut pods: Vec<&PodView> = pods.iter().map(|(_, pod)| &**pod).collect();
    pods.sort_by_key(|pod| pod.terminating);
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut scales: BTreeMap<String, i32> = BTreeMap::new();
    for (pod, owner) in pods.iter().filter_map(|pod| Some((pod, pod.owner.as_ref()?))) {
        if !seen.insert(&owner.uid) {
            continue;
        }
        match top_scale(world, namespace, owner).await {
            Ok((top, scale)) => {
                scales.insert(top, scale);
            }
            Err(UnknownScale::Gone { .. }) if pod.terminating => {}
            Err(error) => return Err(error),
        }
    }
    Ok(scales.values().fold(0, |sum, scale| sum.saturating_add(*scale)))
}

/// The UID of what manages pods in the end, and how many it asks for.
async fn top_scale(
    world: &World,
    namespace: &str,
    owner: &OwnerReference,
) -> Result<(String, i32), UnknownScale> {
    let top = top(world, namespace, owner).await?;
    let scale = scale(world, namespace, &top).await?;
    Ok((top.uid, scale))
}

/// What manages a ReplicaSet, if something does; else the owner itself.
async fn top(world: &World, namespace: &str, owner: &OwnerReference) -> Result<OwnerReference, UnknownScale> {
    if owner.kind != "ReplicaSet" || !owner.api_version.starts_with("apps/") {
        return Ok(owner.clone());
    }
    let api: Api<ReplicaSet> = Api::namespaced(world.client.clone(), namespace);
    let set = api.get_metadata_opt(&owner.name).await.map_err(|error| unread(owner, error))?;
    let set = set.filter(|set| set.metadata.uid.as_deref() == Some(&owner.uid));
    let set = set.ok_or_else(|| gone(owner))?;
    Ok(controller_of(&set.metadata).unwrap_or(owner).clone())
}

async fn scale(world: &World, namespace: &str, owner: &OwnerReference) -> Result<i32, UnknownScale> {
    let unread = |error| unread(owner, error);
    let group_version: GroupVersion = owner.api_version.parse().map_err(|_| gone(owner))?;
    let kind = group_version.with_kind(&owner.kind);
    let (resource, _) = discovery::pinned_kind(&world.client, &kind).await.map_err(unread)?;
    let api: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), namespace, &resource);
    let scale = match api.get_scale(&owner.name).await {
        Ok(scale) => scale,
        Err(kube::Error::Api(answer)) if answer.is_not_found() => return Err(gone(owner)),
        Err(error) => return Err(unread(error)),
    };
    if scale.metadata.uid.is_some_and(|uid| uid != owner.uid) {
        return Err(gone(owner));
    }
    Ok(scale.spec.and_then(|spec| spec.replicas).unwrap_or(0))
}

fn unread(owner: &OwnerReference, source: kube::Error) -> UnknownScale {
    UnknownScale::Read { kind: owner.kind.clone(), name: owner.name.clone(), source }
}

fn gone(owner: &OwnerReference) -> UnknownScale {
    UnknownScale::Gone { kind: owner.kind.clone(), name: owner.name.clone() }
}

/// Which pods a budget is about: without a selector none, with an empty one all; one that cannot be read is refused
/// later.
fn selection(budget: &PodDisruptionBudget) -> Option<Selection> {
    let selector = budget.spec.as_ref()?.selector.as_ref()?;
    Selection::possibly_everything(selector).ok()
}

fn read_pod(object: Pod) -> Option<PodView> {
    Some(PodView {
        reference: reference(&object),
        owner: controller_of(&object.metadata).cloned(),
        ready: pod::is_ready(&object),
        terminating: pod::is_terminating(&object),
        labels: object.metadata.labels.unwrap_or_default(),
    })
}
