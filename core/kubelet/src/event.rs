//! Events about pods: told without waiting, counted instead of repeated, written by one task.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

use crate::pod::{Kind, PodModel};

/// Events that wait to be written; more are dropped.
const QUEUE: usize = 1024;
/// Events that are known well enough to be counted.
const KNOWN: usize = 1024;
/// An event that comes again after this is a new one.
const FORGOTTEN: SignedDuration = SignedDuration::from_mins(10);
/// An object may have this many events at once, and then one in each [`REFILL`].
const BURST: f64 = 25.0;
const REFILL: SignedDuration = SignedDuration::from_mins(5);

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

/// What makes two events the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    namespace: String,
    name: String,
    field: Option<String>,
    kind: EventType,
    reason: &'static str,
    message: String,
}

#[derive(Debug)]
struct Told {
    key: Key,
    version: Option<String>,
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
        let (queue, told) = mpsc::channel(QUEUE);
        let writer = Writer { client, node: node.into(), known: HashMap::new(), budgets: HashMap::new() };
        tokio::spawn(writer.run(told));
        Self { queue }
    }

    /// Tells of a pod, or of one of its containers.
    pub(crate) fn tell(
        &self,
        pod: &PodModel,
        container: Option<&str>,
        kind: EventType,
        reason: &'static str,
        message: impl Into<String>,
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
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            field,
            kind,
            reason,
            message: message.into(),
        };
        let version = pod.pod.metadata.resource_version.clone();
        tracing::debug!(object = pod.object(), reason, message = key.message, "event");
        if self.queue.try_send(Told { key, version, at: Timestamp::now() }).is_err() {
            tracing::warn!(object = pod.object(), reason, "too many events: one is dropped");
        }
    }
}

/// An event that was written.
#[derive(Debug, Clone)]
struct Written {
    name: String,
    count: i32,
    last: Timestamp,
}

struct Writer {
    client: kube::Client,
    node: Arc<str>,
    known: HashMap<Key, Written>,
    /// By object: what is left, and when that was reckoned.
    budgets: HashMap<String, (f64, Timestamp)>,
}

/// Takes one from the budget of an object.
fn spend(budget: Option<(f64, Timestamp)>, now: Timestamp) -> (bool, (f64, Timestamp)) {
    let left = budget.map_or(BURST, |(left, since)| {
        let earned = now.duration_since(since).as_secs_f64() / REFILL.as_secs_f64();
        (left + earned.max(0.0)).min(BURST)
    });
    if left >= 1.0 { (true, (left - 1.0, now)) } else { (false, (left, now)) }
}

impl Writer {
    async fn run(mut self, mut told: mpsc::Receiver<Told>) {
        while let Some(one) = told.recv().await {
            let (may, budget) = spend(self.budgets.get(&one.key.uid).copied(), one.at);
            self.budgets.insert(one.key.uid.clone(), budget);
            self.forget(one.at);
            if !may {
                continue;
            }
            let (object, reason) = (one.key.name.clone(), one.key.reason);
            if let Err(error) = self.write(one).await {
                tracing::warn!(object, reason, %error, "event not written");
            }
        }
    }

    fn forget(&mut self, now: Timestamp) {
        if self.known.len() > KNOWN || self.budgets.len() > KNOWN {
            self.known.retain(|_, one| now.duration_since(one.last) < FORGOTTEN);
            self.budgets.retain(|_, (_, since)| now.duration_since(*since) < FORGOTTEN);
        }
        if self.known.len() > KNOWN {
            self.known.clear();
        }
    }

    async fn write(&mut self, told: Told) -> Result<(), kube::Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &told.key.namespace);
        let fresh = |one: &&Written| told.at.duration_since(one.last) < FORGOTTEN;
        if let Some(known) = self.known.get(&told.key).filter(fresh).cloned() {
            let count = known.count.saturating_add(1);
            let patch = json!({ "count": count, "lastTimestamp": Time(told.at) });
            match api.patch(&known.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {
                    self.known.insert(told.key, Written { name: known.name, count, last: told.at });
                    return Ok(());
                }
                // It was too old, and is made anew.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let event = self.event(&told);
        let name = event.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &event).await?;
        self.known.insert(told.key, Written { name, count: 1, last: told.at });
        Ok(())
    }

    fn event(&self, told: &Told) -> Event {
        let key = &told.key;
        let name = format!("{}.{:x}", key.name, told.at.as_nanosecond());
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(key.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(key.namespace.clone()),
                name: Some(key.name.clone()),
                uid: Some(key.uid.clone()),
                resource_version: told.version.clone(),
                field_path: key.field.clone(),
            },
            reason: Some(key.reason.to_owned()),
            message: Some(key.message.clone()),
            type_: Some(key.kind.as_str().to_owned()),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(self.node.to_string()),
            }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node.to_string()),
            count: Some(1),
            first_timestamp: Some(Time(told.at)),
            last_timestamp: Some(Time(told.at)),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_may_have_a_burst_of_events_and_then_one_in_five_minutes() {
        let start = Timestamp::from_second(1000).unwrap();
        let mut budget = None;
        for _ in 0..25 {
            let (may, left) = spend(budget, start);
            assert!(may);
            budget = Some(left);
        }
        let (may, left) = spend(budget, start);
        assert!(!may);
        let later = start.checked_add(SignedDuration::from_secs(301)).unwrap();
        let (may, left) = spend(Some(left), later);
        assert!(may);
        assert!(!spend(Some(left), later).0);
    }
}
