//! A copy of a store elsewhere that orders its changes itself, such as an external cluster. Pure: what changed there is
//! told in order, and the copy makes events and states of it.
//!
//! Unlike those of [`crate::Engine`], revisions may be left out, and several changes may share one.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::{Config, HistoryError, NODES};
use crate::snapshot::Root;
use crate::{Entry, Event, EventKind, Key, Revision, Snapshot};

/// What has become of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Became {
    /// It has this value.
    Present(Entry),
    /// It is gone; with its last state.
    Gone(Bytes),
}

/// The copy.
///
/// # Guarantees
/// The state at any revision between two changes is the one that the first of them made.
#[derive(Clone, Debug)]
pub struct Mirror {
    config: Config,
    root: Root,
    /// The revision at which the state became this one.
    changed: Revision,
    /// Nothing has changed up to here.
    revision: Revision,
    /// Earlier states, each with the revision at which it came about, and what it costs to keep.
    history: VecDeque<(Snapshot, u64)>,
    history_bytes: u64,
    compacted: Revision,
}

impl Mirror {
    /// A copy of what was there at a revision.
    pub fn new(config: Config, revision: Revision, entries: impl IntoIterator<Item = (Key, Entry)>) -> Self {
        let root = entries.into_iter().map(|(key, entry)| (key, Arc::new(entry))).collect();
        let (changed, compacted) = (revision, revision);
        Mirror { config, root, changed, revision, history: VecDeque::new(), history_bytes: 0, compacted }
    }

    /// The revision up to which everything is known.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// What is under a key.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.root.get(key).map(Arc::as_ref)
    }

    /// The newest state.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.root.clone(), self.revision)
    }

    /// The state at a revision.
    pub fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, HistoryError> {
        if revision > self.revision {
            return Err(HistoryError::Future { newest: self.revision });
        }
        if revision < self.compacted {
            return Err(HistoryError::Compacted { oldest: self.compacted });
        }
        if revision >= self.changed {
            return Ok(Snapshot::new(self.root.clone(), revision));
        }
        let after = self.history.partition_point(|(state, _)| state.revision() <= revision);
        match after.checked_sub(1).and_then(|at| self.history.get(at)) {
            Some((state, _)) => Ok(Snapshot::new(state.root().clone(), revision)),
            None => Err(HistoryError::Compacted { oldest: self.compacted }),
        }
    }

    /// Takes up all changes of one revision, which must be newer than any before. A key that was not there and is gone
    /// is no change.
    pub fn apply(
        &mut self,
        revision: Revision,
        changes: impl IntoIterator<Item = (Key, Became)>,
    ) -> Vec<Event> {
        let before = Snapshot::new(self.root.clone(), self.changed);
        let (mut events, mut cost) = (Vec::new(), 0);
        for (key, became) in changes {
            let previous = self.root.get(&key).map(|entry| Entry::clone(entry));
            let (kind, value) = match (became, &previous) {
                (Became::Gone(_), None) => continue,
                (Became::Gone(value), Some(_)) => {
                    self.root.remove(&key);
                    (EventKind::Deleted, value)
                }
                (Became::Present(entry), previous) => {
                    let value = entry.value.clone();
                    self.root.insert(key.clone(), Arc::new(entry));
                    let kind = if previous.is_some() { EventKind::Updated } else { EventKind::Created };
                    (kind, value)
                }
            };
            cost += NODES + previous.as_ref().map_or(0, |entry| entry.counts(&key));
            events.push(Event { revision, key, kind, value, previous });
        }
        self.revision = self.revision.max(revision);
        if events.is_empty() {
            return events;
        }
        self.changed = revision;
        self.history.push_back((before, cost));
        self.history_bytes += cost;
        while self.history.len() > self.config.history || self.history_bytes > self.config.history_bytes {
            self.forget();
        }
        let oldest = self.since(0);
        self.compacted = self.compacted.max(oldest);
        events
    }

    /// Nothing has changed up to a revision. Says whether that is news.
    pub fn progress(&mut self, revision: Revision) -> bool {
        let news = revision > self.revision;
        self.revision = self.revision.max(revision);
        news
    }

    /// Forgets the states before a revision.
    pub fn compact(&mut self, revision: Revision) {
        let revision = revision.min(self.revision);
        // The state that was in force at the revision stays.
        while !self.history.is_empty() && self.since(1) <= revision {
            self.forget();
        }
        self.compacted = self.compacted.max(revision);
    }
}

impl Mirror {
    /// Since when a state of the history was in force.
    fn since(&self, place: usize) -> Revision {
        self.history.get(place).map_or(self.changed, |(state, _)| state.revision())
    }

