//! NamespaceLifecycle: nothing is created in a namespace that is missing or ending, and the namespaces that the
//! cluster needs are not deleted.

use async_trait::async_trait;
use keelson_api::{GroupResource, Object, Status};
use serde_json::json;

use super::{Admission, Attributes, Operation};
use crate::cache;
use crate::registry::Registry;

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The plugin.
#[derive(Debug, Default)]
pub struct NamespaceLifecycle;

#[async_trait]
impl Admission for NamespaceLifecycle {
    fn handles(&self, _attributes: &Attributes<'_>) -> bool {
        true
    }

    async fn validate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        _object: Option<&Object>,
    ) -> Result<(), Status> {
        let resource = attributes.resource.group_resource();
        let namespaces = GroupResource::new("", "namespaces");
        if resource == namespaces {
            let immortal = IMMORTAL.contains(&attributes.name);
            if attributes.operation == Operation::Delete && immortal {
                return Err(Status::forbidden(
                    &resource,
                    attributes.name,
                    "this namespace may not be deleted",
                ));
            }
            return Ok(());
        }
        let Some(namespace) = attributes.namespace.filter(|_| attributes.operation != Operation::Delete)
        else {
            return Ok(());
        };
        let Some(found) = registry.resource(&namespaces).get(namespace) else {
            return Err(Status::not_found(&namespaces, namespace));
        };
        if attributes.operation != Operation::Create {
            return Ok(());
        }
        if cache::decode(&found.bytes)?.deletion_timestamp().is_none() {
            return Ok(());
        }
        let detail =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut status = Status::forbidden(&resource, attributes.name, &detail);
        status.details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        }]);
        Err(status)
    }
}
