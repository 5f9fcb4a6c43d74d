//! What is kept of a pod (pure).

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Toleration};
use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::recorder::reference;
use keelson_operator_kit::{ObjectKey, pod};

/// What the decisions need to know of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// Its UID.
    pub uid: String,
    /// The object, for Events.
    pub reference: ObjectReference,
    /// When it was made.
    pub created: Timestamp,
    /// Where it runs.
    pub node: Option<String>,
    /// What it bears.
    pub tolerations: Vec<Toleration>,
    /// Whether it is said to serve.
    pub ready: bool,
    /// Whether all its containers have ended for good.
    pub terminal: bool,
    /// Whether its deletion has been asked for.
    pub terminating: bool,
}

impl PodView {
    /// What is kept of a pod.
    pub fn read(object: Pod) -> Option<Self> {
        let reference = ObjectReference { resource_version: None, ..reference(&object) };
        let ready = pod::is_ready(&object);
        let terminal = pod::is_terminal(&object);
        let terminating = pod::is_terminating(&object);
        let spec = object.spec?;
        Some(PodView {
            uid: object.metadata.uid?,
            reference,
            created: object.metadata.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            node: spec.node_name.filter(|node| !node.is_empty()),
            tolerations: spec.tolerations.unwrap_or_default(),
            ready,
            terminal,
            terminating,
        })
    }
}

/// Where a pod is found: under its node.
pub fn index(_: &ObjectKey, pod: &PodView) -> String {
    pod.node.clone().unwrap_or_default()
}
