//! Objects that are not sealed as they would be now.

use keelson_api::{GroupResource, Object, Status};
use keelson_store::{Change, Precondition, Revision};

use super::{Registry, Target, WriteFailure, value};
use crate::cache;
use crate::encryption::Encryption;

impl Registry {
    /// How stored values are sealed.
    pub fn encryption(&self) -> &Encryption {
        self.cache.encryption()
    }

    /// Whether an object is stored in another form than it would be now, so that a write which changes nothing is one
    /// all the same.
    pub(super) fn is_stale(&self, target: &Target) -> bool {
        if !self.encryption().is_on() {
            return false;
        }
        let Ok(key) = target.store_key() else { return false };
        let snapshot = self.store.snapshot();
        let entry = snapshot.get(&key);
        entry.is_some_and(|entry| {
            let opened = self.encryption().unseal(key.as_str(), &entry.value, entry.modified.get());
            opened.is_ok_and(|it| it.stale)
        })
    }

    /// The objects that are stored in another form than they would be now: their resources, and their keys within them.
    pub fn stale_objects(&self) -> Vec<(GroupResource, String)> {
        let snapshot = self.store.snapshot();
        let stale = snapshot.range("/registry/", None).filter(|(key, entry)| {
            let opened = self.encryption().unseal(key.as_str(), &entry.value, entry.modified.get());
            opened.is_ok_and(|it| it.stale)
        });
        stale
            .filter_map(|(key, _)| cache::split(key.as_str()))
            .map(|(resource, key)| (resource, key.to_owned()))
            .collect()
    }

    /// Writes an object anew as it is. `false` where somebody else has written or deleted it meanwhile.
    pub async fn seal_anew(&self, resource: &GroupResource, key: &str) -> Result<bool, Status> {
        let Some(found) = self.resource(resource).get(key) else { return Ok(false) };
        let catalog = self.catalog();
        let info = catalog.resources().iter().find(|it| it.group_resource() == *resource);
        let info = info.cloned().ok_or_else(Status::path_not_found)?;
        let target = Target {
            resource: info,
            namespace: found.namespace.as_deref().map(str::to_owned),
            name: found.name.to_string(),
            subresource: String::new(),
        };
        let object: Object = cache::decode(&found.bytes)?;
        let at = Precondition::Unchanged(Revision::new(found.revision));
        let change = match value(&object) {
            Ok(value) => Change::Put(value),
            Err(WriteFailure::Conflict | WriteFailure::Outdated) => return Ok(false),
            Err(WriteFailure::Status(status)) => return Err(status),
        };
        match self.write(&target, change, at).await {
            Ok(_) => Ok(true),
            Err(WriteFailure::Conflict | WriteFailure::Outdated) => Ok(false),
            Err(WriteFailure::Status(status)) => Err(status),
        }
    }
}
