//! An object as it is kept, and an event as it is sent.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use keelson_store::EventKind;
use serde::Deserialize;
use serde_json::{Map, Value};

/// An object: its bytes, shared by all who read it, and the little that selection needs.
#[derive(Debug)]
pub struct Cached {
    /// The document as it was committed.
    pub bytes: Bytes,
    /// Its revision.
    pub revision: u64,
    /// Its namespace; `None` for a cluster-scoped object.
    pub namespace: Option<Box<str>>,
    /// Its name.
    pub name: Box<str>,
    /// Its labels; `None` where it has none.
    pub labels: Option<Box<Map<String, Value>>>,
    /// Of a pod: what it is most often selected by.
    pod: Option<Box<Pod>>,
}

/// Where a pod is, and how far it is.
#[derive(Debug, Default)]
struct Pod {
    node: Box<str>,
    phase: Box<str>,
}

#[derive(Deserialize)]
struct Selected {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize)]
struct SelectedPod {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default, rename = "nodeName")]
    node_name: Box<str>,
}

#[derive(Default, Deserialize)]
struct PodStatus {
    #[serde(default)]
    phase: Box<str>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    labels: Option<Map<String, Value>>,
}

impl Cached {
    pub(super) fn read(bytes: Bytes, revision: u64, key: &str, is_pod: bool) -> Self {
        let (namespace, name) = match key.split_once('/') {
            Some((namespace, name)) => (Some(namespace.into()), name.into()),
            None => (None, key.into()),
        };
        let selected = is_pod.then(|| serde_json::from_slice::<SelectedPod>(&bytes).ok()).flatten();
        let (labels, pod) = match selected {
            Some(SelectedPod { metadata, spec, status }) => {
                (metadata.labels, Some(Box::new(Pod { node: spec.node_name, phase: status.phase })))
            }
            // What is stored was encoded by this server; a document that cannot be read has no labels to select.
            None => (serde_json::from_slice::<Selected>(&bytes).ok().and_then(|it| it.metadata.labels), None),
        };
        let labels = labels.filter(|it| !it.is_empty()).map(Box::new);
        Cached { bytes, revision, namespace, name, labels, pod }
    }

    /// The node that a pod is bound to.
    pub(super) fn node(&self) -> Option<&str> {
        self.pod.as_ref().map(|pod| &*pod.node).filter(|node| !node.is_empty())
    }

    /// A string or scalar inside of the document, as field selectors compare it; empty where there is none.
    pub fn field(&self, path: &str) -> Cow<'_, str> {
        match (path, &self.pod) {
            ("metadata.name", _) => return Cow::Borrowed(&self.name),
            ("metadata.namespace", _) => return Cow::Borrowed(self.namespace.as_deref().unwrap_or_default()),
            ("spec.nodeName", Some(pod)) => return Cow::Borrowed(&pod.node),
            ("status.phase", Some(pod)) => return Cow::Borrowed(&pod.phase),
            _ => {}
        }
        let Ok(document) = serde_json::from_slice::<Value>(&self.bytes) else { return Cow::Borrowed("") };
        let found = path.split('.').try_fold(&document, |value, part| value.get(part));
        match found {
            Some(Value::String(text)) => Cow::Owned(text.clone()),
            Some(Value::Null) | None => Cow::Borrowed(""),
            Some(other) => Cow::Owned(other.to_string()),
        }
    }
}

/// A change of an object.
#[derive(Debug)]
pub struct WatchEvent {
    /// When.
    pub revision: u64,
    /// How.
    pub kind: EventKind,
    /// The object after it, or its last state.
    pub object: Arc<Cached>,
    /// The object before it.
    pub previous: Option<Arc<Cached>>,
    frame: OnceLock<Bytes>,
}

impl WatchEvent {
    pub(super) fn new(
        revision: u64,
        kind: EventKind,
        object: Arc<Cached>,
        previous: Option<Arc<Cached>>,
    ) -> Self {
        WatchEvent { revision, kind, object, previous, frame: OnceLock::new() }
    }

    /// The event's own frame, built once.
    pub fn frame(&self) -> Bytes {
        self.frame.get_or_init(|| frame(word(self.kind), &self.object.bytes)).clone()
    }
}

/// The type of an event, as a watch says it.
pub fn word(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Created => "ADDED",
        EventKind::Updated => "MODIFIED",
        EventKind::Deleted => "DELETED",
    }
}

/// One line of a watch.
pub fn frame(word: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + word.len() + 24);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(word.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.into()
}
