//! PodTopologyLabels: a pod that is bound to a node has its labels of zone and region.

use async_trait::async_trait;
use keelson_api::{GroupResource, Object, Status};

use super::{Admission, Attributes, Operation};
use crate::registry::Registry;

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// The plugin.
#[derive(Debug, Default)]
pub struct PodTopologyLabels;

/// The node that a Binding or a pod names.
fn node(object: &Object, is_binding: bool) -> Option<&str> {
    let name = if is_binding {
        (object.get_str(&["target", "kind"]) == Some("Node"))
            .then(|| object.get_str(&["target", "name"]))
            .flatten()
    } else {
        object.get_str(&["spec", "nodeName"])
    };
    name.filter(|name| !name.is_empty())
}

#[async_trait]
impl Admission for PodTopologyLabels {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create
            && attributes.is_of("", "pods")
            && matches!(attributes.subresource, "" | "binding")
    }

    async fn mutate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        let Some(name) = node(object, attributes.subresource == "binding") else { return Ok(()) };
        let Some(found) = registry.resource(&GroupResource::new("", "nodes")).get(name) else {
            return Ok(());
        };
        for label in LABELS {
            let value = found.labels.as_ref().and_then(|labels| labels.get(label));
            if let (Some(value), None) = (value, object.label(label)) {
                object.set_label(label, value);
            }
        }
        Ok(())
    }
}