    /// Drops the oldest state.
    fn forget(&mut self) {
        if let Some((_, cost)) = self.history.pop_front() {
            self.history_bytes -= cost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(format!("/{name}")).unwrap()
    }

    fn present(value: &str, created: u64, modified: u64) -> Became {
        let (created, modified) = (Revision::new(created), Revision::new(modified));
        Became::Present(Entry { value: Bytes::copy_from_slice(value.as_bytes()), created, modified })
    }

    fn keys(snapshot: &Snapshot) -> Vec<&str> {
        snapshot.range("/", None).map(|(key, _)| key.as_str()).collect()
    }

    fn mirror(history: usize) -> Mirror {
        let mut mirror = Mirror::new(Config { history, ..Config::default() }, Revision::new(10), []);
        mirror.apply(Revision::new(12), [(key("a"), present("1", 12, 12))]);
        mirror.apply(
            Revision::new(20),
            [(key("b"), present("2", 20, 20)), (key("a"), Became::Gone("x".into()))],
        );
        mirror
    }

    #[test]
    fn changes_of_one_revision_are_one_step() {
        let mut mirror = Mirror::new(Config::default(), Revision::new(10), []);
        mirror.apply(Revision::new(12), [(key("a"), present("1", 12, 12))]);
        let events = mirror.apply(
            Revision::new(20),
            [(key("b"), present("2", 20, 20)), (key("a"), Became::Gone("x".into()))],
        );
        let told: Vec<_> = events.iter().map(|it| (it.revision.get(), it.key.as_str(), it.kind)).collect();
        assert_eq!(told, [(20, "/b", EventKind::Created), (20, "/a", EventKind::Deleted)]);
        assert_eq!(events[1].previous.as_ref().map(|it| it.modified.get()), Some(12));
        assert_eq!(keys(&mirror.snapshot()), ["/b"]);
    }

    #[test]
    fn between_two_changes_the_state_is_that_of_the_first() {
        let mirror = mirror(8);
        let at = |revision| mirror.snapshot_at(Revision::new(revision));
        assert!(keys(&at(10).unwrap()).is_empty() && keys(&at(11).unwrap()).is_empty());
        assert_eq!(keys(&at(12).unwrap()), ["/a"]);
        assert_eq!((keys(&at(19).unwrap()), at(19).unwrap().revision()), (vec!["/a"], Revision::new(19)));
        assert_eq!(keys(&at(20).unwrap()), ["/b"]);
        assert_eq!(at(21).unwrap_err(), HistoryError::Future { newest: Revision::new(20) });
        assert_eq!(at(9).unwrap_err(), HistoryError::Compacted { oldest: Revision::new(10) });
    }

    #[test]
    fn progress_moves_the_newest_state_on() {
        let mut mirror = mirror(8);
        assert!(mirror.progress(Revision::new(30)));
        assert!(!mirror.progress(Revision::new(25)));
        assert_eq!(mirror.snapshot().revision(), Revision::new(30));
        assert_eq!(keys(&mirror.snapshot_at(Revision::new(29)).unwrap()), ["/b"]);
        assert_eq!(keys(&mirror.snapshot_at(Revision::new(19)).unwrap()), ["/a"]);
    }

    #[test]
    fn no_more_states_are_kept_than_asked_for() {
        let mirror = mirror(1);
        let at = |revision| mirror.snapshot_at(Revision::new(revision));
        assert_eq!(keys(&at(12).unwrap()), ["/a"]);
        assert_eq!(at(11).unwrap_err(), HistoryError::Compacted { oldest: Revision::new(12) });
        assert!(at(20).is_ok());
    }

    #[test]
    fn states_that_cost_too_much_are_dropped() {
        let config = Config { history_bytes: 3 * NODES, ..Config::default() };
        let mut mirror = Mirror::new(config, Revision::new(1), []);
        for revision in 2..40 {
            mirror.apply(Revision::new(revision), [(key("a"), present(&"x".repeat(100), 2, revision))]);
        }
        assert_eq!(mirror.history.len(), 2);
        assert!(mirror.snapshot_at(Revision::new(37)).is_ok());
        assert!(mirror.snapshot_at(Revision::new(36)).is_err());
    }

    #[test]
    fn what_is_compacted_away_cannot_be_read_and_the_rest_can() {
        let mut mirror = mirror(8);
        mirror.compact(Revision::new(15));
        let at = |revision| mirror.snapshot_at(Revision::new(revision));
        assert_eq!(at(14).unwrap_err(), HistoryError::Compacted { oldest: Revision::new(15) });
        assert_eq!(keys(&at(15).unwrap()), ["/a"]);
        assert_eq!(keys(&at(20).unwrap()), ["/b"]);
        mirror.compact(Revision::new(99));
        assert_eq!(
            mirror.snapshot_at(Revision::new(19)).unwrap_err(),
            HistoryError::Compacted { oldest: Revision::new(20) }
        );
        assert!(mirror.snapshot_at(Revision::new(20)).is_ok());
    }

    #[test]
    fn a_key_that_was_never_there_and_is_gone_is_no_change() {
        let mut mirror = mirror(8);
        assert!(mirror.apply(Revision::new(40), [(key("z"), Became::Gone("x".into()))]).is_empty());
        assert_eq!(mirror.revision(), Revision::new(40));
    }
}
