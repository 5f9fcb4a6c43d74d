//! Events about pods and the node: told without waiting, counted instead of repeated, written by one task ([`writer`]).

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::pod::{Kind, PodModel};

mod writer;

/// Events that wait to be written; more are dropped.
const QUEUE: usize = 1024;
/// Whether an event is bad news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum EventType {
    /// As it should be.
    Normal,
    /// Worth a look.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Subject {
    Pod,
    Node,
}

/// What makes two events the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    subject: Subject,
    uid: String,
    namespace: String,
    name: String,
    field: Option<String>,
    kind: EventType,
    reason: Cow<'static, str>,
    message: String,
}

#[derive(Debug, Clone)]
struct Told {
    key: Key,
    annotations: BTreeMap<String, String>,
    version: Option<String>,
    /// What it says, if it stands for several.
    combined: Option<String>,
    at: Timestamp,
}

/// Takes events; a clone tells the same task.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Told>,
}

impl Recorder {
    /// Starts the task that writes; it ends with the last recorder. `node` is the events' host.
    pub(crate) fn new(client: kube::Client, node: &str) -> Self {
        Self::with_task(client, node).0
    }

    /// The same, with the task, which ends when all is written that was told.
    pub(crate) fn with_task(client: kube::Client, node: &str) -> (Self, JoinHandle<()>) {
        let (queue, told) = mpsc::channel(QUEUE);
        let task = tokio::spawn(writer::Writer::new(client, node).run(told));
        (Self { queue }, task)
    }

    /// Tells of a pod, or of one of its containers.
    pub(crate) fn tell(
        &self,
        pod: &PodModel,
        container: Option<&str>,
        kind: EventType,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.tell_annotated(pod, container, kind, reason, message, BTreeMap::new());
    }

    /// The same, with annotations.
    pub(crate) fn tell_annotated(
        &self,
        pod: &PodModel,
        container: Option<&str>,
        kind: EventType,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
        annotations: BTreeMap<String, String>,
    ) {
        let field = container.and_then(|name| {
            let list = match pod.member(name)?.kind {
                Kind::Init | Kind::Sidecar => "initContainers",
                Kind::Regular => "containers",
                Kind::Ephemeral => "ephemeralContainers",
            };
            Some(format!("spec.{list}{{{name}}}"))
        });
        let key = Key {
            subject: Subject::Pod,
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            field,
            kind,
            reason: reason.into(),
            message: message.into(),
        };
        let version = pod.pod.metadata.resource_version.clone();
        self.send(Told { key, annotations, version, combined: None, at: Timestamp::now() });
    }

    /// Tells of a pod of which no more is at hand than this.
    pub(crate) fn tell_named(
        &self,
        namespace: String,
        name: String,
        uid: String,
        kind: EventType,
        reason: &'static str,
        message: String,
    ) {
        let (subject, reason) = (Subject::Pod, reason.into());
        let key = Key { subject, uid, namespace, name, field: None, kind, reason, message };
        let (annotations, at) = (BTreeMap::new(), Timestamp::now());
        self.send(Told { key, annotations, version: None, combined: None, at });
    }

    /// Tells of the node.
    pub(crate) fn tell_of_node(
        &self,
        node: &str,
        kind: EventType,
        reason: impl Into<Cow<'static, str>>,
        message: String,
    ) {
        let key = Key {
            subject: Subject::Node,
            // Events of nodes are found by the name in this place.
            uid: node.to_owned(),
            namespace: "default".to_owned(),
            name: node.to_owned(),
            field: None,
            kind,
            reason: reason.into(),
            message,
        };
        self.send(Told {
            key,
            annotations: BTreeMap::new(),
            version: None,
            combined: None,
            at: Timestamp::now(),
        });
    }

    fn send(&self, told: Told) {
        let Key { namespace, name, reason, message, .. } = &told.key;
        tracing::debug!(namespace, name, %reason, message, "event");
        if let Err(error) = self.queue.try_send(told) {
            let (mpsc::error::TrySendError::Full(told) | mpsc::error::TrySendError::Closed(told)) = error;
            let Key { namespace, name, reason, .. } = &told.key;
            tracing::warn!(namespace, name, %reason, "too many events: one is dropped");
        }
    }
}
