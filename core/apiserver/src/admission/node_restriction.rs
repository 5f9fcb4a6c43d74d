//! NodeRestriction: a kubelet writes its own node, lease and slices, mirror pods of its node, and the pods that run
//! there; tokens for others than this cluster it gets where a pod of its node asks for them.

use std::collections::BTreeSet;

use async_trait::async_trait;
use keelson_api::pod_references::forbidden_reference;
use keelson_api::{GroupResource, Object, Status};
use serde_json::Value;

use super::{Admission, Attributes, Operation};
use crate::certificates::request::Request;
use crate::certificates::signer;
use crate::registry::Registry;

const MIRROR: &str = "kubernetes.io/config.mirror";
/// The label of a volume that is a folder on a node, with the node's name; and the finalizer that goes with the folder.
const VOLUME_NODE: &str = "local.keelson.io/node";
const VOLUME_FOLDER: &str = "local.keelson.io/folder";
/// The domain of labels that are the administrator's.
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// The labels of Kubernetes' own domains that a kubelet may set.
const KUBELET_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
];
/// Domains in which it may set any.
const KUBELET_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// The plugin.
#[derive(Debug, Default)]
pub struct NodeRestriction;

/// Whether a domain is another one, or lies below it.
fn is_within(domain: &str, of: &str) -> bool {
    domain.strip_suffix(of).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a label is not the kubelet's to set.
fn is_forbidden(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return false };
    if is_within(domain, RESTRICTED) {
        return true;
    }
    let is_own = is_within(domain, "kubernetes.io") || is_within(domain, "k8s.io");
    let is_known =
        KUBELET_LABELS.contains(&label) || KUBELET_DOMAINS.iter().any(|known| is_within(domain, known));
    is_own && !is_known
}

fn runs_on(pod: &Object, node: &str) -> bool {
    pod.get_str(&["spec", "nodeName"]) == Some(node)
}

fn claims(pod: &Object) -> Vec<(&Value, &Value)> {
    let list = pod.get(&["status", "resourceClaimStatuses"]).and_then(Value::as_array);
    list.into_iter().flatten().map(|status| (&status["name"], &status["resourceClaimName"])).collect()
}

/// The claim for a pod's extended resources: what it names, the node may read.
fn extended_claim(pod: &Object) -> Option<&Value> {
    pod.get(&["status", "extendedResourceClaimStatus", "resourceClaimName"])
}

/// A kubelet asks for certificates of its own name alone.
fn certificate(node: &str, object: Option<&Object>) -> Result<(), String> {
    let Some(object) = object else { return Ok(()) };
    let signer = object.get_str(&["spec", "signerName"]).unwrap_or_default();
    if ![signer::KUBELET_CLIENT, signer::KUBELET_SERVING].contains(&signer) {
        return Ok(());
    }
    let request = Request::from_base64(object.get_str(&["spec", "request"]).unwrap_or_default());
    let request = request.map_err(|fault| format!("unable to parse csr: {fault}"))?;
    if request.common_name.as_deref() == Some(&format!("system:node:{node}")) {
        return Ok(());
    }
    Err(format!("can only create a node CSR with CN=system:node:{node}"))
}

/// A mirror pod belongs to its node and to nothing else.
fn is_owned(pod: &Object, node: &str, uid: Option<&str>) -> Result<(), String> {
    let owners = pod.get(&["metadata", "ownerReferences"]).and_then(Value::as_array);
    let own = "owner reference set to itself";
    let [owner] = owners.map(Vec::as_slice).unwrap_or_default() else {
        let what = if owners.is_none_or(Vec::is_empty) { "an" } else { "a single" };
        return Err(format!("node {node:?} can only create pods with {what} {own}"));
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return Err(format!("node {node:?} can only create pods with an {own}"));
    }
    if owner["controller"] != true {
        return Err(format!("node {node:?} can only create pods with a controller {own}"));
    }
    if owner["blockOwnerDeletion"] == true {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let (named, uid) = (owner["uid"].as_str().unwrap_or_default(), uid.unwrap_or_default());
    if named != uid {
        return Err(format!("node {node} UID mismatch: expected {named} got {uid}"));
    }
    Ok(())
}

/// What a node may not change of a claim through its status.
fn rest_of_claim(claim: &Object) -> Object {
    let mut rest = claim.clone();
    for field in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
        rest.remove(&["status", field]);
    }
    for field in ["resourceVersion", "managedFields"] {
        rest.remove(&["metadata", field]);
    }
    rest
}

