//! Events go some time after their last change.
//!
//! One queue in the order of time, one timer. When the server starts, the times are read from the objects themselves;
//! later on an object's place is when its change was seen. Nothing wakes while there are no events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keelson_api::{GroupResource, Object, Status};
use keelson_store::{EventKind, Precondition, Revision};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Registry, Target, WriteFailure};
use crate::cache::{self, Cached, ResourceCache};

/// Changes that are taken up at once.
const BATCH: usize = 256;

struct Place {
    due: Instant,
    namespace: Option<Box<str>>,
    name: Box<str>,
    revision: u64,
}

impl Place {
    fn new(due: Instant, object: &Cached) -> Self {
        let (namespace, name) = (object.namespace.clone(), object.name.clone());
        Place { due, namespace, name, revision: object.revision }
    }
}

/// What is to go, and when.
struct Queue {
    cache: Arc<ResourceCache>,
    places: VecDeque<Place>,
    position: u64,
    /// How long an event is kept after its last change.
    ttl: Duration,
}

/// When an event changed last, as far as it says so itself.
fn last_change(event: &Object, now: Timestamp) -> Timestamp {
    let paths: [&[&str]; 4] = [
        &["metadata", "creationTimestamp"],
        &["lastTimestamp"],
        &["eventTime"],
        &["series", "lastObservedTime"],
    ];
    let times = paths.into_iter().filter_map(|path| event.get_str(path)?.parse::<Timestamp>().ok());
    // What claims to be from later on is from now.
    times.max().unwrap_or(now).min(now)
}

impl Queue {
    /// Reads all that there is.
    fn fill(cache: Arc<ResourceCache>, ttl: Duration, now: Timestamp) -> Result<Self, Status> {
        let listing = cache.list();
        let mut places = Vec::with_capacity(listing.objects.len());
        for object in listing.objects.values() {
            let age = now.duration_since(last_change(&cache::decode(&object.bytes)?, now));
            let left = ttl.saturating_sub(Duration::try_from(age).unwrap_or_default());
            places.push(Place::new(Instant::now() + left, object));
        }
        places.sort_by_key(|place| place.due);
        Ok(Queue { cache, places: places.into(), position: listing.revision, ttl })
    }

    /// Takes up what has changed. `false` if more has changed than is kept: then all is to be read anew.
    fn follow(&mut self) -> bool {
        loop {
            let Ok(events) = self.cache.events_after(self.position, BATCH) else { return false };
            let Some(last) = events.last() else { return true };
            self.position = last.revision;
            for event in events.iter().filter(|event| event.kind != EventKind::Deleted) {
                self.places.push_back(Place::new(Instant::now() + self.ttl, &event.object));
            }
        }
    }
}

impl Registry {
    /// Removes events `ttl` after their last change, until it is told to stop.
    pub async fn expire_events(self: Arc<Self>, ttl: Duration, stop: CancellationToken) {
        let resource = GroupResource::new("", "events");
        let Some(info) = self.catalog().find("", "v1", "events").cloned() else { return };
        let cache = self.resource(&resource);
        let mut newest = cache.follow();
        let mut queue = match Queue::fill(Arc::clone(&cache), ttl, Timestamp::now()) {
            Ok(queue) => queue,
            Err(error) => return tracing::error!(%error, "events cannot be read, and do not expire"),
        };
        loop {
            newest.borrow_and_update();
            if !queue.follow() {
                match Queue::fill(Arc::clone(&cache), ttl, Timestamp::now()) {
                    Ok(filled) => queue = filled,
                    Err(error) => return tracing::error!(%error, "events cannot be read, and do not expire"),
                }
            }
            while queue.places.front().is_some_and(|place| place.due <= Instant::now()) {
                let Some(place) = queue.places.pop_front() else { break };
                let target = Target {
                    resource: Arc::clone(&info),
                    namespace: place.namespace.as_deref().map(str::to_owned),
                    name: place.name.to_string(),
                    subresource: String::new(),
                };
                if let Err(error) = self.expire(&target, place.revision).await {
                    // Without it the store would grow; it is tried again with the next start.
                    tracing::warn!(%error, object = %target.cache_key(), "an event could not be removed");
                }
            }
            let due = queue.places.front().map(|place| place.due);
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = newest.changed() => if changed.is_err() { return },
                () = timer => {}
            }
        }
    }

    /// Removes an object that stands at a revision; a newer one stays.
    async fn expire(&self, target: &Target, revision: u64) -> Result<(), Status> {
        let Some(found) = self.find(target).filter(|found| found.revision == revision) else { return Ok(()) };
        let object = cache::decode(&found.bytes)?;
        match self.remove(target, &object, Precondition::Unchanged(Revision::new(revision))).await {
            Ok(_) | Err(WriteFailure::Conflict | WriteFailure::Outdated) => Ok(()),
            Err(WriteFailure::Status(status)) => Err(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_counts_from_its_last_occurrence_but_never_from_the_future() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let at = |last: &str| {
            let event = Object::from_value(json!({
                "metadata": {"creationTimestamp": "2026-01-01T10:00:00Z"}, "lastTimestamp": last,
                "series": {"lastObservedTime": "2026-01-01T10:30:00.000000Z"},
            }));
            last_change(&event.unwrap(), now).to_string()
        };
        assert_eq!(at("2026-01-01T11:00:00Z"), "2026-01-01T11:00:00Z");
        assert_eq!(at("2027-01-01T11:00:00Z"), "2026-01-01T12:00:00Z");
        assert_eq!(at(""), "2026-01-01T10:30:00Z");
    }
}
