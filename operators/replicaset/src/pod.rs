//! What is kept of a pod (pure).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::owner::controller_of;
use keelson_operator_kit::{ObjectKey, pod};

/// What the decisions need to know of a pod that belongs to a ReplicaSet, or to nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// Its UID.
    pub uid: String,
    /// The ReplicaSet that manages it.
    pub owner: Option<Owner>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How far it is.
    pub phase: Phase,
    /// Whether it can serve.
    pub ready: bool,
    /// Since when.
    pub ready_since: Option<Timestamp>,
    /// Whether its deletion has been asked for.
    pub terminating: bool,
    /// Where it runs.
    pub node: Option<String>,
    /// How often the container that was restarted most was.
    pub restarts: i32,
    /// The smaller, the sooner it goes.
    pub deletion_cost: i32,
    /// When it was made.
    pub created: Timestamp,
}

/// A ReplicaSet that manages a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its UID.
    pub uid: String,
    /// Its name.
    pub name: String,
}

/// How far a pod is, in the order in which pods are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It waits to be started, or starts.
    Pending,
    /// Its node does not answer.
    Unknown,
    /// It runs.
    Running,
    /// Its containers have ended for good.
    Terminal,
}

/// The annotation that says which pods are to be deleted first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

impl PodView {
    /// What is kept of a pod; `None` for one that something else than a ReplicaSet manages.
    pub fn read(pod: Pod) -> Option<Self> {
        let owner = match controller_of(&pod.metadata) {
            Some(owner) if owner.kind == "ReplicaSet" && owner.api_version.starts_with("apps/") => {
                Some(Owner { uid: owner.uid.clone(), name: owner.name.clone() })
            }
            Some(_) => return None,
            None => None,
        };
        let cost = pod.metadata.annotations.as_ref().and_then(|all| all.get(DELETION_COST));
        let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        Some(PodView {
            uid: pod.metadata.uid.clone()?,
            owner,
            phase: phase(&pod),
            ready: pod::is_ready(&pod),
            ready_since: pod::ready_since(&pod),
            terminating: pod::is_terminating(&pod),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty()),
            restarts: containers.into_iter().flatten().map(|one| one.restart_count).max().unwrap_or(0),
            deletion_cost: cost.and_then(|cost| cost.parse().ok()).unwrap_or(0),
            created: pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            labels: pod.metadata.labels.unwrap_or_default(),
        })
    }

    /// Whether it counts as a replica.
    pub fn is_active(&self) -> bool {
        !self.terminating && self.phase != Phase::Terminal
    }

    /// When it counts as available, if it stays ready; `None` where it is not ready.
    pub fn available_from(&self, min_ready_seconds: i32) -> Option<Timestamp> {
        if !self.ready {
            return None;
        }
        if min_ready_seconds == 0 {
            return Some(Timestamp::MIN);
        }
        let since = self.ready_since?;
        Some(keelson_operator_kit::time::plus_seconds(since, i64::from(min_ready_seconds)))
    }
}

/// Where a pod is found: under the UID of what manages it, or among those of its namespace that nobody manages.
pub fn index(key: &ObjectKey, pod: &PodView) -> String {
    pod.owner.as_ref().map_or_else(|| orphans(key.namespace()), |owner| owner.uid.clone())
}

/// The index of the pods of a namespace that nobody manages; no UID has a slash.
pub fn orphans(namespace: &str) -> String {
    format!("{namespace}/")
}

fn phase(pod: &Pod) -> Phase {
    match pod::phase(pod) {
        "Running" => Phase::Running,
        "Succeeded" | "Failed" => Phase::Terminal,
        "Unknown" => Phase::Unknown,
        // The API sets Pending when it makes a pod.
        _pending => Phase::Pending,
    }
}
