//! The class, and the volume for a claim (pure).

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use serde_json::{Value, json};

/// The name of the provisioner.
pub const PROVISIONER: &str = "local.keelson.io";
/// The name of the class.
pub const CLASS: &str = "local";
/// The annotation of a Node with the folder of its volumes, and the label of a volume with the name of its node.
pub const FOLDER: &str = "local.keelson.io/folder";
/// The label of a volume with the name of its node.
pub const NODE: &str = "local.keelson.io/node";
/// Who made a volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The mark of the default class.
const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

/// The class.
pub fn class(is_default: bool) -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {DEFAULT: is_default.to_string()}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    })
}

/// Whether a class is marked as the default.
pub fn is_default(class: &StorageClass) -> bool {
    class.annotations().get(DEFAULT).is_some_and(|mark| mark == "true")
}

/// The name of the volume for a claim: the same however often it is tried.
pub fn name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.uid().unwrap_or_default())
}

/// A node, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its label `kubernetes.io/hostname`.
    pub hostname: Option<String>,
    /// The folder of its volumes.
    pub folder: Option<String>,
}

/// The volume for a claim on a node.
pub fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &str,
    hostname: &str,
    folder: &str,
) -> Value {
    let name = name(claim);
    let spec = claim.spec.clone().unwrap_or_default();
    let requests = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [hostname]});
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "annotations": {PROVISIONED_BY: PROVISIONER},
            "labels": {NODE: node},
            "finalizers": [FOLDER],
        },
        "spec": {
            "capacity": {"storage": requests.get("storage")},
            "accessModes": spec.access_modes,
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.name_any(),
            "volumeMode": "Filesystem",
            "local": {"path": format!("{}/{name}", folder.trim_end_matches('/'))},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim.metadata.namespace,
                "name": claim.metadata.name,
                "uid": claim.metadata.uid,
                "resourceVersion": claim.metadata.resource_version,
            },
        },
    })
}

/// Whether a volume was made here.
pub fn is_own(volume: &PersistentVolume) -> bool {
    volume.annotations().get(PROVISIONED_BY).is_some_and(|by| by == PROVISIONER)
}
