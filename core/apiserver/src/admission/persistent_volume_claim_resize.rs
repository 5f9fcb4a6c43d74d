//! PersistentVolumeClaimResize: a claim grows only once it is bound, and where its class allows it.

use async_trait::async_trait;
use keelson_api::quantity::Quantity;
use keelson_api::{GroupResource, Object, Status};
use serde_json::Value;

use super::{Admission, Attributes, Operation};
use crate::cache;
use crate::registry::Registry;

const UNBOUND: &str = "Only bound persistent volume claims can be expanded";
const FIXED: &str = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";

/// The plugin.
#[derive(Debug, Default)]
pub struct PersistentVolumeClaimResize;

fn size(claim: &Object) -> Quantity {
    let text = claim.get_str(&["spec", "resources", "requests", "storage"]);
    text.and_then(|text| Quantity::parse(text).ok()).unwrap_or_default()
}

/// The class of a claim; empty for none.
pub(super) fn class(claim: &Object) -> &str {
    let older = claim.annotation("volume.beta.kubernetes.io/storage-class");
    older.or_else(|| claim.get_str(&["spec", "storageClassName"])).unwrap_or_default()
}

#[async_trait]
impl Admission for PersistentVolumeClaimResize {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Update && attributes.is("", "persistentvolumeclaims")
    }

    async fn validate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        let (Some(old), Some(new)) = (attributes.old, object) else { return Ok(()) };
        if size(new) <= size(old) {
            return Ok(());
        }
        if old.get_str(&["status", "phase"]) != Some("Bound") {
            return Err(attributes.forbidden(UNBOUND));
        }
        let name = class(new);
        let classes = registry.resource(&GroupResource::new("storage.k8s.io", "storageclasses"));
        let found = if name.is_empty() || name != class(old) { None } else { classes.get(name) };
        let allows = match found {
            Some(found) => {
                cache::decode(&found.bytes)?.get(&["allowVolumeExpansion"]) == Some(&Value::Bool(true))
            }
            None => false,
        };
        if allows { Ok(()) } else { Err(attributes.forbidden(FIXED)) }
    }
}
