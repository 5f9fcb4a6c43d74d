//! An object as it is kept, and an event as it is sent.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use keelson_api::selector::Labels;
use keelson_api::{GroupVersionKind, Object, Status, protobuf};
use keelson_store::EventKind;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

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
    pub labels: Option<Labels>,
    /// Of a pod: what it is most often selected by.
    pod: Option<Box<Pod>>,
    /// The document as a message, once it was asked for.
    message: OnceLock<Box<[u8]>>,
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
    labels: Labels,
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
            None => {
                let read = serde_json::from_slice::<Selected>(&bytes).ok();
                (read.map(|it| it.metadata.labels).unwrap_or_default(), None)
            }
        };
        let labels = Some(labels).filter(|it| !it.is_empty());
        Cached { bytes, revision, namespace, name, labels, pod, message: OnceLock::new() }
    }

    /// The document as a protobuf message of its kind, without the envelope. It is written once, when it is first
    /// asked for.
    pub fn message(&self, kind: protobuf::Message) -> Result<&[u8], Status> {
        if let Some(message) = self.message.get() {
            return Ok(message);
        }
        let message = kind.encode(&self.bytes).map_err(Status::internal)?;
        Ok(self.message.get_or_init(|| message.into()))
    }

    /// The same object as another document, with the labels by which it is selected.
    pub(crate) fn with_document(&self, object: Object) -> Result<Self, Status> {
        let bytes = serde_json::to_vec(&object.into_value()).map_err(Status::internal)?;
        Ok(Cached {
            bytes: bytes.into(),
            revision: self.revision,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            labels: self.labels.clone(),
            pod: None,
            message: OnceLock::new(),
        })
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
    /// While somebody may soon want it.
    frame: Mutex<Option<Bytes>>,
    message_frame: Mutex<Option<Bytes>>,
}

impl WatchEvent {
    pub(crate) fn new(
        revision: u64,
        kind: EventKind,
        object: Arc<Cached>,
        previous: Option<Arc<Cached>>,
    ) -> Self {
        WatchEvent {
            revision,
            kind,
            object,
            previous,
            frame: Mutex::new(None),
            message_frame: Mutex::new(None),
        }
    }

    /// The event's own frame, built once for all who keep up.
    pub fn frame(&self) -> Bytes {
        self.frame.lock().get_or_insert_with(|| frame(word(self.kind), &self.object.bytes)).clone()
    }

    /// Drops the frames: those who keep up have them, and for others they are built anew.
    pub(super) fn cool(&self) {
        self.frame.lock().take();
        self.message_frame.lock().take();
    }
}

impl WatchEvent {
    /// The event's own frame in protobuf, built once.
    pub fn message_frame(&self, gvk: &GroupVersionKind, kind: protobuf::Message) -> Result<Bytes, Status> {
        let mut kept = self.message_frame.lock();
        if let Some(frame) = &*kept {
            return Ok(frame.clone());
        }
        let frame = message_frame(word(self.kind), gvk, self.object.message(kind)?);
        Ok(kept.insert(frame).clone())
    }
}

/// One event of a watch in protobuf, about an object that is a message already.
pub fn message_frame(word: &str, gvk: &GroupVersionKind, message: &[u8]) -> Bytes {
    let document = protobuf::envelope(&gvk.api_version(), &gvk.kind, &[message]);
    protobuf::watch_frame(word, &document).into()
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
