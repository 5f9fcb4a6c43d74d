//! Creations of custom resources that are under way, so that none of them outlives its definition.
//!
//! **Guarantee**: after [`Creations::drain`] has ended, every object of the resource that was created while its definition
//! was not ending is in the store, and no other one will come.

use std::collections::HashMap;
use std::sync::Arc;

use keelson_api::{Catalog, GroupResource, ResourceInfo, Status};
use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

/// The creations, by resource.
#[derive(Debug, Default)]
pub(crate) struct Creations(Mutex<HashMap<GroupResource, Arc<RwLock<()>>>>);

/// A creation that is under way.
#[derive(Debug)]
pub(crate) struct Pass {
    _held: OwnedRwLockReadGuard<()>,
}

impl Creations {
    fn gate(&self, resource: &GroupResource) -> Arc<RwLock<()>> {
        let mut gates = self.0.lock();
        match gates.get(resource) {
            Some(gate) => Arc::clone(gate),
            None => Arc::clone(gates.entry(resource.clone()).or_default()),
        }
    }

    /// Begins a creation. `catalog` tells what is served now.
    pub(crate) async fn begin(
        &self,
        resource: &ResourceInfo,
        catalog: impl Fn() -> Arc<Catalog>,
    ) -> Result<Option<Pass>, Status> {
        let Some(custom) = &resource.custom else { return Ok(None) };
        // Nobody waits for a refusal.
        check(resource, &custom.uid, &catalog())?;
        let held = self.gate(&resource.group_resource()).read_owned().await;
        check(resource, &custom.uid, &catalog())?;
        Ok(Some(Pass { _held: held }))
    }

    /// Waits until the creations that have begun are done.
    pub(crate) async fn drain(&self, resource: &GroupResource) {
        drop(self.gate(resource).write_owned().await);
    }

    /// Forgets a resource that is not served any more.
    pub(crate) fn forget(&self, resource: &GroupResource) {
        self.0.lock().remove(resource);
    }
}

fn check(resource: &ResourceInfo, uid: &str, catalog: &Catalog) -> Result<(), Status> {
    let served = catalog.find(&resource.group, &resource.version, &resource.plural);
    match served.and_then(|served| served.custom.as_ref()).filter(|served| served.uid == uid) {
        Some(served) if served.terminating => Err(terminating()),
        Some(_) => Ok(()),
        None => Err(Status::path_not_found()),
    }
}

/// The refusal of a creation whose definition is ending.
pub(crate) fn terminating() -> Status {
    let mut status = Status::method_not_allowed();
    status.message = "create not allowed while custom resource definition is terminating".to_owned();
    status
}
