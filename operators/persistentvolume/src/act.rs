//! Writes what was decided (client). It makes no choices.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use keelson_operator_kit::recorder::{Note, reference};
use keelson_operator_kit::{ObjectKey, Subject};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::decide::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, ClaimPlan, OLDER_PROVISIONER, PROVISIONER, Telling, VolumePlan,
};
use crate::matching::is_for;
use crate::observe::{Kind, World};

type Volume = PersistentVolume;
type Claim = PersistentVolumeClaim;

fn volume_api(world: &World) -> Api<Volume> {
    Api::all(world.client.clone())
}

fn claim_api(world: &World, claim: &Claim) -> Api<Claim> {
    Api::namespaced(world.client.clone(), claim.metadata.namespace.as_deref().unwrap_or_default())
}

fn tell<K: kube::Resource<DynamicType = ()>>(world: &World, about: &K, telling: Telling) {
    let Telling { severity, reason, message } = telling;
    world.recorder.record(Note { regarding: reference(about), severity, reason, message });
}

async fn patch_claim(world: &World, claim: &Claim, body: Value) -> Result<Claim, kube::Error> {
    let body = at_revision(body, claim.resource_version());
    let api = claim_api(world, claim);
    let written = api.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(body)).await?;
    Ok(world.known.remember_claim(written))
}

async fn patch_claim_status(world: &World, claim: &Claim, status: Value) -> Result<(), kube::Error> {
    let body = at_revision(json!({"status": status}), claim.resource_version());
    let api = claim_api(world, claim);
    let written = api.patch_status(&claim.name_any(), &PatchParams::default(), &Patch::Merge(body)).await?;
    world.known.remember_claim(written);
    Ok(())
}

async fn patch_volume(world: &World, volume: &Volume, body: Value) -> Result<Volume, kube::Error> {
    let body = at_revision(body, volume.resource_version());
    let api = volume_api(world);
    let written = api.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(body)).await?;
    Ok(world.known.remember_volume(written))
}

async fn enter(world: &World, volume: &Volume, phase: &str, message: &str) -> Result<(), kube::Error> {
    let known = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    if known == Some(phase) {
        return Ok(());
    }
    let body =
        at_revision(json!({"status": {"phase": phase, "message": message}}), volume.resource_version());
    let api = volume_api(world);
    let written = api.patch_status(&volume.name_any(), &PatchParams::default(), &Patch::Merge(body)).await?;
    world.known.remember_volume(written);
    Ok(())
}

fn at_revision(mut body: Value, revision: Option<String>) -> Value {
    body["metadata"]["resourceVersion"] = json!(revision);
    body
}

/// Acts for a claim.
pub async fn claim(world: &World, claim: &Claim, plan: ClaimPlan) -> Result<(), kube::Error> {
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    match plan {
        ClaimPlan::Leave => Ok(()),
        ClaimPlan::Classify(class) => {
            patch_claim(world, claim, json!({"spec": {"storageClassName": class}})).await.map(drop)
        }
        ClaimPlan::Bind(volume) => bind(world, claim, &volume).await,
        ClaimPlan::HandOver(provisioner, telling) => {
            if claim.annotations().get(PROVISIONER) != Some(&provisioner) {
                let annotations = json!({PROVISIONER: provisioner, OLDER_PROVISIONER: provisioner});
                patch_claim(world, claim, json!({"metadata": {"annotations": annotations}})).await?;
            }
            tell(world, claim, telling);
            Ok(())
        }
        ClaimPlan::Wait(telling) => {
            if phase != "Pending" {
                let nothing = json!({"phase": "Pending", "accessModes": null, "capacity": null});
                patch_claim_status(world, claim, nothing).await?;
            }
            if let Some(telling) = telling {
                tell(world, claim, telling);
            }
            Ok(())
        }
        ClaimPlan::Lose(telling) => {
            if phase != "Lost" {
                let nothing = json!({"phase": "Lost", "accessModes": null, "capacity": null});
                patch_claim_status(world, claim, nothing).await?;
                tell(world, claim, telling);
            }
            Ok(())
        }
    }
}

