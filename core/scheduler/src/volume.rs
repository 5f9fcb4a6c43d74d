//! Claims of volumes and volumes, as far as they decide where a pod can run.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use crate::names::ObjectName;
use crate::selector::NodeSelector;

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The volume that it names.
    pub volume: Option<Arc<str>>,
    /// Whether it and the volume belong to each other.
    pub bound: bool,
    /// Whether its volume was lost.
    pub lost: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// A PersistentVolume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The nodes that can reach it; `None` is all.
    pub nodes: Option<NodeSelector>,
}

/// The cluster's claims and volumes.
#[derive(Clone, Debug, Default)]
pub struct Volumes {
    /// By namespace and name.
    pub claims: HashMap<ObjectName, Claim>,
    /// By name.
    pub volumes: HashMap<Arc<str>, Volume>,
}

impl Claim {
    /// Reads a claim.
    pub fn read(claim: &core::PersistentVolumeClaim) -> Self {
        let spec = claim.spec.as_ref();
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        let volume = spec.and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
        let annotations = claim.metadata.annotations.as_ref();
        let completed = annotations.is_some_and(|all| all.contains_key("pv.kubernetes.io/bind-completed"));
        Claim {
            bound: volume.is_some() && (completed || phase == Some("Bound")),
            volume: volume.map(Into::into),
            lost: phase == Some("Lost"),
            deleting: claim.metadata.deletion_timestamp.is_some(),
        }
    }
}

impl Volume {
    /// Reads a volume.
    pub fn read(volume: &core::PersistentVolume) -> Self {
        let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
        Volume { nodes: affinity.and_then(|it| it.required.as_ref()).map(NodeSelector::read) }
    }
}
