//! NodeRestriction: a kubelet writes its own node and lease, mirror pods of its node, and the pods that run there.

use async_trait::async_trait;
use keelson_api::{Object, Status};
use serde_json::Value;

use super::{Admission, Attributes, Operation};
use crate::authorization::node::refers_to_objects;
use crate::registry::Registry;

const MIRROR: &str = "kubernetes.io/config.mirror";
/// Labels with this prefix are the administrator's.
const RESTRICTED: &str = "node-restriction.kubernetes.io/";

/// The plugin.
#[derive(Debug, Default)]
pub struct NodeRestriction;

fn runs_on(pod: &Object, node: &str) -> bool {
    pod.get_str(&["spec", "nodeName"]) == Some(node)
}

fn has_projections(pod: &Object) -> bool {
    let volumes = pod.get(&["spec", "volumes"]).and_then(Value::as_array);
    volumes.into_iter().flatten().any(|volume| volume.get("projected").is_some_and(|it| !it.is_null()))
}

fn pod(attributes: &Attributes<'_>, object: Option<&Object>, node: &str) -> Result<(), String> {
    match (attributes.operation, attributes.subresource, attributes.old, object) {
        (Operation::Create, "", _, Some(new)) => {
            if new.annotation(MIRROR).is_none() {
                Err(format!(
                    "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
                ))
            } else if !runs_on(new, node) {
                Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"))
            } else if new.get_str(&["spec", "serviceAccountName"]).is_some_and(|name| !name.is_empty()) {
                Err(format!("node {node:?} can not create pods that reference a service account"))
            } else if refers_to_objects(new) || has_projections(new) {
                Err(format!("node {node:?} can not create pods that reference API objects"))
            } else {
                Ok(())
            }
        }
        (Operation::Update, "status", Some(old), Some(new)) => {
            if !runs_on(old, node) {
                Err(format!(
                    "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
                ))
            } else if old.labels() != new.labels() {
                Err(format!("node {node:?} cannot update labels through pod status"))
            } else if old.annotation(MIRROR) != new.annotation(MIRROR) {
                // What a mirror pod refers to is not for its node to read.
                Err(format!("node {node:?} cannot update the annotation {MIRROR:?} through pod status"))
            } else {
                Ok(())
            }
        }
        (Operation::Delete, "", Some(old), _) if runs_on(old, node) => Ok(()),
        (Operation::Delete, "", None, _) => Ok(()),
        (Operation::Delete, ..) => {
            Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
        }
        // Eviction deletes; the node authorizer has looked whose pod it is.
        (_, "eviction", ..) => Ok(()),
        (Operation::Create | Operation::Update | Operation::Connect, ..) => {
            Err(format!("unexpected operation by node {node:?}"))
        }
    }
}

fn own_node(attributes: &Attributes<'_>, object: Option<&Object>, node: &str) -> Result<(), String> {
    if attributes.name != node {
        return Err(format!("node {node:?} is not allowed to modify node {:?}", attributes.name));
    }
    let (Some(new), operation) = (object, attributes.operation) else { return Ok(()) };
    let label = |object: Option<&Object>, key: &str| object?.label(key).map(str::to_owned);
    let keys =
        [Some(new), attributes.old].into_iter().flatten().filter_map(Object::labels).flat_map(|it| it.keys());
    for key in keys.filter(|key| key.starts_with(RESTRICTED)) {
        if label(Some(new), key) != label(attributes.old, key) {
            return Err(format!("is not allowed to modify labels: {key}"));
        }
    }
    let taints = |object: &Object| object.get(&["spec", "taints"]).cloned();
    if operation == Operation::Update && attributes.old.is_some_and(|old| taints(old) != taints(new)) {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    Ok(())
}

#[async_trait]
impl Admission for NodeRestriction {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation != Operation::Connect && attributes.identity.node().is_some()
    }

    async fn validate(
        &self,
        _registry: &Registry,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        let Some(node) = attributes.identity.node() else { return Ok(()) };
        let resource = attributes.resource.group_resource();
        let outcome = match (resource.group.as_str(), resource.resource.as_str()) {
            ("", "pods") => pod(attributes, object, node),
            ("", "nodes") => own_node(attributes, object, node),
            ("coordination.k8s.io", "leases") => {
                if attributes.namespace != Some("kube-node-lease") {
                    Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned())
                } else if attributes.name == node {
                    Ok(())
                } else {
                    Err("can only access node lease with the same name as the requesting node".to_owned())
                }
            }
            ("storage.k8s.io", "csinodes") if attributes.name != node => {
                Err("can only access CSINode with the same name as the requesting node".to_owned())
            }
            _ => Ok(()),
        };
        outcome.map_err(|detail| Status::forbidden(&resource, attributes.name, &detail))
    }
}
