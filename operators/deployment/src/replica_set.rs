//! What is kept of a ReplicaSet (pure).

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::ObjectKey;
use keelson_operator_kit::owner::controller_of;

use crate::template::Fingerprint;

/// What kubectl keeps for itself, and nobody else needs.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What the decisions need to know of a ReplicaSet that belongs to a Deployment, or to nobody.
#[derive(Clone, Debug)]
pub struct SetView {
    /// Its UID.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
    /// The Deployment that manages it.
    pub owner: Option<Owner>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// When it was made.
    pub created: Timestamp,
    /// Whether its deletion has been asked for.
    pub terminating: bool,
    /// Which version of its spec this is.
    pub generation: i64,
    /// What its pods are made from.
    pub template: Fingerprint,
    /// How many pods it asks for.
    pub replicas: i32,
    /// How long a pod has to be ready before it is available, in seconds.
    pub min_ready_seconds: i32,
    /// What it says of itself.
    pub status: ReplicaSetStatus,
}

/// A Deployment that manages a ReplicaSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its UID.
    pub uid: String,
    /// Its name.
    pub name: String,
}

impl SetView {
    /// What is kept of a ReplicaSet; `None` for one that something else than a Deployment manages.
    pub fn read(set: ReplicaSet) -> Option<Self> {
        let owner = match controller_of(&set.metadata) {
            Some(owner) if owner.kind == "Deployment" && owner.api_version.starts_with("apps/") => {
                Some(Owner { uid: owner.uid.clone(), name: owner.name.clone() })
            }
            Some(_) => return None,
            None => None,
        };
        let meta = set.metadata;
        let spec = set.spec?;
        let mut annotations = meta.annotations.unwrap_or_default();
        annotations.remove(LAST_APPLIED);
        Some(SetView {
            uid: meta.uid?,
            resource_version: meta.resource_version?,
            owner,
            labels: meta.labels.unwrap_or_default(),
            annotations,
            created: meta.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            terminating: meta.deletion_timestamp.is_some(),
            generation: meta.generation.unwrap_or(0),
            template: Fingerprint::of(&spec.template.unwrap_or_default()),
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            status: set.status.unwrap_or_default(),
        })
    }

    /// How many of its pods have been ready for long enough.
    pub fn available(&self) -> i32 {
        self.status.available_replicas.unwrap_or(0)
    }
}

/// Where a ReplicaSet is found: under the UID of what manages it, or among those of its namespace that nobody manages.
pub fn index(key: &ObjectKey, set: &SetView) -> String {
    set.owner.as_ref().map_or_else(|| orphans(key.namespace()), |owner| owner.uid.clone())
}

/// The index of the ReplicaSets of a namespace that nobody manages; no UID has a slash.
pub fn orphans(namespace: &str) -> String {
    format!("{namespace}/")
}
