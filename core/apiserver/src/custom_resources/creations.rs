//! Creations of custom resources, so that none of them outlives its definition.
//!
//! **Guarantee**: once a definition is marked in the store as ending, no object of its resource comes into the store any
//! more, whichever server was asked to make it and whenever that was: each object is made only if its definition is as
//! it was when it was last seen not to end ([`Pass::absent`]).

use keelson_api::{Catalog, ResourceInfo, Status};
use keelson_store::{Key, Precondition, Revision};

use crate::cache::{self, ResourceCache};

/// A creation that is under way.
#[derive(Debug)]
pub(crate) struct Pass {
    /// The name of the definition.
    definition: String,
    uid: String,
}

/// Begins a creation; nothing is to be heeded for what is built in. `catalog` says what is served now.
pub(crate) fn begin(resource: &ResourceInfo, catalog: &Catalog) -> Result<Option<Pass>, Status> {
    let Some(custom) = &resource.custom else { return Ok(None) };
    let served = catalog.find(&resource.group, &resource.version, &resource.plural);
    match served.and_then(|served| served.custom.as_ref()).filter(|served| served.uid == custom.uid) {
        Some(served) if served.terminating => Err(terminating()),
        Some(_) => {
            let definition = format!("{}.{}", resource.plural, resource.group);
            Ok(Some(Pass { definition, uid: custom.uid.clone() }))
        }
        None => Err(Status::path_not_found()),
    }
}

impl Pass {
    /// What must hold for the object to be made: it is not there, and its definition is as it is now, where that is not
    /// ending.
    pub(crate) fn absent(&self, definitions: &ResourceCache) -> Result<Precondition, Status> {
        let found = definitions.get(&self.definition).ok_or_else(Status::path_not_found)?;
        let definition = cache::decode(&found.bytes)?;
        if definition.uid() != Some(self.uid.as_str()) {
            return Err(Status::path_not_found());
        }
        if definition.deletion_timestamp().is_some() {
            return Err(terminating());
        }
        let other = Key::new(cache::key(&super::definitions(), None, &self.definition));
        let other = other.map_err(Status::internal)?;
        Ok(Precondition::AbsentBeside { other, at: Revision::new(found.revision) })
    }
}

/// The refusal of a creation whose definition is ending.
pub(crate) fn terminating() -> Status {
    let mut status = Status::method_not_allowed();
    status.message = "create not allowed while custom resource definition is terminating".to_owned();
    status
}
