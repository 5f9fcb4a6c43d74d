//! What is kept of a node (pure).

use k8s_openapi::api::core::v1::{Node, NodeCondition, ObjectReference, Taint};
use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::recorder::reference;

/// The condition that says whether a node works.
pub const READY: &str = "Ready";

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

/// What the decisions need to know of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    /// Its UID.
    pub uid: String,
    /// The object, for Events.
    pub reference: ObjectReference,
    /// Its version.
    pub resource_version: String,
    /// When it was made.
    pub created: Timestamp,
    /// Where it stands; nodes of one zone fail together.
    pub zone: String,
    /// Whether no further pods are to come.
    pub unschedulable: bool,
    /// What keeps pods away.
    pub taints: Vec<Taint>,
    /// What it says of itself.
    pub conditions: Vec<NodeCondition>,
}

/// Whether a node works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It says so.
    Ready,
    /// It says that it does not, or nothing yet.
    NotReady,
    /// It is silent.
    Unknown,
}

impl NodeView {
    /// What is kept of a node.
    pub fn read(node: Node) -> Option<Self> {
        let reference = reference(&node);
        let meta = node.metadata;
        let label =
            |key: &str| meta.labels.as_ref().and_then(|labels| labels.get(key)).map_or("", String::as_str);
        let spec = node.spec.unwrap_or_default();
        Some(NodeView {
            zone: format!("{}:{}", label(REGION), label(ZONE)),
            uid: meta.uid?,
            reference,
            resource_version: meta.resource_version?,
            created: meta.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            unschedulable: spec.unschedulable.unwrap_or(false),
            taints: spec.taints.unwrap_or_default(),
            conditions: node.status.and_then(|status| status.conditions).unwrap_or_default(),
        })
    }

    /// The condition of a type.
    pub fn condition(&self, type_: &str) -> Option<&NodeCondition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// Whether it works.
    pub fn readiness(&self) -> Readiness {
        match self.condition(READY).map(|ready| ready.status.as_str()) {
            Some("True") => Readiness::Ready,
            Some("Unknown") => Readiness::Unknown,
            Some(_) | None => Readiness::NotReady,
        }
    }

    /// When it last said whether it works.
    pub fn heartbeat(&self) -> Option<Timestamp> {
        self.condition(READY)?.last_heartbeat_time.as_ref().map(|time| time.0)
    }
}
