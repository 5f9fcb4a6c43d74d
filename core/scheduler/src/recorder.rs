//! Events about pods (client).

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::pod::PodInfo;

/// The longest message that an Event may have, in bytes.
const LONGEST: usize = 1024;

/// An Event to write.
#[derive(Clone, Copy, Debug)]
pub struct Note<'a> {
    /// The pod that it is about.
    pub pod: &'a PodInfo,
    /// `Normal` or `Warning`.
    pub type_: &'static str,
    /// A word for programs.
    pub reason: &'static str,
    /// What was being done.
    pub action: &'static str,
    /// A sentence for people.
    pub message: &'a str,
}

/// Writes Events under the scheduler's name. They are best effort: one that cannot be written is logged.
#[derive(Clone)]
pub struct Recorder {
    client: Client,
    component: String,
}

impl Recorder {
    /// A recorder that signs as `component`.
    pub fn new(client: Client, component: String) -> Self {
        Recorder { client, component }
    }

    /// The name under which it writes.
    pub fn component(&self) -> &str {
        &self.component
    }

    /// Writes an Event.
    pub async fn record(&self, note: Note<'_>) {
        let name = &note.pod.name;
        let api: Api<Event> = Api::namespaced(self.client.clone(), name.namespace.as_str());
        let event = event(note, &self.component, Timestamp::now());
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::warn!(
                object = %name,
                reason = note.reason,
                error = &error as &dyn std::error::Error,
                "an event could not be recorded"
            );
        }
    }
}

fn event(note: Note<'_>, component: &str, now: Timestamp) -> Event {
    let name = &note.pod.name;
    let namespace = Some(name.namespace.to_string());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", name.name, now.as_nanosecond())),
            namespace: namespace.clone(),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(name.name.to_string()),
            namespace,
            uid: Some(note.pod.uid.to_string()),
            ..ObjectReference::default()
        },
        type_: Some(note.type_.to_owned()),
        reason: Some(note.reason.to_owned()),
        action: Some(note.action.to_owned()),
        message: Some(truncated(note.message)),
        source: Some(EventSource { component: Some(component.to_owned()), host: None }),
        reporting_component: Some(component.to_owned()),
        reporting_instance: Some(component.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}

fn truncated(message: &str) -> String {
    if message.len() <= LONGEST {
        return message.to_owned();
    }
    let most = LONGEST - 4;
    let end = (0..=most).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    format!("{} ...", &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let long = "ä".repeat(LONGEST);
        let cut = truncated(&long);
        assert!(cut.len() <= LONGEST && cut.ends_with("ä ..."), "{}", cut.len());
        assert_eq!(truncated("short"), "short");
    }
}
