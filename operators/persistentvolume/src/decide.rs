//! What is to be done for a claim or a volume (pure).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use keelson_operator_kit::recorder::Severity;
use kube::ResourceExt;

use crate::matching::{class_of_claim, find, is_for, mismatch};

/// A claim once was bound.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The other side was chosen here, not by a user.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Who made a volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Who is to make a volume for a claim.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The same, for older provisioners.
pub const OLDER_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The node that the scheduler has chosen.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes whose volumes people make.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// Something to tell about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telling {
    /// How bad it is.
    pub severity: Severity,
    /// A word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// What is to be done for a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimPlan {
    /// Nothing.
    Leave,
    /// It gets the default class.
    Classify(String),
    /// It and the volume belong together: what is missing of that is to be written.
    Bind(Arc<PersistentVolume>),
    /// Somebody else is to make a volume.
    HandOver(String, Telling),
    /// It stays pending.
    Wait(Option<Telling>),
    /// Its volume is gone, or is another's.
    Lose(Telling),
}

/// What is to be done for a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumePlan {
    /// Nothing.
    Leave,
    /// It is in this phase.
    Phase(&'static str),
    /// Its claim has to be looked at.
    LookAtClaim,
    /// It no longer is for the claim that it names; whether the name stays.
    Unbind {
        /// A user has reserved it for a claim of this name.
        reserved: bool,
    },
    /// It cannot be given back as its policy says.
    Fail(Telling),
}

/// What is known beside a claim.
pub struct Surroundings<'a> {
    /// All volumes.
    pub volumes: &'a [Arc<PersistentVolume>],
    /// The class that the claim names, where there is one of that name.
    pub class: Option<&'a StorageClass>,
    /// The name of the default class.
    pub default_class: Option<&'a str>,
    /// Pods without a node that use the claim.
    pub waiting_pods: &'a [String],
}

fn normal(reason: &'static str, message: impl Into<String>) -> Telling {
    Telling { severity: Severity::Normal, reason, message: message.into() }
}

fn warning(reason: &'static str, message: impl Into<String>) -> Telling {
    Telling { severity: Severity::Warning, reason, message: message.into() }
}

fn named(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// Decides for a claim.
pub fn for_claim(claim: &PersistentVolumeClaim, around: &Surroundings<'_>) -> ClaimPlan {
    if claim.annotations().contains_key(BIND_COMPLETED) {
        return for_bound(claim, around.volumes);
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return ClaimPlan::Leave;
    }
    let Some(name) = named(claim) else { return for_unbound(claim, around) };
    let Some(volume) = around.volumes.iter().find(|volume| volume.name_any() == name) else {
        return ClaimPlan::Wait(None);
    };
    let claimed = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
    if claimed && !is_for(volume, claim) {
        let told = format!("volume {name:?} already bound to a different claim.");
        return ClaimPlan::Wait(Some(warning("FailedBinding", told)));
    }
    match mismatch(volume, claim).filter(|_| !claimed) {
        Some(why) => {
            let told = format!("Cannot bind to requested volume {name:?}: {why}");
            ClaimPlan::Wait(Some(warning("VolumeMismatch", told)))
        }
        None => ClaimPlan::Bind(Arc::clone(volume)),
    }
}

fn for_bound(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>]) -> ClaimPlan {
    let lost = |reason, message: &str| ClaimPlan::Lose(warning(reason, message));
    let Some(name) = named(claim) else {
        return lost(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        );
    };
    let Some(volume) = volumes.iter().find(|volume| volume.name_any() == name) else {
        return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if reference.is_none() || is_for(volume, claim) {
        return ClaimPlan::Bind(Arc::clone(volume));
    }
    lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

fn for_unbound(claim: &PersistentVolumeClaim, around: &Surroundings<'_>) -> ClaimPlan {
    let class = match (class_of_claim(claim), around.default_class) {
        (None, Some(default)) => return ClaimPlan::Classify(default.to_owned()),
        (class, _) => class.unwrap_or_default(),
    };
    let late =
        around.class.is_some_and(|it| it.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let delayed = late && !claim.annotations().contains_key(SELECTED_NODE);
    if let Some(volume) = find(claim, around.volumes, delayed) {
        return ClaimPlan::Bind(volume);
    }
    if delayed {
        let told = match around.waiting_pods {
            [] => normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
            pods => {
                normal("WaitForPodScheduled", format!("waiting for pod {} to be scheduled", pods.join(",")))
            }
        };
        return ClaimPlan::Wait(Some(told));
    }
    if class.is_empty() {
        let told = "no persistent volumes available for this claim and no storage class is set";
        return ClaimPlan::Wait(Some(normal("FailedBinding", told)));
    }
    let Some(found) = around.class else {
        let told = format!("storageclass.storage.k8s.io {class:?} not found");
        return ClaimPlan::Wait(Some(warning("ProvisioningFailed", told)));
    };
    if found.provisioner == NO_PROVISIONER {
        let told = format!("no volume plugin matched name: {NO_PROVISIONER}");
        return ClaimPlan::Wait(Some(warning("ProvisioningFailed", told)));
    }
    let told = format!(
        "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system administrator. \
         If volume creation is delayed, please verify that the provisioner is running and correctly registered.",
        found.provisioner
    );
    ClaimPlan::HandOver(found.provisioner.clone(), normal("ExternalProvisioning", told))
}

/// Decides for a volume; `claim` is the one of the name in its `claimRef`.
pub fn for_volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumePlan {
    let Some(spec) = &volume.spec else { return VolumePlan::Leave };
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let enter =
        |wanted: &'static str| if phase == wanted { VolumePlan::Leave } else { VolumePlan::Phase(wanted) };
    let Some(reference) = &spec.claim_ref else { return enter("Available") };
    let Some(uid) = reference.uid.as_ref().filter(|uid| !uid.is_empty()) else {
        // Reserved: the claim's turn, once there is one.
        return if claim.is_some() && phase == "Available" {
            VolumePlan::LookAtClaim
        } else {
            enter("Available")
        };
    };
    let Some(claim) = claim.filter(|claim| claim.uid().as_ref() == Some(uid)) else {
        return released(volume, phase);
    };
    match named(claim) {
        None => VolumePlan::LookAtClaim,
        Some(name) if name == volume.name_any() => enter("Bound"),
        Some(_) => {
            let made = volume.annotations().contains_key(PROVISIONED_BY);
            if made && spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete") {
                return released(volume, phase);
            }
            VolumePlan::Unbind { reserved: !volume.annotations().contains_key(BOUND_BY_CONTROLLER) }
        }
    }
}

fn released(volume: &PersistentVolume, phase: &str) -> VolumePlan {
    match phase {
        "Failed" => return VolumePlan::Leave,
        "Released" => {}
        _ => return VolumePlan::Phase("Released"),
    }
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    match policy.unwrap_or("Retain") {
        // Who made it removes it.
        "Delete" if volume.annotations().contains_key(PROVISIONED_BY) => VolumePlan::Leave,
        "Delete" => {
            let name = volume.name_any();
            let told = format!(
                "error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched"
            );
            VolumePlan::Fail(warning("VolumeFailedDelete", told))
        }
        "Recycle" => {
            let told = "the reclaim policy Recycle is not supported: use Delete with a class that provisions volumes, or Retain";
            VolumePlan::Fail(warning("VolumeFailedRecycle", told))
        }
        _ => VolumePlan::Leave,
    }
}

#[cfg(test)]
mod tests;
