//! The end of a definition: its objects are deleted, and when the last is gone it is let go itself.

use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;
use keelson_api::custom_resource::{CLEANUP, names};
use keelson_api::{Object, ResourceInfo, Status};

use super::{RETRY, options};
use crate::cache;
use crate::registry::delete::DeleteOptions;
use crate::registry::{Registry, Target};

/// Deletions that are under way at once.
const AT_ONCE: usize = 64;

/// Deletes all objects of a resource, of which none comes any more, waits until they are gone, and takes the finalizer from
/// the definition. Ends too when the definition with that UID is not there any more.
pub(super) async fn run(
    registry: &Arc<Registry>,
    resource: &Arc<ResourceInfo>,
    definition: &Target,
    uid: &str,
) {
    let objects = registry.resource(&resource.group_resource());
    let mut newest = objects.follow();
    loop {
        newest.borrow_and_update();
        match delete_all(registry, resource).await {
            Ok(0) => match release(registry, definition, uid).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, object = definition.name, "a definition could not be let go")
                }
            },
            // The rest is held by finalizers.
            Ok(_) => {
                if newest.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, object = definition.name, "custom resources could not be deleted");
                note_failure(registry, definition, uid, &error).await;
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Deletes what is not ending yet; how many objects are left.
async fn delete_all(registry: &Arc<Registry>, resource: &Arc<ResourceInfo>) -> Result<usize, Status> {
    let cache = registry.resource(&resource.group_resource());
    let how = Arc::new((DeleteOptions::default(), options()));
    let mut deletions = Vec::new();
    for object in cache.list().objects.values() {
        if cache::decode(&object.bytes)?.deletion_timestamp().is_some() {
            continue;
        }
        let target = Target {
            resource: Arc::clone(resource),
            namespace: object.namespace.as_deref().map(str::to_owned),
            name: object.name.to_string(),
            subresource: String::new(),
        };
        let (registry, how) = (Arc::clone(registry), Arc::clone(&how));
        deletions.push(async move { registry.delete(&target, &how.0, &how.1).await });
    }
    let mut outcomes = futures::stream::iter(deletions).buffer_unordered(AT_ONCE);
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Err(status) if status.code != 404 => return Err(status),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(cache.list().objects.len())
}

/// Says in a definition why its objects are still there.
async fn note_failure(registry: &Registry, definition: &Target, uid: &str, why: &Status) {
    let target = Target { subresource: "status".to_owned(), ..definition.clone() };
    let options = options();
    let written = registry.update(&target, &options, |live| {
        let mut object: Object = live.clone();
        if live.uid() == Some(uid) {
            names::set_deletion_failed(&mut object, &why.message, Timestamp::now());
        }
        object.set_resource_version(None);
        Ok(object)
    });
    if let Err(error) = written.await {
        tracing::warn!(%error, object = definition.name, "a definition's condition could not be written");
    }
}

/// Takes the finalizer from a definition.
async fn release(registry: &Registry, definition: &Target, uid: &str) -> Result<(), Status> {
    let options = options();
    let written = registry.update(definition, &options, |live| {
        let mut object: Object = live.clone();
        if live.uid() == Some(uid) && live.deletion_timestamp().is_some() {
            let rest = live.finalizers().filter(|name| *name != CLEANUP).map(str::to_owned).collect();
            object.set_finalizers(rest);
        }
        // Whoever writes in between has it tried again.
        object.set_resource_version(None);
        Ok(object)
    });
    match written.await {
        Err(status) if status.code != 404 => Err(status),
        Ok(_) | Err(_) => Ok(()),
    }
}