fn claim(attributes: &Attributes<'_>, object: Option<&Object>, node: &str) -> Result<(), String> {
    if attributes.subresource != "status" {
        return Err("may only update PVC status".to_owned());
    }
    match (attributes.old, object) {
        (Some(old), Some(new)) if rest_of_claim(old) == rest_of_claim(new) => Ok(()),
        _ => Err(format!(
            "node {node:?} is not allowed to update fields other than status.capacity and status.conditions"
        )),
    }
}

/// A node takes its own finalizer away from a volume that is a folder on it, and nothing else.
fn volume(attributes: &Attributes<'_>, object: Option<&Object>, node: &str) -> Result<(), String> {
    let refused = || {
        format!(
            "node {node:?} may only remove the finalizer {VOLUME_FOLDER:?} of its own volumes that are deleted"
        )
    };
    let (Operation::Update, "", Some(old), Some(new)) =
        (attributes.operation, attributes.subresource, attributes.old, object)
    else {
        return Err(refused());
    };
    let rest = |volume: &Object| {
        let mut rest = volume.clone();
        for field in ["finalizers", "resourceVersion", "managedFields"] {
            rest.remove(&["metadata", field]);
        }
        rest
    };
    let finalizers = |volume: &Object| -> Vec<String> {
        let list = volume.get(&["metadata", "finalizers"]).and_then(Value::as_array);
        let names = list.into_iter().flatten().filter_map(Value::as_str);
        names.filter(|name| *name != VOLUME_FOLDER).map(str::to_owned).collect()
    };
    let is_own =
        old.label(VOLUME_NODE) == Some(node) && old.get(&["metadata", "deletionTimestamp"]).is_some();
    if is_own && rest(old) == rest(new) && finalizers(old) == finalizers(new) {
        Ok(())
    } else {
        Err(refused())
    }
}

/// A slice of devices belongs to its node, before and after.
fn slice(attributes: &Attributes<'_>, object: Option<&Object>, node: &str) -> Result<(), String> {
    let of_node = |slice: &Object| slice.get_str(&["spec", "nodeName"]) == Some(node);
    if !attributes.old.is_none_or(of_node) {
        return Err("can only delete ResourceSlice with the same NodeName as the requesting node".to_owned());
    }
    if !object.is_none_or(of_node) {
        return Err("can only create ResourceSlice with the same NodeName as the requesting node".to_owned());
    }
    Ok(())
}

