//! LimitRanger: what the LimitRanges of a namespace set where a pod says nothing, and what they refuse.

use async_trait::async_trait;
use keelson_api::limits::{self, LimitItem};
use keelson_api::{GroupResource, Object, Status};

use super::{Admission, Attributes, Operation};
use crate::cache;
use crate::registry::Registry;

/// The plugin.
#[derive(Debug, Default)]
pub struct LimitRanger;

fn ranges(registry: &Registry, attributes: &Attributes<'_>) -> Result<Vec<Vec<LimitItem>>, Status> {
    let ending = attributes.old.is_some_and(|old| old.deletion_timestamp().is_some());
    let Some(namespace) = attributes.namespace.filter(|_| !ending) else { return Ok(Vec::new()) };
    let listing = registry.resource(&GroupResource::new("", "limitranges")).list();
    if listing.objects.is_empty() {
        return Ok(Vec::new());
    }
    let found = listing.in_namespace(namespace);
    found.map(|range| cache::decode(&range.bytes).map(|range| limits::items(&range))).collect()
}

#[async_trait]
impl Admission for LimitRanger {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        match attributes.operation {
            // The containers of a pod change by its `resize` alone.
            Operation::Create => attributes.is("", "pods") || attributes.is("", "persistentvolumeclaims"),
            Operation::Update => {
                attributes.is("", "persistentvolumeclaims")
                    || (attributes.is_of("", "pods") && attributes.subresource == "resize")
            }
            Operation::Delete | Operation::Connect => false,
        }
    }

    async fn mutate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        if attributes.is_of("", "pods") {
            for items in ranges(registry, attributes)? {
                limits::fill_in(object, &items);
            }
        }
        Ok(())
    }

    async fn validate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        let Some(object) = object else { return Ok(()) };
        for items in ranges(registry, attributes)? {
            let faults = if attributes.is_of("", "pods") {
                limits::pod_faults(object, &items)
            } else {
                limits::claim_faults(object, &items)
            };
            match faults.as_slice() {
                [] => {}
                [one] => return Err(attributes.forbidden(one)),
                several => return Err(attributes.forbidden(&format!("[{}]", several.join(", ")))),
            }
        }
        Ok(())
    }
}
