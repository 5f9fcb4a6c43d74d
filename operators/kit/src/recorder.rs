//! Events (client): the driver around [`correlator`].

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::correlator::{Correlator, Verdict};

pub mod correlator;

/// How many Events may wait to be written.
const WAITING: usize = 1024;

/// The longest message that an Event may have, in bytes.
const LONGEST: usize = 1024;

/// Whether an Event is a matter of course.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// It is.
    Normal,
    /// Somebody should look at it.
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        }
    }
}

/// An Event to write.
#[derive(Clone, Debug)]
pub struct Note {
    /// The object that it is about.
    pub regarding: ObjectReference,
    /// How bad it is.
    pub severity: Severity,
    /// A word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Writes Events under an operator's name, after one another and in the background. They are best effort: one that
/// cannot be written is logged.
#[derive(Clone)]
pub struct Recorder(mpsc::Sender<Note>);

impl Recorder {
    /// Starts a recorder that signs as `component` and ends with `shutdown`, or with its last clone.
    pub fn start(client: Client, component: String, shutdown: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            let mut writer = Writer { client, component, correlator: Correlator::default(), receiver };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = writer.run() => {}
            }
        });
        Recorder(sender)
    }

    /// Writes that something took place as it should.
    pub fn normal(&self, regarding: &ObjectReference, reason: &'static str, message: impl Into<String>) {
        self.record(Note {
            regarding: regarding.clone(),
            severity: Severity::Normal,
            reason,
            message: message.into(),
        });
    }

    /// Writes that something is wrong.
    pub fn warning(&self, regarding: &ObjectReference, reason: &'static str, message: impl Into<String>) {
        self.record(Note {
            regarding: regarding.clone(),
            severity: Severity::Warning,
            reason,
            message: message.into(),
        });
    }

    /// Writes an Event.
    pub fn record(&self, note: Note) {
        if let Err(error) = self.0.try_send(note) {
            let (mpsc::error::TrySendError::Full(note) | mpsc::error::TrySendError::Closed(note)) = error;
            tracing::warn!(
                object = note.regarding.name,
                namespace = note.regarding.namespace,
                reason = note.reason,
                message = note.message,
                "an event could not be recorded: too many wait, or the operator ends"
            );
        }
    }
}

/// A reference to an object that the API has returned.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: object.meta().name.clone(),
        namespace: object.meta().namespace.clone(),
        uid: object.meta().uid.clone(),
        resource_version: object.resource_version(),
        field_path: None,
    }
}

struct Writer {
    client: Client,
    component: String,
    correlator: Correlator,
    receiver: mpsc::Receiver<Note>,
}

impl Writer {
    async fn run(&mut self) {
        while let Some(note) = self.receiver.recv().await {
            let now = Timestamp::now();
            let (name, namespace, reason) =
                (note.regarding.name.clone(), note.regarding.namespace.clone(), note.reason);
            if let Err(error) = self.write(note, now).await {
                tracing::warn!(
                    object = name,
                    namespace,
                    reason,
                    error = &error as &dyn std::error::Error,
                    "an event could not be recorded"
                );
            }
        }
    }

    async fn write(&mut self, note: Note, now: Timestamp) -> Result<(), kube::Error> {
        // Events about objects without a namespace are kept in `default`, as everywhere in Kubernetes.
        let namespace = note.regarding.namespace.as_deref().unwrap_or("default").to_owned();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        match self.correlator.step(&note, now) {
            Verdict::Drop => Ok(()),
            Verdict::Create { name, message } => {
                let event = event(note, &self.component, namespace, name, message, now);
                api.create(&PostParams::default(), &event).await.map(drop)
            }
            Verdict::Repeat { name, count, message } => {
                let patch =
                    json!({"count": count, "message": truncated(&message), "lastTimestamp": Time(now)});
                let done = api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop);
                match done {
                    // It has expired since: begin again.
                    Err(kube::Error::Api(status)) if status.is_not_found() => {
                        let name = self.correlator.begin_again(&note, now);
                        let event = event(note, &self.component, namespace, name, message, now);
                        api.create(&PostParams::default(), &event).await.map(drop)
                    }
                    done => done,
                }
            }
        }
    }
}

fn event(
    note: Note,
    component: &str,
    namespace: String,
    name: String,
    message: String,
    now: Timestamp,
) -> Event {
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
        involved_object: note.regarding,
        type_: Some(note.severity.as_str().to_owned()),
        reason: Some(note.reason.to_owned()),
        message: Some(truncated(&message)),
        source: Some(EventSource { component: Some(component.to_owned()), host: None }),
        reporting_component: Some(component.to_owned()),
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
