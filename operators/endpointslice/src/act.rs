//! Does what was decided (client).
//!
//! What the API answers is put into the informers at once, so that the next look does not depend on how fast the watch
//! tells of it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_operator_kit::controller::{api_status, is_not_found};
use keelson_operator_kit::{Fault, ObjectKey};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};

use crate::decide::{Legacy, Plan};
use crate::observe::World;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A slice could not be made.
    #[error("create an EndpointSlice")]
    Create(#[source] kube::Error),
    /// A slice could not be written.
    #[error("update EndpointSlice {0}")]
    Update(String, #[source] kube::Error),
    /// A slice could not be deleted.
    #[error("delete EndpointSlice {0}")]
    Delete(String, #[source] kube::Error),
    /// The Endpoints could not be made, written or deleted.
    #[error("write Endpoints")]
    Endpoints(#[source] kube::Error),
}

impl Fault for Error {}

/// Makes slices before it takes others away.
pub async fn act(world: &World, key: &ObjectKey, plan: Plan) -> Result<(), Error> {
    let api: Api<EndpointSlice> = Api::namespaced(world.client.clone(), key.namespace());
    let params = PostParams::default();
    for slice in plan.create {
        match api.create(&params, &slice).await {
            Ok(slice) => remember(world, slice),
            Err(error) if is_namespace_ending(&error) => return Ok(()),
            Err(error) => return Err(Error::Create(error)),
        }
    }
    for slice in plan.update {
        let name = slice.name_any();
        let written = api.replace(&name, &params, &slice).await;
        remember(world, written.map_err(|error| Error::Update(name, error))?);
    }
    for slice in plan.delete {
        let name = slice.name_any();
        match api.delete(&name, &only(slice.uid(), slice.resource_version())).await {
            Ok(_) => {
                world.known.slices.put(&key.sibling(&name), None);
            }
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(Error::Delete(name, error)),
        }
    }
    act_legacy(world, key, plan.endpoints).await.map_err(Error::Endpoints)
}

async fn act_legacy(world: &World, key: &ObjectKey, legacy: Legacy) -> Result<(), kube::Error> {
    let api: Api<Endpoints> = Api::namespaced(world.client.clone(), key.namespace());
    let params = PostParams::default();
    let written = match legacy {
        Legacy::Keep => return Ok(()),
        Legacy::Create(endpoints) => match api.create(&params, &endpoints).await {
            Ok(endpoints) => endpoints,
            Err(kube::Error::Api(answer)) if answer.is_already_exists() => {
                // They were written by hand before the Service had a selector; they are ours now.
                let there = api.get(key.name()).await?;
                let mut endpoints = *endpoints;
                endpoints.metadata.resource_version = there.resource_version();
                api.replace(key.name(), &params, &endpoints).await?
            }
            Err(error) if is_namespace_ending(&error) => return Ok(()),
            Err(error) => return Err(error),
        },
        Legacy::Update(endpoints) => api.replace(key.name(), &params, &endpoints).await?,
        Legacy::Delete(endpoints) => {
            let only = only(endpoints.uid(), endpoints.resource_version());
            return match api.delete(key.name(), &only).await {
                Ok(_) => {
                    world.known.endpoints.put(key, None);
                    Ok(())
                }
                Err(error) if is_not_found(&error) => Ok(()),
                Err(error) => Err(error),
            };
        }
    };
    world.known.endpoints.put(key, Some(Arc::new(without_fields(written))));
    Ok(())
}

fn remember(world: &World, slice: EndpointSlice) {
    if let Some(key) = ObjectKey::of(&slice) {
        world.known.slices.put(&key, Some(Arc::new(without_fields(slice))));
    }
}

/// An object as the watch tells it.
fn without_fields<K: kube::Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

fn only(uid: Option<String>, resource_version: Option<String>) -> DeleteParams {
    DeleteParams::default().preconditions(Preconditions { uid, resource_version })
}

/// Whether a creation failed because its namespace is being deleted, which nobody needs to be told.
fn is_namespace_ending(error: &kube::Error) -> bool {
    let causes = api_status(error).and_then(|status| status.details.as_ref()).map(|details| &details.causes);
    causes.into_iter().flatten().any(|cause| cause.reason == "NamespaceTerminating")
}
