//! Claims: what lies behind the claim that a volume names, and how it is mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, Node, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
    PersistentVolumeClaim, Pod, Volume, VolumeNodeAffinity,
};
use kube::core::{Expression, Selector, SelectorExt as _};
use kube::{Api, ResourceExt as _};

use super::plan::Kind;
use crate::csi::{Lifecycle, Wanted};

/// Why a claim cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error("failed to fetch {what} {name:?} from API server: {reason}")]
    Read { what: &'static str, name: String, reason: String },
    #[error("PVC {name:?} was not created for pod {pod:?} (pod is not owner)")]
    Foreign { name: String, pod: String },
    #[error("PVC is being deleted")]
    Ending,
    #[error("PVC is not bound")]
    Unbound,
    #[error("PVC bound to a volume that is bound to another claim")]
    Misbound,
    #[error("no topology matches: the volume {volume:?} cannot be reached from node {node:?}")]
    Unreachable { volume: String, node: String },
    #[error(
        "the node affinity of volume {volume:?} has the operator {operator:?}, which this node does not know"
    )]
    Operator { volume: String, operator: String },
    #[error("persistent volumes of type {0} are not supported by this node")]
    Source(&'static str),
    #[error("the volume is a block device: containers have it by volumeDevices")]
    IsBlock,
    #[error("volumeMode Block is not supported for volumes of type {0}")]
    NotBlock(&'static str),
    #[error("{} is not below this node's folder of volumes", path.display())]
    Outside { path: PathBuf },
}

/// A claim's volume, as far as this node has to know it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Claimed {
    /// The volume's name.
    pub(super) name: String,
    /// What lies behind it.
    pub(super) backing: Backing,
    /// Whether it is a block device for containers.
    pub(super) block: bool,
    /// Whether containers may not write to the device, whatever the pod says.
    pub(super) read_only: bool,
    /// A folder that this node makes.
    pub(super) is_own: bool,
}

/// What lies behind a claim.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Backing {
    /// A path of the node, whatever it is.
    HostPath(HostPathVolumeSource),
    /// A folder or block device of this node alone.
    Local(PathBuf),
    /// A volume of a storage driver.
    Csi(Box<Wanted>),
}

/// The name of the claim that a volume of a pod stands for.
pub(super) fn name_of(kind: &Kind<'_>, pod: &Pod, volume: &Volume) -> Option<String> {
    match kind {
        Kind::Claim(source) => Some(source.claim_name.clone()),
        Kind::Ephemeral => Some(format!("{}-{}", pod.name_any(), volume.name)),
        Kind::EmptyDir(_)
        | Kind::HostPath(_)
        | Kind::ConfigMap(_)
        | Kind::Secret(_)
        | Kind::DownwardApi(_)
        | Kind::Projected(_)
        | Kind::Csi(_)
        | Kind::Image => None,
    }
}

fn read(what: &'static str, name: &str) -> impl FnOnce(kube::Error) -> ClaimError {
    let name = name.to_owned();
    move |error| {
        let reason = match error {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        };
        ClaimError::Read { what, name, reason }
    }
}

/// Reads what a claim is bound to. `is_known` says that the pod had it before: then its deletion no longer matters.
pub(super) async fn resolve(
    client: &kube::Client,
    node: &str,
    pod: &Pod,
    name: &str,
    ephemeral: bool,
    is_known: impl Fn(&str) -> bool,
) -> Result<Claimed, ClaimError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim = claims.get(name).await.map_err(read("PVC", name))?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    if ephemeral && !claim.owner_references().iter().any(|it| it.controller == Some(true) && it.uid == uid) {
        return Err(ClaimError::Foreign { name: name.to_owned(), pod: pod.name_any() });
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    if phase != Some("Bound") || volume.is_empty() {
        return Err(ClaimError::Unbound);
    }
    if claim.metadata.deletion_timestamp.is_some() && !is_known(volume) {
        return Err(ClaimError::Ending);
    }
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let volume = volumes.get(volume).await.map_err(read("PV", volume))?;
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if reference.and_then(|it| it.uid.as_ref()) != claim.metadata.uid.as_ref() {
        return Err(ClaimError::Misbound);
    }
    let claimed = claimed(&volume)?;
    if let Some(affinity) = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()) {
        let own: Api<Node> = Api::all(client.clone());
        let labels = own.get(node).await.map_err(read("node", node))?.labels().clone();
        if !reaches(affinity, &claimed.name, node, &labels)? {
            return Err(ClaimError::Unreachable { volume: claimed.name, node: node.to_owned() });
        }
    }
    Ok(claimed)
}

/// How a volume is mounted or mapped (pure).
fn claimed(volume: &PersistentVolume) -> Result<Claimed, ClaimError> {
    let spec = volume.spec.clone().unwrap_or_default();
    let block = spec.volume_mode.as_deref() == Some("Block");
    let is_own =
        volume.annotations().get(super::local::PROVISIONED_BY).is_some_and(|it| it == super::local::NAME);
    let backing = if let Some(source) = &spec.csi {
        Backing::Csi(Box::new(Wanted {
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            name: volume.name_any(),
            lifecycle: Lifecycle::Persistent,
            block,
            read_only: source.read_only == Some(true),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            access_modes: spec.access_modes.clone().unwrap_or_default(),
            mount_options: spec.mount_options.clone().unwrap_or_default(),
            stage_secret: source.node_stage_secret_ref.clone(),
            publish_secret: source.node_publish_secret_ref.clone(),
            expand_secret: source.node_expand_secret_ref.clone(),
        }))
    } else if let Some(source) = spec.host_path {
        Backing::HostPath(source)
    } else if let Some(source) = spec.local {
        Backing::Local(PathBuf::from(source.path))
    } else {
        return Err(ClaimError::Source(unsupported(&spec)));
    };
    if block && matches!(backing, Backing::HostPath(_)) {
        return Err(ClaimError::NotBlock("hostPath"));
    }
    let for_readers = |modes: &Vec<String>| !modes.is_empty() && modes.iter().all(|it| it == "ReadOnlyMany");
    let read_only = spec.access_modes.as_ref().is_some_and(for_readers)
        || matches!(&backing, Backing::Csi(wanted) if wanted.read_only);
    Ok(Claimed { name: volume.name_any(), backing, block, read_only, is_own })
}

