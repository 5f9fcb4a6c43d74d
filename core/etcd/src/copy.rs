//! The state in memory, those who are told of it, and writes that wait for their event.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use keelson_store::engine::HistoryError;
use keelson_store::mirror::Became;
use keelson_store::{Entry, Event, EventKind, Key, Mirror, Observer, Revision, Snapshot, Value, engine};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::layout::{Deleted, Keys, Stored, WriteId, revision, unstamped};
use crate::proto;
use crate::proto::event::EventType;

/// What was listed.
#[derive(Default)]
pub(crate) struct Listed {
    pub(crate) revision: Revision,
    pub(crate) entries: Vec<(Key, Entry)>,
    stamps: HashMap<Key, u32>,
    /// Writes of this process whose values are still there.
    own: Vec<(u64, Entry)>,
    /// A key that holds something else.
    pub(crate) foreign: Option<String>,
}

/// The state in memory.
pub(crate) struct Copy {
    pub(crate) keys: Keys,
    writer: u64,
    sequence: AtomicU64,
    config: engine::Config,
    feed: Mutex<Feed>,
    seen: watch::Sender<Revision>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Entry>>>,
}

/// What changes with every event. It is locked while those who follow are told, which keeps that in order.
struct Feed {
    mirror: Mirror,
    /// Where the revision stands in the values that have one.
    stamps: HashMap<Key, u32>,
    observer: Arc<dyn Observer>,
}

/// A write that waits for its event.
pub(crate) struct Ticket<'a> {
    pub(crate) id: WriteId,
    copy: &'a Copy,
    event: oneshot::Receiver<Entry>,
}

impl Ticket<'_> {
    /// What the write has made, once its event was seen.
    pub(crate) fn made(&mut self) -> Option<Entry> {
        self.event.try_recv().ok()
    }

    /// Waits for the event, forever if there is none.
    pub(crate) async fn event(&mut self) -> Entry {
        match (&mut self.event).await {
            Ok(entry) => entry,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.copy.waiting.lock().remove(&self.id.sequence);
    }
}

impl Listed {
    /// Takes up a page of the list.
    pub(crate) fn add(&mut self, copy: &Copy, page: Vec<proto::KeyValue>) {
        for pair in page {
            if copy.keys.is_own(&pair.key) {
                continue;
            }
            let stored = Stored::decode(pair.value);
            let (Some(stored), Some(key)) = (stored, copy.keys.of_etcd(&pair.key)) else {
                self.foreign = Some(String::from_utf8_lossy(&pair.key).into_owned());
                continue;
            };
            let entry = entry(&stored.value, revision(pair.create_revision), revision(pair.mod_revision));
            if let Some(stamp) = stored.value.stamp {
                self.stamps.insert(key.clone(), stamp);
            }
            if stored.id.writer == copy.writer {
                self.own.push((stored.id.sequence, entry.clone()));
            }
            self.entries.push((key, entry));
        }
    }
}

fn entry(value: &Value, created: Revision, modified: Revision) -> Entry {
    Entry { value: value.finish(modified), created, modified }
}

impl Copy {
    /// A copy that begins with what was listed; `observer` is told of it at once.
    pub(crate) fn new(keys: Keys, config: engine::Config, observer: Arc<dyn Observer>) -> Self {
        let mirror = Mirror::new(config, Revision::ZERO, []);
        Copy {
            keys,
            writer: rand::random(),
            sequence: AtomicU64::new(1),
            config,
            feed: Mutex::new(Feed { mirror, stamps: HashMap::new(), observer }),
            seen: watch::Sender::new(Revision::ZERO),
            waiting: Mutex::default(),
        }
    }

    /// Up to where everything was shown to those who follow.
    pub(crate) fn seen(&self) -> Revision {
        *self.seen.borrow()
    }

    /// Waits until everything up to a revision was shown.
    pub(crate) async fn wait(&self, revision: Revision) {
        let mut seen = self.seen.subscribe();
        // The sender lives as long as this does.
        let _ = seen.wait_for(|seen| *seen >= revision).await;
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.feed.lock().mirror.snapshot()
    }

    pub(crate) fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, HistoryError> {
        self.feed.lock().mirror.snapshot_at(revision)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Entry> {
        self.feed.lock().mirror.get(key).cloned()
    }

    /// Whether a value is what is stored under a key at a revision.
    pub(crate) fn holds(&self, key: &Key, at: Revision, value: &Value) -> bool {
        let feed = self.feed.lock();
        let stamp = feed.stamps.get(key).copied();
        let entry = feed.mirror.get(key);
        entry.is_some_and(|it| it.modified == at && value.stamp == stamp && value.finish(at) == it.value)
    }

    /// A number for a write.
    pub(crate) fn begin(&self) -> Ticket<'_> {
        let (send, event) = oneshot::channel();
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().insert(sequence, send);
        Ticket { id: WriteId { writer: self.writer, sequence }, copy: self, event }
    }

    fn answer(&self, own: Vec<(u64, Entry)>) {
        if own.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock();
        for (sequence, entry) in own {
            if let Some(answer) = waiting.remove(&sequence) {
                // Who does not wait any more does not need it.
                let _ = answer.send(entry);
            }
        }
    }

