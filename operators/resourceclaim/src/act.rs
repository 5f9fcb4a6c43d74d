//! Makes claims, says so at pods, and takes from claims what they no longer need (client). It makes no choices.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use keelson_operator_kit::ObjectKey;
use keelson_operator_kit::controller::unless_changed;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::decide::{ClaimPlan, Make, PodPlan};
use crate::observe::{ClaimView, PodView, World};

/// Who says at pods which claims they have.
const FIELD_MANAGER: &str = "ResourceClaimController";

/// Why a pod or a claim is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A claim could not be made.
    #[error("PodResourceClaim {pod_claim}: create ResourceClaim {name}")]
    Create {
        /// Its name in the pod.
        pod_claim: String,
        /// What its name begins with.
        name: String,
        /// Why.
        source: kube::Error,
    },
    /// It could not be said at the pod.
    #[error("update pod ResourceClaimStatuses")]
    Status(#[source] kube::Error),
    /// A place in the claim could not be had.
    #[error("reserve claim {0} for pod")]
    Reserve(String, #[source] kube::Error),
    /// Who uses a claim could not be found out.
    #[error("ask who uses the claim")]
    Ask(#[source] kube::Error),
    /// A claim could not be freed.
    #[error("free the claim")]
    Free(#[source] kube::Error),
    /// A claim could not be deleted.
    #[error("delete the claim")]
    Delete(#[source] kube::Error),
    /// A claim cannot be made as things are.
    #[error("{0}")]
    Unmade(String),
}

/// Makes the claims that a pod lacks, then says in its status which ones are its own, then takes its places in claims.
pub async fn serve_pod(world: &World, key: &ObjectKey, pod: &PodView, plan: PodPlan) -> Result<(), Error> {
    let PodPlan { make, mut found, known, reserve, faults } = plan;
    let claims: Api<ResourceClaim> = Api::namespaced(world.client.clone(), key.namespace());
    for Make { pod_claim, claim } in make {
        let name = claim.metadata.generate_name.clone().unwrap_or_default();
        let create = claims.create(&PostParams::default(), &claim).await;
        let made = create.map_err(|source| Error::Create { pod_claim: pod_claim.clone(), name, source })?;
        world.known.remember(&pod.uid, &pod_claim, made.name_any());
        found.push((pod_claim, made.name_any()));
    }
    if !found.is_empty() {
        let known = known.into_iter().map(|(name, claim)| json!({"name": name, "resourceClaimName": claim}));
        let new = found.into_iter().map(|(name, claim)| json!({"name": name, "resourceClaimName": claim}));
        let body = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": key.name(), "namespace": key.namespace(), "uid": pod.uid},
            "status": {"resourceClaimStatuses": known.chain(new).collect::<Vec<Value>>()},
        });
        let pods: Api<Pod> = Api::namespaced(world.client.clone(), key.namespace());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        unless_changed(pods.patch_status(key.name(), &params, &Patch::Apply(body)).await)
            .map_err(Error::Status)?;
    }
    for name in reserve {
        let Some(claim) = world.known.claims.get(&key.sibling(&name)) else { continue };
        let mut users = claim.reserved.clone();
        users.push(k8s_openapi::api::resource::v1::ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".to_owned(),
            name: key.name().to_owned(),
            uid: pod.uid.clone(),
        });
        let body = json!({
            "metadata": {"resourceVersion": claim.resource_version},
            "status": {"reservedFor": users},
        });
        let patch = claims.patch_status(&name, &PatchParams::default(), &Patch::Merge(body)).await;
        unless_changed(patch).map_err(|error| Error::Reserve(name, error))?;
    }
    faults.into_iter().next().map_or(Ok(()), |fault| Err(Error::Unmade(fault)))
}

/// Takes users and devices from a claim, then its protection, then the claim itself away.
pub async fn free_claim(
    world: &World,
    key: &ObjectKey,
    claim: &ClaimView,
    plan: ClaimPlan,
) -> Result<(), Error> {
    let ClaimPlan { users, deallocate, finalizers, delete } = plan;
    let api: Api<ResourceClaim> = Api::namespaced(world.client.clone(), key.namespace());
    let (name, params) = (key.name(), PatchParams::default());
    let mut revision = claim.resource_version.clone();
    if users.is_some() || deallocate {
        let mut body = json!({"metadata": {"resourceVersion": revision}, "status": {}});
        if let Some(users) = users {
            body["status"]["reservedFor"] = if users.is_empty() { Value::Null } else { json!(users) };
        }
        if deallocate {
            body["status"]["allocation"] = Value::Null;
        }
        let patch = api.patch_status(name, &params, &Patch::Merge(body)).await;
        let Some(written) = unless_changed(patch).map_err(Error::Free)? else { return Ok(()) };
        revision = written.resource_version().unwrap_or_default();
    }
    if let Some(finalizers) = finalizers {
        let body = json!({"metadata": {"resourceVersion": revision, "finalizers": finalizers}});
        let patch = api.patch(name, &params, &Patch::Merge(body)).await;
        if unless_changed(patch).map_err(Error::Free)?.is_none() {
            return Ok(());
        }
    }
    if delete {
        let uid = Some(claim.uid.clone());
        let preconditions = Some(Preconditions { uid, ..Preconditions::default() });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        unless_changed(api.delete(name, &params).await).map_err(Error::Delete)?;
    }
    Ok(())
}