fn unsupported(spec: &k8s_openapi::api::core::v1::PersistentVolumeSpec) -> &'static str {
    let sources = [
        (spec.nfs.is_some(), "nfs"),
        (spec.iscsi.is_some(), "iscsi"),
        (spec.fc.is_some(), "fc"),
        (spec.flex_volume.is_some(), "flexVolume"),
        (spec.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (spec.azure_disk.is_some(), "azureDisk"),
        (spec.azure_file.is_some(), "azureFile"),
        (spec.cephfs.is_some(), "cephfs"),
        (spec.cinder.is_some(), "cinder"),
        (spec.flocker.is_some(), "flocker"),
        (spec.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (spec.glusterfs.is_some(), "glusterfs"),
        (spec.photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (spec.portworx_volume.is_some(), "portworxVolume"),
        (spec.quobyte.is_some(), "quobyte"),
        (spec.rbd.is_some(), "rbd"),
        (spec.scale_io.is_some(), "scaleIO"),
        (spec.storageos.is_some(), "storageos"),
        (spec.vsphere_volume.is_some(), "vsphereVolume"),
    ];
    sources.into_iter().find(|(is_set, _)| *is_set).map_or("unknown", |(_, name)| name)
}

/// Whether a node of this name and with these labels can reach the volume (pure).
fn reaches(
    affinity: &VolumeNodeAffinity,
    volume: &str,
    node: &str,
    labels: &BTreeMap<String, String>,
) -> Result<bool, ClaimError> {
    let Some(required) = &affinity.required else { return Ok(true) };
    let own_name = BTreeMap::from([("metadata.name".to_owned(), node.to_owned())]);
    for term in &required.node_selector_terms {
        let NodeSelectorTerm { match_expressions, match_fields } = term;
        let list = |part: &Option<Vec<NodeSelectorRequirement>>| part.clone().unwrap_or_default();
        let (expressions, fields) = (list(match_expressions), list(match_fields));
        if expressions.is_empty() && fields.is_empty() {
            continue;
        }
        if selector(volume, expressions)?.matches(labels) && selector(volume, fields)?.matches(&own_name) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn selector(volume: &str, requirements: Vec<NodeSelectorRequirement>) -> Result<Selector, ClaimError> {
    let mut all = Selector::default();
    for NodeSelectorRequirement { key, operator, values } in requirements {
        let values: BTreeSet<String> = values.into_iter().flatten().collect();
        all.extend([match operator.as_str() {
            "In" => Expression::In(key, values),
            "NotIn" => Expression::NotIn(key, values),
            "Exists" => Expression::Exists(key),
            "DoesNotExist" => Expression::DoesNotExist(key),
            _ => return Err(ClaimError::Operator { volume: volume.to_owned(), operator }),
        }]);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn a_volume_is_mounted_as_its_source_says_or_refused_by_name() {
        let volume = |spec: serde_json::Value| {
            claimed(&from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap())
        };
        let local = volume(json!({"local": {"path": "/disk"}})).unwrap();
        assert_eq!(
            (local.backing, local.block, local.is_own),
            (Backing::Local("/disk".into()), false, false)
        );
        let device = |source: &str, more: serde_json::Value| {
            let mut spec = json!({"volumeMode": "Block", "accessModes": ["ReadOnlyMany"]});
            spec[source] = more;
            volume(spec).unwrap()
        };
        let local = device("local", json!({"path": "/dev/x"}));
        assert!(local.block && local.read_only);
        let csi = device("csi", json!({"driver": "d", "volumeHandle": "h"}));
        assert!(matches!(csi.backing, Backing::Csi(wanted) if wanted.block && !wanted.read_only));
        assert_eq!(
            volume(json!({"nfs": {"server": "s", "path": "/"}})).unwrap_err().to_string(),
            "persistent volumes of type nfs are not supported by this node"
        );
        let block = volume(json!({"hostPath": {"path": "/x"}, "volumeMode": "Block"}));
        assert!(matches!(block, Err(ClaimError::NotBlock("hostPath"))));
    }

    #[test]
    fn a_volume_is_reached_from_the_nodes_that_its_affinity_selects() {
        let labels = BTreeMap::from([("kubernetes.io/hostname".to_owned(), "a".to_owned())]);
        let reached = |terms: serde_json::Value| {
            reaches(
                &from_value(json!({"required": {"nodeSelectorTerms": terms}})).unwrap(),
                "v",
                "a",
                &labels,
            )
        };
        let host = |name: &str| json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [name]});
        assert!(
            reached(json!([{"matchExpressions": [host("b")]}, {"matchExpressions": [host("a")]}])).unwrap()
        );
        assert!(!reached(json!([{"matchExpressions": [host("b")]}])).unwrap());
        assert!(!reached(json!([{}])).unwrap());
        let named = json!({"key": "metadata.name", "operator": "In", "values": ["a"]});
        assert!(reached(json!([{"matchFields": [named]}])).unwrap());
        assert!(
            reached(json!([{"matchExpressions": [{"key": "x", "operator": "Gt", "values": ["1"]}]}]))
                .is_err()
        );
    }
}
