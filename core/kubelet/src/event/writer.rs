//! Writes events: correlated as client-go does, and again when the API server is away.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

use super::{Key, Subject, Told};

/// Events that are known well enough to be counted.
const KNOWN: usize = 1024;
/// An event that comes again after this is a new one.
const FORGOTTEN: SignedDuration = SignedDuration::from_mins(10);
/// An object may have this many events at once, and then one in each [`REFILL`].
const BURST: f64 = 25.0;
const REFILL: SignedDuration = SignedDuration::from_mins(5);
/// So many events that differ in their messages alone become one.
const SIMILAR: usize = 10;
const COMBINED: &str = "(combined from similar events): ";
/// How often an event is tried, and the pause between two attempts.
const ATTEMPTS: u32 = 12;
const PAUSE: Duration = Duration::from_secs(10);

/// An event that was written.
#[derive(Debug, Clone)]
struct Written {
    name: String,
    count: i32,
    last: Timestamp,
}

pub(super) struct Writer {
    client: kube::Client,
    node: Arc<str>,
    known: HashMap<Key, Written>,
    /// Of each kind of event on an object, the different messages of late, and when the last came.
    similar: HashMap<Key, (HashSet<String>, Timestamp)>,
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

/// Whether another attempt may succeed: what the server has refused it refuses again.
fn is_passing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        _ => true,
    }
}

impl Writer {
    /// `node` is the events' host.
    pub(super) fn new(client: kube::Client, node: &str) -> Self {
        let (known, similar, budgets) = (HashMap::new(), HashMap::new(), HashMap::new());
        Writer { client, node: node.into(), known, similar, budgets }
    }

    /// Writes until nobody can tell anything any more. While one cannot be written, the others wait.
    pub(super) async fn run(mut self, mut told: mpsc::Receiver<Told>) {
        while let Some(one) = told.recv().await {
            let (may, budget) = spend(self.budgets.get(&one.key.uid).copied(), one.at);
            self.budgets.insert(one.key.uid.clone(), budget);
            self.forget(one.at);
            if may {
                let one = self.combine(one);
                self.write_again(one).await;
            }
        }
    }

    /// Tries until it is written, refused, or was tried often enough.
    async fn write_again(&mut self, told: Told) {
        let (object, reason) = (told.key.name.clone(), told.key.reason.clone());
        for attempt in 1..=ATTEMPTS {
            let error = match self.write(told.clone()).await {
                Ok(()) => return,
                Err(error) => error,
            };
            if attempt == ATTEMPTS || !is_passing(&error) {
                tracing::warn!(object, %reason, attempt, %error, "event not written");
                return;
            }
            tracing::debug!(object, %reason, attempt, %error, "an event is tried again");
            // Not all nodes at once, when a server comes back.
            let part = if attempt == 1 { rand::random::<f64>() } else { 1.0 };
            tokio::time::sleep(PAUSE.mul_f64(part)).await;
        }
    }

    /// Events that differ in nothing but their messages become one, once there are many.
    fn combine(&mut self, mut told: Told) -> Told {
        let key = Key { message: String::new(), ..told.key.clone() };
        let (messages, last) = self.similar.entry(key).or_insert_with(|| (HashSet::new(), told.at));
        if told.at.duration_since(*last) > FORGOTTEN {
            messages.clear();
        }
        *last = told.at;
        if messages.len() < SIMILAR {
            messages.insert(told.key.message.clone());
        }
        if messages.len() >= SIMILAR {
            told.combined = Some(format!("{COMBINED}{}", told.key.message));
            told.key.message = COMBINED.to_owned();
        }
        told
    }

    fn forget(&mut self, now: Timestamp) {
        if self.known.len() > KNOWN || self.budgets.len() > KNOWN || self.similar.len() > KNOWN {
            self.similar.retain(|_, (_, last)| now.duration_since(*last) < FORGOTTEN);
            self.known.retain(|_, one| now.duration_since(one.last) < FORGOTTEN);
            self.budgets.retain(|_, (_, since)| now.duration_since(*since) < FORGOTTEN);
        }
        if self.known.len() > KNOWN {
            self.known.clear();
        }
        if self.similar.len() > KNOWN {
            self.similar.clear();
        }
    }

