//! Claims of volumes, volumes and their classes, as far as they decide where a pod can run.
//!
//! [`binding`] chooses the volumes for claims that wait for their first pod, [`limits`] is how many a node can have, [`attachment`]
//! what it has also when nobody uses it.

pub mod attachment;
pub mod binding;
pub mod limits;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::storage::v1::StorageClass;

use crate::labels::Labels;
use crate::names::{NodeName, ObjectName};
use crate::resources::units;
use crate::selector::{LabelSelector, NodeSelector};
use attachment::Attachments;
use limits::Limits;

/// The node that was chosen for a claim's pod.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The older way to name a class.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its UID.
    pub uid: Arc<str>,
    /// The volume that it names.
    pub volume: Option<Arc<str>>,
    /// Whether it and the volume belong to each other.
    pub bound: bool,
    /// Whether its volume was lost.
    pub lost: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its class; empty where it has none.
    pub class: Arc<str>,
    /// The node for which a volume is being made.
    pub selected: Option<NodeName>,
    /// What a volume has to be like.
    pub wish: Wish,
}

/// What a claim wants of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// How many bytes it has at least.
    pub bytes: i64,
    /// Its access modes.
    pub modes: Vec<Box<str>>,
    /// Whether it is a block device.
    pub block: bool,
    /// Which labels it has.
    pub selector: Option<LabelSelector>,
    /// Its class of attributes; empty where it has none.
    pub attributes: Box<str>,
}

/// A PersistentVolume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The nodes that can reach it; `None` is all.
    pub nodes: Option<NodeSelector>,
    /// Whether any claim may take it.
    pub available: bool,
    /// The claim that it is for, with the claim's UID where that is known.
    pub claim: Option<(ObjectName, Arc<str>)>,
    /// Its class; empty where it has none.
    pub class: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// How many bytes it has.
    pub bytes: i64,
    /// Its access modes.
    pub modes: Vec<Box<str>>,
    /// Whether it is a block device.
    pub block: bool,
    /// Its class of attributes; empty where it has none.
    pub attributes: Box<str>,
    /// The storage driver whose volume it is, and the driver's name of it.
    pub driver: Option<(Arc<str>, Arc<str>)>,
}

/// A StorageClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Whether its claims wait for their first pod.
    pub late: bool,
    /// Whether somebody makes volumes for it.
    pub provisioned: bool,
    /// Who does.
    pub provisioner: Arc<str>,
    /// Where volumes can be made; `None` is everywhere.
    pub nodes: Option<NodeSelector>,
}

/// The cluster's claims, volumes and classes, with what has been decided and is not seen yet.
#[derive(Clone, Debug, Default)]
pub struct Volumes {
    /// By namespace and name.
    pub claims: HashMap<ObjectName, Claim>,
    /// By name.
    pub volumes: HashMap<Arc<str>, Volume>,
    /// By name.
    pub classes: HashMap<Arc<str>, Class>,
    /// How many volumes of each driver a node can have.
    pub limits: HashMap<NodeName, Limits>,
    /// What is attached to nodes.
    pub attachments: Attachments,
    /// Claims for which a volume is to be made on a node, for pods that wait for that.
    pub selected: HashMap<ObjectName, NodeName>,
    /// Volumes that a claim is to get, for pods that wait for that.
    pub taken: HashMap<Arc<str>, ObjectName>,
}

fn boxed(modes: Option<&Vec<String>>) -> Vec<Box<str>> {
    modes.into_iter().flatten().map(|mode| mode.as_str().into()).collect()
}

fn text(text: Option<&String>) -> &str {
    text.map(String::as_str).unwrap_or_default()
}

impl Claim {
    /// Reads a claim.
    pub fn read(claim: &core::PersistentVolumeClaim) -> Self {
        let spec = claim.spec.as_ref();
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        let volume = spec.and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
        let annotation = |key: &str| claim.metadata.annotations.as_ref().and_then(|all| all.get(key));
        let completed = annotation("pv.kubernetes.io/bind-completed").is_some();
        let class = annotation(CLASS).or_else(|| spec?.storage_class_name.as_ref());
        let requests = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
        let selector = spec.and_then(|spec| spec.selector.as_ref());
        Claim {
            uid: text(claim.metadata.uid.as_ref()).into(),
            bound: volume.is_some() && (completed || phase == Some("Bound")),
            volume: volume.map(Into::into),
            lost: phase == Some("Lost"),
            deleting: claim.metadata.deletion_timestamp.is_some(),
            class: text(class).into(),
            selected: annotation(SELECTED_NODE)
                .filter(|name| !name.is_empty())
                .map(|name| NodeName::new(name)),
            wish: Wish {
                bytes: requests.and_then(|all| all.get("storage")).map_or(0, units),
                modes: boxed(spec.and_then(|spec| spec.access_modes.as_ref())),
                block: spec.and_then(|spec| spec.volume_mode.as_deref()) == Some("Block"),
                selector: selector.map(|selector| LabelSelector::read(Some(selector))),
                attributes: text(spec.and_then(|spec| spec.volume_attributes_class_name.as_ref())).into(),
            },
        }
    }
}

impl Volume {
    /// Reads a volume.
    pub fn read(volume: &core::PersistentVolume) -> Self {
        let spec = volume.spec.as_ref();
        let affinity = spec.and_then(|spec| spec.node_affinity.as_ref());
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let older = volume.metadata.annotations.as_ref().and_then(|all| all.get(CLASS));
        let claim = spec.and_then(|spec| spec.claim_ref.as_ref());
        let capacity = spec.and_then(|spec| spec.capacity.as_ref());
        Volume {
            nodes: affinity.and_then(|it| it.required.as_ref()).map(NodeSelector::read),
            available: phase == Some("Available") && volume.metadata.deletion_timestamp.is_none(),
            claim: claim.map(|it| {
                let name = ObjectName::new(text(it.namespace.as_ref()), text(it.name.as_ref()));
                (name, text(it.uid.as_ref()).into())
            }),
            class: text(older.or_else(|| spec?.storage_class_name.as_ref())).into(),
            labels: Labels::from(volume.metadata.labels.as_ref()),
            bytes: capacity.and_then(|all| all.get("storage")).map_or(0, units),
            modes: boxed(spec.and_then(|spec| spec.access_modes.as_ref())),
            block: spec.and_then(|spec| spec.volume_mode.as_deref()) == Some("Block"),
            attributes: text(spec.and_then(|spec| spec.volume_attributes_class_name.as_ref())).into(),
            driver: spec
                .and_then(|spec| spec.csi.as_ref())
                .map(|csi| (csi.driver.as_str().into(), csi.volume_handle.as_str().into())),
        }
    }
}

impl Class {
    /// Reads a class.
    pub fn read(class: &StorageClass) -> Self {
        let terms = class.allowed_topologies.as_ref().filter(|terms| !terms.is_empty());
        let nodes = terms.map(|terms| {
            let expression = |it: &core::TopologySelectorLabelRequirement| core::NodeSelectorRequirement {
                key: it.key.clone(),
                operator: "In".to_owned(),
                values: Some(it.values.clone()),
            };
            let term = |term: &core::TopologySelectorTerm| core::NodeSelectorTerm {
                match_expressions: Some(
                    term.match_label_expressions.iter().flatten().map(expression).collect(),
                ),
                match_fields: None,
            };
            NodeSelector::read(&core::NodeSelector { node_selector_terms: terms.iter().map(term).collect() })
        });
        Class {
            late: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            provisioner: class.provisioner.as_str().into(),
            provisioned: class.provisioner != "kubernetes.io/no-provisioner",
            nodes,
        }
    }
}
