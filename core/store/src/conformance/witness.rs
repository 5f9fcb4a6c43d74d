//! One who follows a store and checks all that it is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Entry, Event, EventKind, Key, Observer, Revision, Snapshot};

/// How a store counts its changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revisions {
    /// Each change has the revision after that of the one before.
    Gapless,
    /// Revisions grow.
    Growing,
}

/// Follows a store, and fails the test when it is told what cannot be.
pub struct Witness {
    revisions: Revisions,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    begun: bool,
    newest: Revision,
    state: BTreeMap<Key, Entry>,
    events: Vec<Event>,
    restored: usize,
    /// What was wrong. The calls are made by the store's tasks, whose panics are the store's.
    wrong: Vec<String>,
}

impl Witness {
    /// One who has seen nothing yet.
    #[must_use]
    pub fn new(revisions: Revisions) -> Arc<Self> {
        Arc::new(Witness { revisions, seen: Mutex::default() })
    }

    /// All events since the state was last given whole.
    pub fn events(&self) -> Vec<Event> {
        let seen = self.seen.lock();
        assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);
        seen.events.clone()
    }

    /// The state that the events lead to.
    pub fn state(&self) -> BTreeMap<Key, Entry> {
        self.seen.lock().state.clone()
    }

    /// How often the state was given whole.
    pub fn restored(&self) -> usize {
        self.seen.lock().restored
    }

    /// Makes sure that a write which was acknowledged was seen.
    pub fn must_have_seen(&self, key: &Key, entry: &Entry) {
        let seen = self.seen.lock();
        assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);
        if seen.restored > 1 {
            // The event may be part of a state that was given whole.
            assert!(seen.newest >= entry.modified, "{key} at {} was not seen", entry.modified);
            return;
        }
        let found = seen.events.iter().rev().find(|it| it.key == *key && it.revision == entry.modified);
        let value = found.map(|it| &it.value);
        assert_eq!(value, Some(&entry.value), "the event of {key} at {}", entry.modified);
    }

    /// Makes sure that what was told adds up to a state.
    pub fn must_agree(&self, snapshot: &Snapshot) {
        let seen = self.seen.lock();
        assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);
        let stored: BTreeMap<Key, Entry> =
            snapshot.range("/", None).map(|(key, entry)| (key.clone(), entry.clone())).collect();
        assert_eq!(seen.state.len(), stored.len());
        assert!(seen.state == stored, "the events lead to another state than the store's");
    }
}

impl Seen {
    fn take(&mut self, event: &Event) {
        let previous = self.state.get(&event.key).cloned();
        if event.previous != previous {
            self.wrong.push(format!("{event:?} replaces {previous:?}"));
        }
        let kind = match (&event.kind, &previous) {
            (EventKind::Deleted, Some(_)) => EventKind::Deleted,
            (EventKind::Deleted, None) => return self.wrong.push(format!("{event:?} of nothing")),
            (_, Some(_)) => EventKind::Updated,
            (_, None) => EventKind::Created,
        };
        if event.kind != kind {
            self.wrong.push(format!("{event:?} is told of what is {kind:?}"));
        }
        if kind == EventKind::Deleted {
            self.state.remove(&event.key);
        } else {
            let created = previous.map_or(event.revision, |entry| entry.created);
            let entry = Entry { value: event.value.clone(), created, modified: event.revision };
            self.state.insert(event.key.clone(), entry);
        }
    }
}

impl Observer for Witness {
    fn restored(&self, snapshot: &Snapshot) {
        let mut seen = self.seen.lock();
        if seen.begun && snapshot.revision() < seen.newest {
            let (from, to) = (seen.newest, snapshot.revision());
            seen.wrong.push(format!("the state went back from {from} to {to}"));
        }
        seen.begun = true;
        seen.restored += 1;
        seen.newest = snapshot.revision();
        seen.events.clear();
        seen.state = snapshot.range("/", None).map(|(key, entry)| (key.clone(), entry.clone())).collect();
    }

    fn applied(&self, events: &[Event]) {
        let mut seen = self.seen.lock();
        if !seen.begun {
            seen.wrong.push("changes came before a state".to_owned());
        }
        let before = seen.newest;
        for event in events {
            let follows = match self.revisions {
                Revisions::Gapless => event.revision == seen.newest.next(),
                Revisions::Growing => event.revision > before && event.revision >= seen.newest,
            };
            if !follows {
                let newest = seen.newest;
                seen.wrong.push(format!("revision {} came after {newest}", event.revision));
            }
            seen.newest = event.revision;
            seen.take(event);
            seen.events.push(event.clone());
        }
    }

    fn progressed(&self, revision: Revision) {
        let mut seen = self.seen.lock();
        if self.revisions == Revisions::Gapless || revision < seen.newest {
            let newest = seen.newest;
            seen.wrong.push(format!("progress to {revision} after {newest}"));
        }
        seen.newest = revision;
    }

    fn compacted(&self, _: Revision) {}
}