fn pod(
    attributes: &Attributes<'_>,
    object: Option<&Object>,
    node: &str,
    uid: Option<&str>,
) -> Result<(), String> {
    match (attributes.operation, attributes.subresource, attributes.old, object) {
        (Operation::Create, "", _, Some(new)) => {
            if new.annotation(MIRROR).is_none() {
                Err(format!(
                    "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
                ))
            } else if !runs_on(new, node) {
                Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"))
            } else if let Err(detail) = is_owned(new, node, uid) {
                Err(detail)
            } else if new.get_str(&["spec", "serviceAccountName"]).is_some_and(|name| !name.is_empty()) {
                Err(format!("node {node:?} can not create pods that reference a service account"))
            } else if let Some(kind) = forbidden_reference(new) {
                Err(format!("node {node:?} can not create pods that reference {kind}"))
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
            } else if claims(old) != claims(new) || extended_claim(old) != extended_claim(new) {
                Err(format!("node {node:?} cannot update resource claim statues"))
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
        (_, "", ..) => Err(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            attributes.operation.as_str()
        )),
        (_, "status", ..) => Err(format!("unexpected operation {:?}", attributes.operation.as_str())),
        (_, other, ..) => {
            Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
    }
}

fn own_node(attributes: &Attributes<'_>, object: Option<&Object>, node: &str) -> Result<(), String> {
    if attributes.name != node {
        return Err(format!("node {node:?} is not allowed to modify node {:?}", attributes.name));
    }
    let (Some(new), operation) = (object, attributes.operation) else { return Ok(()) };
    let label = |object: Option<&Object>, key: &str| object?.label(key).map(str::to_owned);
    let both = [Some(new), attributes.old];
    let keys = both.into_iter().flatten().filter_map(Object::labels).flat_map(|labels| labels.keys());
    let changed = keys.filter(|key| label(Some(new), key) != label(attributes.old, key));
    let forbidden: BTreeSet<&str> = changed.map(String::as_str).filter(|key| is_forbidden(key)).collect();
    if !forbidden.is_empty() {
        let list = forbidden.into_iter().collect::<Vec<_>>().join(", ");
        return Err(match operation {
            Operation::Create => format!("node {node:?} is not allowed to set the following labels: {list}"),
            Operation::Update | Operation::Delete | Operation::Connect => {
                format!("is not allowed to modify labels: {list}")
            }
        });
    }
    let source = |object: &Object| object.get(&["spec", "configSource"]).filter(|it| !it.is_null()).cloned();
    if source(new).is_some() && attributes.old.and_then(source) != source(new) {
        return Err(format!(
            "node {node:?} is not allowed to update configSource to a new non-nil configSource"
        ));
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
        attributes.operation != Operation::Connect && attributes.identity.is_node()
    }

    async fn validate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        let resource = attributes.resource.group_resource();
        let Some(node) = attributes.identity.node() else {
            let detail = format!("could not determine node from user {:?}", attributes.identity.username);
            return Err(Status::forbidden(&resource, attributes.name, &detail));
        };
        let outcome = match (resource.group.as_str(), resource.resource.as_str()) {
            ("", "pods") => {
                let own = match attributes.operation {
                    Operation::Create => registry.resource(&GroupResource::new("", "nodes")).get(node),
                    Operation::Update | Operation::Delete | Operation::Connect => None,
                };
                let own = own.map(|own| crate::cache::decode(&own.bytes)).transpose()?;
                pod(attributes, object, node, own.as_ref().and_then(Object::uid))
            }
            ("", "persistentvolumeclaims") => claim(attributes, object, node),
            ("", "persistentvolumes") => volume(attributes, object, node),
            ("resource.k8s.io", "resourceslices") => slice(attributes, object, node),
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
            ("certificates.k8s.io", "certificatesigningrequests")
                if attributes.operation == Operation::Create =>
            {
                certificate(node, object)
            }
            ("storage.k8s.io", "csinodes") if attributes.name != node => {
                Err("can only access CSINode with the same name as the requesting node".to_owned())
            }
            _ => Ok(()),
        };
        outcome.map_err(|detail| Status::forbidden(&resource, attributes.name, &detail))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_kubelet_sets_its_own_labels_and_those_outside_of_kubernetes_domains() {
        for label in [
            "plain",
            "example.com/disk",
            "kubernetes.io/hostname",
            "node.kubernetes.io/any",
            "a.kubelet.kubernetes.io/b",
        ] {
            assert!(!is_forbidden(label), "{label}");
        }
        for label in [
            "kubernetes.io/role",
            "node-role.kubernetes.io/control-plane",
            "x.k8s.io/y",
            "k8s.io/y",
            "node-restriction.kubernetes.io/a",
            "b.node-restriction.kubernetes.io/a",
        ] {
            assert!(is_forbidden(label), "{label}");
        }
        assert!(!is_forbidden("notkubernetes.io/role"));
    }

    #[test]
    fn a_mirror_pod_is_owned_by_its_node_alone() {
        let owned = |owners: Value| {
            let pod = Object::from_value(json!({"metadata": {"ownerReferences": owners}})).unwrap();
            is_owned(&pod, "one", Some("u"))
        };
        let owner = |name: &str, uid: &str, controller: bool| json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid, "controller": controller});
        assert_eq!(owned(json!([owner("one", "u", true)])), Ok(()));
        for owners in [
            json!([]),
            json!([owner("two", "u", true)]),
            json!([owner("one", "v", true)]),
            json!([owner("one", "u", false)]),
            json!([owner("one", "u", true), owner("one", "u", true)]),
        ] {
            assert!(owned(owners.clone()).is_err(), "{owners}");
        }
    }

    #[test]
    fn of_a_claim_a_node_changes_what_it_measures_and_nothing_else() {
        let claim = |document: Value| Object::from_value(document).unwrap();
        let old = claim(json!({"metadata": {"name": "c"}, "status": {"phase": "Bound"}}));
        let grown = claim(
            json!({"metadata": {"name": "c"}, "status": {"phase": "Bound", "capacity": {"storage": "2Gi"}}}),
        );
        let labelled =
            claim(json!({"metadata": {"name": "c", "labels": {"a": "b"}}, "status": {"phase": "Bound"}}));
        assert_eq!(rest_of_claim(&old), rest_of_claim(&grown));
        assert_ne!(rest_of_claim(&old), rest_of_claim(&labelled));
    }
}