/// The volume names the claim, then says that it is bound; then the claim does the same.
async fn bind(world: &World, claim: &Claim, volume: &Arc<Volume>) -> Result<(), kube::Error> {
    let (claim_name, uid) = (claim.name_any(), claim.uid().unwrap_or_default());
    let of_volume = volume.spec.as_ref();
    let reference = of_volume.and_then(|spec| spec.claim_ref.as_ref());
    let mut volume = Arc::clone(volume);
    if reference.is_none_or(|it| it.uid.as_deref() != Some(uid.as_str())) {
        let mut body = json!({"spec": {"claimRef": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": claim.metadata.namespace,
            "name": claim_name,
            "uid": uid,
            "resourceVersion": claim.resource_version(),
        }}});
        if !is_for(&volume, claim) {
            body["metadata"] = json!({"annotations": {BOUND_BY_CONTROLLER: "yes"}});
        }
        volume = Arc::new(patch_volume(world, &volume, body).await?);
    }
    enter(world, &volume, "Bound", "").await?;
    let mut claim = claim.clone();
    let name = volume.name_any();
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
    if named != name || !claim.annotations().contains_key(BIND_COMPLETED) {
        let mut annotations = json!({BIND_COMPLETED: "yes"});
        if named != name {
            annotations[BOUND_BY_CONTROLLER] = json!("yes");
        }
        let body = json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": name}});
        claim = patch_claim(world, &claim, body).await?;
    }
    let status = claim.status.clone().unwrap_or_default();
    let spec = volume.spec.as_ref();
    let modes = spec.and_then(|spec| spec.access_modes.clone());
    let attributes = spec.and_then(|spec| spec.volume_attributes_class_name.clone());
    // A claim that is being resized keeps the capacity that whoever resizes it has written.
    let capacity = status.capacity.clone().or_else(|| spec.and_then(|spec| spec.capacity.clone()));
    let is_so = status.phase.as_deref() == Some("Bound")
        && status.access_modes == modes
        && status.capacity == capacity
        && (attributes.is_none() || status.current_volume_attributes_class_name.is_some());
    if is_so {
        return Ok(());
    }
    let mut wanted = json!({"phase": "Bound", "accessModes": modes, "capacity": capacity});
    if let Some(class) = attributes {
        wanted["currentVolumeAttributesClassName"] = json!(class);
    }
    patch_claim_status(world, &claim, wanted).await
}

/// Acts for a volume.
pub async fn volume(world: &World, volume: &Volume, plan: VolumePlan) -> Result<(), kube::Error> {
    match plan {
        VolumePlan::Leave => Ok(()),
        VolumePlan::Phase(phase) => {
            enter(world, volume, phase, "").await?;
            // What follows from the new phase is decided at once.
            world.queue.add(Subject::new(Kind::Volume, ObjectKey::cluster(&volume.name_any())));
            Ok(())
        }
        VolumePlan::LookAtClaim => {
            let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            if let Some((namespace, name)) =
                reference.and_then(|it| Some((it.namespace.as_deref()?, it.name.as_deref()?)))
            {
                world.queue.add(Subject::new(Kind::Claim, ObjectKey::new(namespace, name)));
            }
            Ok(())
        }
        VolumePlan::Unbind { reserved } => {
            let body = if reserved {
                json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}})
            } else {
                json!({"spec": {"claimRef": null}, "metadata": {"annotations": {BOUND_BY_CONTROLLER: null}}})
            };
            let volume = patch_volume(world, volume, body).await?;
            enter(world, &volume, "Available", "").await
        }
        VolumePlan::Fail(telling) => {
            enter(world, volume, "Failed", &telling.message).await?;
            tell(world, volume, telling);
            Ok(())
        }
    }
}
