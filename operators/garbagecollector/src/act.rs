//! Looks at live objects, deletes, and takes references and finalizers away (client).
//!
//! Everything is decided over what the API says at that moment, and written with the UID and the resource version that
//! it said: what the graph knows is only the reason to look.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use keelson_operator_kit::Fault;
use keelson_operator_kit::discovery::Served;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Api, Client};
use serde_json::json;

use crate::decide::Standing;
use crate::graph::{Ending, Target, ending};
use crate::uid::Uid;

/// Why a look failed. It says which object is meant.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object.
    #[error("read {0}")]
    Read(String, #[source] kube::Error),
    /// One of its owners.
    #[error("look for the owner {0}")]
    Owner(String, #[source] kube::Error),
    /// The object.
    #[error("delete {0}")]
    Delete(String, #[source] kube::Error),
    /// Its owner references.
    #[error("write the owner references of {0}")]
    References(String, #[source] kube::Error),
    /// Its finalizers.
    #[error("write the finalizers of {0}")]
    Finalizers(String, #[source] kube::Error),
}

impl Fault for Error {}

/// How errors and messages name an object.
pub fn name(target: &Target) -> String {
    format!("{} {}", target.kind, target.key)
}

fn api(client: &Client, kind: &Served, namespace: &str) -> Api<DynamicObject> {
    if kind.namespaced {
        Api::namespaced_with(client.clone(), namespace, &kind.resource)
    } else {
        Api::all_with(client.clone(), &kind.resource)
    }
}

/// What an object's metadata is now; `None` when it is gone, also if there is a new one of its name.
pub async fn read(client: &Client, target: &Target) -> Result<Option<ObjectMeta>, Error> {
    let api = api(client, &target.kind, target.key.namespace());
    let found = api.get_metadata_opt(target.key.name()).await;
    let metadata = found.map_err(|error| Error::Read(name(target), error))?.map(|object| object.metadata);
    Ok(metadata.filter(|it| it.uid.as_deref().map(Uid::new) == Some(target.uid)))
}

/// How an owner in this namespace stands.
pub async fn standing(
    client: &Client,
    kind: &Served,
    namespace: &str,
    reference: &OwnerReference,
) -> Result<Standing, Error> {
    let found = api(client, kind, namespace).get_metadata_opt(&reference.name).await;
    let found = found.map_err(|error| Error::Owner(format!("{kind} {}", reference.name), error))?;
    Ok(match found.map(|object| object.metadata) {
        Some(owner) if owner.uid.as_deref() != Some(&reference.uid) => Standing::Absent,
        Some(owner) if ending(&owner) == Ending::Foreground => Standing::Waiting,
        Some(_) => Standing::Solid,
        None => Standing::Absent,
    })
}

/// Deletes an object as it was read; `false` when it is gone already.
pub async fn delete(
    client: &Client,
    target: &Target,
    as_read: &ObjectMeta,
    policy: PropagationPolicy,
) -> Result<bool, Error> {
    let only = Preconditions { uid: as_read.uid.clone(), resource_version: as_read.resource_version.clone() };
    let params = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
    let api = api(client, &target.kind, target.key.namespace());
    match api.delete(target.key.name(), &params.preconditions(only)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(error) => Err(Error::Delete(name(target), error)),
    }
}

/// Leaves an object only these owner references.
pub async fn keep_owners(
    client: &Client,
    target: &Target,
    as_read: &ObjectMeta,
    references: &[OwnerReference],
) -> Result<(), Error> {
    let references = if references.is_empty() { json!(null) } else { json!(references) };
    let patched = patch(client, target, as_read, json!({"ownerReferences": references})).await;
    patched.map_err(|error| Error::References(name(target), error))
}

/// Takes one finalizer away.
pub async fn remove_finalizer(
    client: &Client,
    target: &Target,
    as_read: &ObjectMeta,
    finalizer: &str,
) -> Result<(), Error> {
    let there = as_read.finalizers.as_deref().unwrap_or_default();
    let left: Vec<&String> = there.iter().filter(|own| *own != finalizer).collect();
    if left.len() == there.len() {
        return Ok(());
    }
    let patched = patch(client, target, as_read, json!({"finalizers": left})).await;
    patched.map_err(|error| Error::Finalizers(name(target), error))
}

async fn patch(
    client: &Client,
    target: &Target,
    as_read: &ObjectMeta,
    mut fields: serde_json::Value,
) -> Result<(), kube::Error> {
    fields["uid"] = json!(as_read.uid);
    fields["resourceVersion"] = json!(as_read.resource_version);
    let patch = Patch::Merge(json!({"metadata": fields}));
    let api = api(client, &target.kind, target.key.namespace());
    match api.patch_metadata(target.key.name(), &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}