    /// Begins anew with what was listed.
    pub(crate) fn restore(&self, listed: Listed) {
        let mut feed = self.feed.lock();
        feed.mirror = Mirror::new(self.config, listed.revision, listed.entries);
        feed.stamps = listed.stamps;
        let snapshot = feed.mirror.snapshot();
        feed.observer.restored(&snapshot);
        self.answer(listed.own);
        drop(feed);
        self.seen.send_replace(listed.revision);
    }

    /// Nothing has changed up to a revision.
    pub(crate) fn progress(&self, revision: Revision) {
        let mut feed = self.feed.lock();
        if !feed.mirror.progress(revision) {
            return;
        }
        feed.observer.progressed(revision);
        drop(feed);
        self.seen.send_replace(revision);
    }

    /// Takes up events as they come: all of a revision together, and none of an earlier one again.
    pub(crate) fn take(&self, events: &[proto::Event]) {
        let modified = |event: &proto::Event| event.kv.as_ref().map_or(0, |pair| pair.mod_revision);
        let mut feed = self.feed.lock();
        let (mut shown, mut own): (Vec<Event>, _) = (Vec::new(), Vec::new());
        for together in events.chunk_by(|a, b| modified(a) == modified(b)) {
            let Some(at) = together.first().map(|event| revision(modified(event))) else { continue };
            if at > feed.mirror.revision() {
                feed.step(self, at, together, &mut shown, &mut own);
            }
        }
        let newest = feed.mirror.revision();
        if !shown.is_empty() {
            feed.observer.applied(&shown);
        }
        if shown.last().is_none_or(|event| event.revision < newest) && newest > self.seen() {
            feed.observer.progressed(newest);
        }
        self.answer(own);
        drop(feed);
        if newest > self.seen() {
            self.seen.send_replace(newest);
        }
    }
}

impl Feed {
    /// Takes up the events of one revision.
    fn step(
        &mut self,
        copy: &Copy,
        at: Revision,
        together: &[proto::Event],
        shown: &mut Vec<Event>,
        own: &mut Vec<(u64, Entry)>,
    ) {
        let deleted = deleted(&copy.keys, together);
        let mut changes: Vec<(Key, Became)> = Vec::new();
        let mut numbers: HashMap<Key, u64> = HashMap::new();
        for event in together {
            let Some(pair) = &event.kv else { continue };
            if copy.keys.is_own(&pair.key) {
                continue;
            }
            let Some(key) = copy.keys.of_etcd(&pair.key) else {
                foreign(&pair.key);
                continue;
            };
            let (became, id) = match event.r#type() {
                EventType::Put => self.put(&key, pair, at),
                EventType::Delete => {
                    let deleted = deleted.as_ref().filter(|it| it.key == pair.key);
                    (self.gone(&key, at, deleted.and_then(|it| it.last.as_ref())), deleted.map(|it| it.id))
                }
            };
            if let Some(id) = id.filter(|id| id.writer == copy.writer) {
                numbers.insert(key.clone(), id.sequence);
            }
            changes.push((key, became));
        }
        for event in self.mirror.apply(at, changes) {
            if let Some(sequence) = numbers.get(&event.key) {
                let created = match event.kind {
                    EventKind::Created => at,
                    EventKind::Updated | EventKind::Deleted => {
                        event.previous.as_ref().map_or(at, |entry| entry.created)
                    }
                };
                own.push((*sequence, Entry { value: event.value.clone(), created, modified: at }));
            }
            shown.push(event);
        }
    }

    fn put(&mut self, key: &Key, pair: &proto::KeyValue, at: Revision) -> (Became, Option<WriteId>) {
        let Some(stored) = Stored::decode(pair.value.clone()) else {
            // What cannot be read is not served; a write finds that something else is there.
            foreign(&pair.key);
            return (self.gone(key, at, None), None);
        };
        match stored.value.stamp {
            Some(stamp) => self.stamps.insert(key.clone(), stamp),
            None => self.stamps.remove(key),
        };
        (Became::Present(entry(&stored.value, revision(pair.create_revision), at)), Some(stored.id))
    }

    /// What is gone, with the last state that was told, or what was there.
    fn gone(&mut self, key: &Key, at: Revision, last: Option<&Value>) -> Became {
        let stamp = self.stamps.remove(key);
        let value = match (last, self.mirror.get(key)) {
            (Some(last), _) => last.finish(at),
            (None, Some(entry)) => unstamped(entry, stamp).finish(at),
            (None, None) => Bytes::new(),
        };
        Became::Gone(value)
    }
}

fn foreign(key: &[u8]) {
    let key = String::from_utf8_lossy(key);
    tracing::error!(%key, "a key in etcd was not written by Keelson, and is taken as not there");
}

/// What was deleted by one of those who share the prefix.
fn deleted(keys: &Keys, together: &[proto::Event]) -> Option<Deleted> {
    let place = keys.deleted();
    let mut told = together.iter().filter(|event| event.r#type() == EventType::Put);
    let told = told.find_map(|event| event.kv.as_ref().filter(|pair| pair.key == place))?;
    Deleted::decode(told.value.clone())
}

#[cfg(test)]
mod tests;
