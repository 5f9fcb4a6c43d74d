//! What is to be done for a claim or a volume (pure).

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use serde_json::Value;

use crate::volume::{FOLDER, NODE, NodeView, PROVISIONER, is_own, volume};

/// Who is to make the volume for a claim.
const BY: &str = "volume.kubernetes.io/storage-provisioner";
/// The node that the scheduler has chosen for the claim's pod.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The longest value of a label.
const LONGEST_LABEL: usize = 63;

/// What is to be done for a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimPlan {
    /// Nothing (yet).
    Leave,
    /// This volume is to be made.
    Make(Value),
    /// It cannot be had.
    Refuse(String),
    /// Another node has to be chosen.
    ChooseAgain(String),
}

/// What is to be done for a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumePlan {
    /// Nothing.
    Leave,
    /// Nobody needs it.
    Delete,
    /// Its node is gone, and the folder with it.
    LetGo,
}

/// Decides for a claim; `node` is the one that was chosen, where it exists.
pub fn for_claim(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    node: Option<&NodeView>,
) -> ClaimPlan {
    let Some(spec) = &claim.spec else { return ClaimPlan::Leave };
    let is_ours = claim.annotations().get(BY).is_some_and(|by| by == PROVISIONER);
    let is_bound = spec.volume_name.as_ref().is_some_and(|name| !name.is_empty());
    let Some(name) = claim.annotations().get(SELECTED_NODE).filter(|name| !name.is_empty()) else {
        return ClaimPlan::Leave;
    };
    let Some(class) = class.filter(|class| class.provisioner == PROVISIONER) else { return ClaimPlan::Leave };
    if !is_ours || is_bound || claim.metadata.deletion_timestamp.is_some() {
        return ClaimPlan::Leave;
    }
    if let Some(why) = fault(claim, class) {
        return ClaimPlan::Refuse(why);
    }
    let Some(node) = node else {
        return ClaimPlan::ChooseAgain(format!("the node {name:?} that was selected does not exist"));
    };
    let Some(folder) = node.folder.as_deref().filter(|folder| folder.starts_with('/')) else {
        return ClaimPlan::Refuse(format!(
            "node {name:?} has no folder for volumes: it names none in its annotation {FOLDER}"
        ));
    };
    let Some(hostname) = node.hostname.as_deref() else {
        return ClaimPlan::Refuse(format!("node {name:?} has no label kubernetes.io/hostname"));
    };
    if name.len() > LONGEST_LABEL {
        return ClaimPlan::Refuse(format!("the name of node {name:?} is longer than the value of a label"));
    }
    ClaimPlan::Make(volume(claim, class, name, hostname, folder))
}

/// What the claim or its class asks for that a folder on a node cannot be.
fn fault(claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<String> {
    let spec = claim.spec.as_ref()?;
    if spec.volume_mode.as_deref() == Some("Block") {
        return Some("a folder is no block device: volumeMode Block is not supported".to_owned());
    }
    if spec.selector.is_some() {
        return Some("claim.spec.selector is not supported for volumes that are made on demand".to_owned());
    }
    if spec.data_source_ref.is_some() || spec.data_source.is_some() {
        return Some("claim.spec.dataSource is not supported: a new folder is empty".to_owned());
    }
    let shared = |mode: &&String| !matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod");
    if let Some(mode) = spec.access_modes.iter().flatten().find(shared) {
        return Some(format!(
            "a folder is on one node: the access mode {mode} is not supported, only ReadWriteOnce and ReadWriteOncePod"
        ));
    }
    let unknown = class.parameters.iter().flatten().next();
    unknown.map(|(name, _)| format!("the class {:?} has the unknown parameter {name:?}", class.name_any()))
}

/// Decides for a volume; `node_exists` says whether its node does.
pub fn for_volume(volume: &PersistentVolume, node_exists: bool) -> VolumePlan {
    if !is_own(volume) {
        return VolumePlan::Leave;
    }
    let held = volume.finalizers().iter().any(|it| it == FOLDER);
    if volume.metadata.deletion_timestamp.is_some() {
        return if held && !node_exists { VolumePlan::LetGo } else { VolumePlan::Leave };
    }
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    if phase == Some("Released") && policy == Some("Delete") { VolumePlan::Delete } else { VolumePlan::Leave }
}

/// The node of a volume.
pub fn node_of(volume: &PersistentVolume) -> Option<&str> {
    volume.labels().get(NODE).map(String::as_str)
}

#[cfg(test)]
mod tests;
