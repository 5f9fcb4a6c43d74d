//! Tokens in Secrets: the day on which each was used last is written on its Secret, and since when that is done into a
//! ConfigMap. What has not been used for long can then be told, and goes.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use keelson_api::{GroupResource, Object, Status};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cache;
use crate::registry::{Registry, Target};
use crate::server::bootstrap::{ensure, options};

/// The type of Secrets with tokens.
pub(super) const TYPE: &str = "kubernetes.io/service-account-token";
/// The label with the day.
pub(super) const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The label of a Secret whose token is no longer taken.
pub(super) const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

const NAMESPACE: &str = "kube-system";
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
/// How often the ConfigMap is looked at.
const LOOK: Duration = Duration::from_secs(1800);
/// Uses that wait to be written down. One more is not written: the next use of that token is.
const WAITING: usize = 64;

/// A Secret whose token was used.
#[derive(Debug)]
struct Use {
    namespace: String,
    name: String,
    uid: String,
}

/// Takes notes of uses, without waiting.
#[derive(Clone)]
pub(super) struct Notes(mpsc::Sender<Use>);

/// Writes down what was noted.
pub struct Ledger(mpsc::Receiver<Use>);

/// Notes, and who writes them down.
pub(super) fn ledger() -> (Notes, Ledger) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Notes(sender), Ledger(receiver))
}

fn day(now: Timestamp) -> Date {
    now.to_zoned(TimeZone::UTC).date()
}

/// Whether a Secret's label says something else than today; other servers' clocks may be a day ahead.
fn is_due(label: Option<&str>, now: Timestamp) -> bool {
    let today = day(now);
    let tomorrow = today.tomorrow().unwrap_or(today);
    !label.is_some_and(|label| label == today.to_string() || label == tomorrow.to_string())
}

impl Notes {
    /// Notes a use, if it is the first of the day by the Secret's label.
    pub(super) fn take(&self, namespace: &str, name: &str, uid: &str, label: Option<&str>, now: Timestamp) {
        if is_due(label, now) {
            let used = Use { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.to_owned() };
            // One that finds no place is noted with its next use.
            drop(self.0.try_send(used));
        }
    }
}

fn target(registry: &Registry, resource: &str, namespace: &str, name: &str) -> Option<Target> {
    let resource = Arc::clone(registry.catalog().find("", "v1", resource)?);
    let (namespace, name) = (Some(namespace.to_owned()), name.to_owned());
    Some(Target { resource, namespace, name, subresource: String::new() })
}

async fn write(registry: &Registry, used: &Use) -> Result<(), Status> {
    let now = Timestamp::now();
    let secrets = registry.resource(&GroupResource::new("", "secrets"));
    let Some(found) = secrets.get(&format!("{}/{}", used.namespace, used.name)) else { return Ok(()) };
    let is_same = |secret: &Object| secret.uid() == Some(used.uid.as_str());
    let seen = cache::decode(&found.bytes)?;
    if !is_same(&seen) || !is_due(seen.label(LAST_USED), now) {
        return Ok(());
    }
    let Some(target) = target(registry, "secrets", &used.namespace, &used.name) else { return Ok(()) };
    let options = options();
    let written = registry.update(&target, &options, |live| {
        let mut secret = live.clone();
        if is_same(live) {
            secret.set(&["metadata", "labels", LAST_USED], day(now).to_string().into());
        }
        Ok(secret)
    });
    written.await.map(drop)
}

/// Sees to the ConfigMap that says since when uses are written down.
async fn track(registry: &Registry) -> Result<(), Status> {
    let today = day(Timestamp::now()).to_string();
    let maps = registry.resource(&GroupResource::new("", "configmaps"));
    let Some(found) = maps.get(&format!("{NAMESPACE}/{TRACKING}")) else {
        let document = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"since": today},
            "metadata": {"name": TRACKING, "namespace": NAMESPACE}});
        return ensure(registry, document).await;
    };
    let since = |map: &Object| map.get_str(&["data", "since"]).and_then(|text| text.parse::<Date>().ok());
    if since(&cache::decode(&found.bytes)?).is_some() {
        return Ok(());
    }
    let Some(target) = target(registry, "configmaps", NAMESPACE, TRACKING) else { return Ok(()) };
    let options = options();
    let written = registry.update(&target, &options, |live| {
        let mut map = live.clone();
        map.set(&["data", "since"], today.as_str().into());
        Ok(map)
    });
    written.await.map(drop)
}

impl Ledger {
    /// Writes down until it is told to stop.
    pub async fn keep(mut self, registry: Arc<Registry>, stop: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => track(&registry).await,
                used = self.0.recv() => match used {
                    Some(used) => write(&registry, &used).await,
                    None => return,
                },
            };
            if let Err(error) = outcome {
                tracing::warn!(%error, "the use of a token in a Secret could not be written down");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_noted_once_a_day() {
        let now: Timestamp = "2026-01-31T23:59:00Z".parse().unwrap();
        for label in ["2026-01-31", "2026-02-01"] {
            assert!(!is_due(Some(label), now), "{label}");
        }
        for label in [None, Some(""), Some("2026-01-30"), Some("2026-02-02")] {
            assert!(is_due(label, now), "{label:?}");
        }
    }

    #[tokio::test]
    async fn notes_that_nobody_reads_are_bounded() {
        let (notes, mut ledger) = ledger();
        let now = Timestamp::now();
        for place in 0..2 * WAITING {
            notes.take("ns", &format!("s-{place}"), "u", None, now);
        }
        drop(notes);
        let mut count = 0;
        while ledger.0.recv().await.is_some() {
            count += 1;
        }
        assert_eq!(count, WAITING);
    }
}
