//! What is kept of a ReplicaSet (pure).

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{ObjectReference, PodTemplateSpec};
use keelson_operator_kit::ObjectKey;
use keelson_operator_kit::owner::controller_of;
use keelson_operator_kit::recorder::reference;
use keelson_operator_kit::selection::Selection;

/// What the decisions need to know of a ReplicaSet.
#[derive(Debug)]
pub struct ReplicaSetView {
    /// Its UID.
    pub uid: String,
    /// The UID of what manages it, such as a Deployment.
    pub owner: Option<String>,
    /// The object, for Events.
    pub reference: ObjectReference,
    /// Which version of its spec this is.
    pub generation: i64,
    /// Whether its deletion has been asked for.
    pub terminating: bool,
    /// Which pods are its own, or why nothing can say so.
    pub selection: Result<Selection, String>,
    /// How many pods it asks for.
    pub replicas: i32,
    /// How long a pod has to be ready before it is available, in seconds.
    pub min_ready_seconds: i32,
    /// The labels that its pods are made with.
    pub template_labels: BTreeMap<String, String>,
    /// What its pods are made from; kept only while it asks for any.
    pub template: Option<PodTemplateSpec>,
    /// What it says of itself.
    pub status: ReplicaSetStatus,
}

impl ReplicaSetView {
    /// What is kept of a ReplicaSet; `None` for one that the API has not completed.
    pub fn read(set: ReplicaSet) -> Option<Self> {
        let reference = reference(&set);
        let spec = set.spec?;
        let replicas = spec.replicas.unwrap_or(1);
        let template_labels = spec
            .template
            .as_ref()
            .and_then(|template| template.metadata.as_ref()?.labels.clone())
            .unwrap_or_default();
        Some(ReplicaSetView {
            owner: controller_of(&set.metadata).map(|owner| owner.uid.clone()),
            uid: set.metadata.uid?,
            reference,
            generation: set.metadata.generation.unwrap_or(0),
            terminating: set.metadata.deletion_timestamp.is_some(),
            selection: Selection::new(&spec.selector).map_err(|error| error.to_string()),
            replicas,
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            template_labels,
            template: spec.template.filter(|_| replicas > 0),
            status: set.status.unwrap_or_default(),
        })
    }
}

/// Where a ReplicaSet is found: under the UID of what manages it.
pub fn index(_: &ObjectKey, set: &ReplicaSetView) -> String {
    set.owner.clone().unwrap_or_default()
}
