//! Server-side apply under an operator's own field manager, and pruning (client).

use std::collections::HashSet;
use std::fmt::Debug;

use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why objects could not be brought to what is wanted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The wanted object has no name.
    #[error("an object to apply has no name")]
    Nameless,
    /// The API refused it.
    #[error("apply {0}")]
    Apply(String, #[source] kube::Error),
    /// What is there could not be listed.
    #[error("list what may have to be pruned")]
    List(#[source] kube::Error),
    /// What is no longer wanted could not be deleted.
    #[error("prune {0}")]
    Prune(String, #[source] kube::Error),
}

/// Makes the fields of `wanted` be so, taking them over from others, and returns the object as it then is.
pub async fn apply<K>(api: &Api<K>, manager: &str, wanted: &K) -> Result<K, Error>
where
    K: Resource + Clone + Serialize + DeserializeOwned + Debug,
{
    let name = wanted.meta().name.clone().ok_or(Error::Nameless)?;
    let params = PatchParams::apply(manager).force();
    api.patch(&name, &params, &Patch::Apply(wanted)).await.map_err(|error| Error::Apply(name, error))
}

/// Deletes the objects that `labels` select and whose names are not among `keep`; returns the names of the deleted.
pub async fn prune<K>(api: &Api<K>, labels: &str, keep: &HashSet<String>) -> Result<Vec<String>, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let there = api.list(&ListParams::default().labels(labels)).await.map_err(Error::List)?;
    let mut deleted = Vec::new();
    for object in there.items.iter().filter(|object| !keep.contains(&object.name_any())) {
        let name = object.name_any();
        let only = Preconditions { uid: object.uid(), resource_version: None };
        match api.delete(&name, &DeleteParams::background().preconditions(only)).await {
            Ok(_) => deleted.push(name),
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(Error::Prune(name, error)),
        }
    }
    Ok(deleted)
}
