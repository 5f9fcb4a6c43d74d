//! Writes what was decided (client). It makes no choices.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use keelson_operator_kit::ObjectKey;
use keelson_operator_kit::recorder::{Note, reference};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::decide::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, ClaimPlan, OLDER_PROVISIONER, PROVISIONER, Telling, VolumePlan,
};
use crate::matching::is_for;
use crate::observe::{Subject, World};

type Volume = PersistentVolume;
type Claim = PersistentVolumeClaim;

impl World {
    fn volume_api(&self) -> Api<Volume> {
        Api::all(self.client.clone())
    }

    fn claim_api(&self, claim: &Claim) -> Api<Claim> {
        Api::namespaced(self.client.clone(), claim.metadata.namespace.as_deref().unwrap_or_default())
    }

    fn tell<K: kube::Resource<DynamicType = ()>>(&self, about: &K, telling: Telling) {
        let Telling { severity, reason, message } = telling;
        self.recorder.record(Note { regarding: reference(about), severity, reason, message });
    }

    async fn patch_claim(&self, claim: &Claim, body: Value) -> Result<Claim, kube::Error> {
        let body = at_revision(body, claim.resource_version());
        let api = self.claim_api(claim);
        let written = api.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(body)).await?;
        Ok(self.remember_claim(written))
    }

    async fn patch_claim_status(&self, claim: &Claim, status: Value) -> Result<(), kube::Error> {
        let body = at_revision(json!({"status": status}), claim.resource_version());
        let api = self.claim_api(claim);
        let written =
            api.patch_status(&claim.name_any(), &PatchParams::default(), &Patch::Merge(body)).await?;
        self.remember_claim(written);
        Ok(())
    }

    async fn patch_volume(&self, volume: &Volume, body: Value) -> Result<Volume, kube::Error> {
        let body = at_revision(body, volume.resource_version());
        let api = self.volume_api();
        let written = api.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(body)).await?;
        Ok(self.remember_volume(written))
    }

    async fn enter(&self, volume: &Volume, phase: &str, message: &str) -> Result<(), kube::Error> {
        let known = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        if known == Some(phase) {
            return Ok(());
        }
        let body =
            at_revision(json!({"status": {"phase": phase, "message": message}}), volume.resource_version());
        let api = self.volume_api();
        let written =
            api.patch_status(&volume.name_any(), &PatchParams::default(), &Patch::Merge(body)).await?;
        self.remember_volume(written);
        Ok(())
    }
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
            world.patch_claim(claim, json!({"spec": {"storageClassName": class}})).await.map(drop)
        }
        ClaimPlan::Bind(volume) => bind(world, claim, &volume).await,
        ClaimPlan::HandOver(provisioner, telling) => {
            if claim.annotations().get(PROVISIONER) != Some(&provisioner) {
                let annotations = json!({PROVISIONER: provisioner, OLDER_PROVISIONER: provisioner});
                world.patch_claim(claim, json!({"metadata": {"annotations": annotations}})).await?;
            }
            world.tell(claim, telling);
            Ok(())
        }
        ClaimPlan::Wait(telling) => {
            if phase != "Pending" {
                let nothing = json!({"phase": "Pending", "accessModes": null, "capacity": null});
                world.patch_claim_status(claim, nothing).await?;
            }
            if let Some(telling) = telling {
                world.tell(claim, telling);
            }
            Ok(())
        }
        ClaimPlan::Lose(telling) => {
            if phase != "Lost" {
                let nothing = json!({"phase": "Lost", "accessModes": null, "capacity": null});
                world.patch_claim_status(claim, nothing).await?;
                world.tell(claim, telling);
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
        volume = Arc::new(world.patch_volume(&volume, body).await?);
    }
    world.enter(&volume, "Bound", "").await?;
    let mut claim = claim.clone();
    let name = volume.name_any();
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
    if named != name || !claim.annotations().contains_key(BIND_COMPLETED) {
        let mut annotations = json!({BIND_COMPLETED: "yes"});
        if named != name {
            annotations[BOUND_BY_CONTROLLER] = json!("yes");
        }
        let body = json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": name}});
        claim = world.patch_claim(&claim, body).await?;
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
    world.patch_claim_status(&claim, wanted).await
}

/// Acts for a volume.
pub async fn volume(world: &World, volume: &Volume, plan: VolumePlan) -> Result<(), kube::Error> {
    match plan {
        VolumePlan::Leave => Ok(()),
        VolumePlan::Phase(phase) => {
            world.enter(volume, phase, "").await?;
            // What follows from the new phase is decided at once.
            world.queue.add(Subject::Volume(volume.name_any()));
            Ok(())
        }
        VolumePlan::LookAtClaim => {
            let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            if let Some((namespace, name)) =
                reference.and_then(|it| Some((it.namespace.as_deref()?, it.name.as_deref()?)))
            {
                world.queue.add(Subject::Claim(ObjectKey::new(namespace, name)));
            }
            Ok(())
        }
        VolumePlan::Unbind { reserved } => {
            let body = if reserved {
                json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}})
            } else {
                json!({"spec": {"claimRef": null}, "metadata": {"annotations": {BOUND_BY_CONTROLLER: null}}})
            };
            let volume = world.patch_volume(volume, body).await?;
            world.enter(&volume, "Available", "").await
        }
        VolumePlan::Fail(telling) => {
            world.enter(volume, "Failed", &telling.message).await?;
            world.tell(volume, telling);
            Ok(())
        }
    }
}
