//! Events about the node itself.

use kube::runtime::events::EventType as Type;

use crate::event::{EventType, Recorder};

/// Tells of the node.
#[derive(Clone)]
pub(crate) struct NodeRecorder {
    recorder: Recorder,
    node: String,
}

impl NodeRecorder {
    /// A recorder for the node of a name.
    pub(crate) fn new(client: kube::Client, node: &str) -> Self {
        Self { recorder: Recorder::new(client, node), node: node.to_owned() }
    }

    /// Has an event written, and again if that fails.
    pub(crate) async fn tell(&self, type_: Type, reason: &str, note: String) {
        let kind = match type_ {
            Type::Normal => EventType::Normal,
            Type::Warning => EventType::Warning,
        };
        self.recorder.tell_of_node(&self.node, kind, reason.to_owned(), note);
    }
}