    async fn write(&mut self, told: Told) -> Result<(), kube::Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &told.key.namespace);
        let fresh = |one: &&Written| told.at.duration_since(one.last) < FORGOTTEN;
        if let Some(known) = self.known.get(&told.key).filter(fresh).cloned() {
            let count = known.count.saturating_add(1);
            let mut patch = json!({ "count": count, "lastTimestamp": Time(told.at) });
            if let Some(message) = &told.combined {
                patch["message"] = message.as_str().into();
            }
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
        let kind = match key.subject {
            Subject::Pod => "Pod",
            Subject::Node => "Node",
        };
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(key.namespace.clone()),
                annotations: (!told.annotations.is_empty()).then(|| told.annotations.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some(kind.to_owned()),
                namespace: (key.subject == Subject::Pod).then(|| key.namespace.clone()),
                name: Some(key.name.clone()),
                uid: Some(key.uid.clone()),
                resource_version: told.version.clone(),
                field_path: key.field.clone(),
            },
            reason: Some(key.reason.to_string()),
            message: Some(told.combined.clone().unwrap_or_else(|| key.message.clone())),
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use http_body_util::BodyExt as _;
    use kube::client::Body;
    use parking_lot::Mutex;
    use serde_json::Value;

    use super::*;
    use crate::event::{EventType, Recorder};

    /// An API that fails so many times, and keeps what it is sent then.
    fn api(failures: usize, code: u16, kept: Arc<Mutex<Vec<Value>>>) -> kube::Client {
        let asked = Arc::new(AtomicUsize::new(0));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (asked, kept) = (Arc::clone(&asked), Arc::clone(&kept));
            async move {
                let bytes = request.into_body().collect().await.unwrap().to_bytes();
                let sent: Value = serde_json::from_slice(&bytes).unwrap();
                if asked.fetch_add(1, Ordering::SeqCst) < failures {
                    let status = json!({"kind": "Status", "status": "Failure", "code": code, "message": "", "reason": ""});
                    let answer =
                        Response::builder().status(code).body(Body::from(status.to_string().into_bytes()));
                    return Ok::<_, std::convert::Infallible>(answer.unwrap());
                }
                kept.lock().push(sent);
                let event = json!({"metadata": {"name": "e"}, "involvedObject": {}});
                Ok(Response::new(Body::from(event.to_string().into_bytes())))
            }
        });
        kube::Client::new(service, "default")
    }

    async fn told(failures: usize, code: u16, messages: u32) -> Vec<Value> {
        let kept = Arc::default();
        let (queue, told) = mpsc::channel(100);
        let recorder = Recorder { queue };
        for number in 0..messages {
            recorder.tell_of_node("node-1", EventType::Warning, "Reason", format!("message {number}"));
        }
        drop(recorder);
        Writer::new(api(failures, code, Arc::clone(&kept)), "node-1").run(told).await;
        kept.lock().clone()
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_is_tried_again_while_the_server_is_away_but_not_when_it_is_refused() {
        let kept = told(11, 503, 1).await;
        assert_eq!((kept.len(), &kept[0]["involvedObject"]["kind"]), (1, &json!("Node")));
        assert_eq!(kept[0]["message"], "message 0");
        assert!(told(12, 503, 1).await.is_empty());
        assert!(told(1, 403, 1).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn many_events_that_differ_in_their_messages_become_one() {
        let kept = told(0, 0, 12).await;
        assert_eq!(kept.len(), 12);
        assert_eq!(kept[8]["message"], "message 8");
        assert_eq!(kept[9]["message"], "(combined from similar events): message 9");
        assert_eq!(
            (&kept[11]["message"], &kept[11]["count"]),
            (&json!("(combined from similar events): message 11"), &json!(3))
        );
    }

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
