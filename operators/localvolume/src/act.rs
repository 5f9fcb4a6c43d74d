//! Makes and deletes volumes (client). It makes no choices.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use keelson_operator_kit::recorder::reference;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::decide::{ClaimPlan, SELECTED_NODE, VolumePlan};
use crate::observe::World;
use crate::volume::{self, FOLDER};

/// What went wrong with a document of our own.
fn unreadable(error: serde_json::Error) -> kube::Error {
    kube::Error::SerdeError(error)
}

/// Makes the class unless there is one of its name, whatever it says: people may change it. It is the default where no other is.
pub async fn class(client: &Client) -> Result<(), kube::Error> {
    let api: Api<StorageClass> = Api::all(client.clone());
    let there = api.list(&ListParams::default()).await?.items;
    if there.iter().any(|class| class.name_any() == volume::CLASS) {
        return Ok(());
    }
    let class = volume::class(!there.iter().any(volume::is_default));
    let class: StorageClass = serde_json::from_value(class).map_err(unreadable)?;
    match api.create(&PostParams::default(), &class).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        other => other.map(drop),
    }
}

/// Acts for a claim.
pub async fn claim(world: &World, claim: &PersistentVolumeClaim, plan: ClaimPlan) -> Result<(), kube::Error> {
    let about = reference(claim);
    match plan {
        ClaimPlan::Leave => Ok(()),
        ClaimPlan::Make(volume) => {
            let volume: PersistentVolume = serde_json::from_value(volume).map_err(unreadable)?;
            let api: Api<PersistentVolume> = Api::all(world.client.clone());
            match api.create(&PostParams::default(), &volume).await {
                // Its name is the claim's UID: it is the one that was made before.
                Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
                Err(error) => {
                    let told = format!("failed to make a volume: {error}");
                    world.recorder.warning(&about, "ProvisioningFailed", told);
                    Err(error)
                }
                Ok(volume) => {
                    let told = format!("Successfully provisioned volume {}", volume.name_any());
                    world.recorder.normal(&about, "ProvisioningSucceeded", told);
                    Ok(())
                }
            }
        }
        ClaimPlan::Refuse(why) => {
            world.recorder.warning(&about, "ProvisioningFailed", why);
            Ok(())
        }
        ClaimPlan::ChooseAgain(why) => {
            world.recorder.warning(&about, "ProvisioningFailed", why);
            let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
            let api: Api<PersistentVolumeClaim> = Api::namespaced(world.client.clone(), namespace);
            let revision = claim.resource_version();
            let body =
                json!({"metadata": {"resourceVersion": revision, "annotations": {SELECTED_NODE: null}}});
            api.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(body)).await.map(drop)
        }
    }
}

/// Acts for a volume.
pub async fn volume(world: &World, volume: &PersistentVolume, plan: VolumePlan) -> Result<(), kube::Error> {
    let api: Api<PersistentVolume> = Api::all(world.client.clone());
    match plan {
        VolumePlan::Leave => Ok(()),
        VolumePlan::Delete => {
            let only = Preconditions { uid: volume.uid(), resource_version: volume.resource_version() };
            api.delete(&volume.name_any(), &DeleteParams::default().preconditions(only)).await.map(drop)
        }
        VolumePlan::LetGo => {
            let mut rest = volume.finalizers().to_vec();
            rest.retain(|it| it != FOLDER);
            let body =
                json!({"metadata": {"resourceVersion": volume.resource_version(), "finalizers": rest}});
            api.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(body)).await.map(drop)
        }
    }
}
