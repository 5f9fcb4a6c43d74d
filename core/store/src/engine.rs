//! The pure state machine: writes in, outcomes and events out. No IO, no clock, no lock.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::snapshot::Root;
use crate::{Change, Entry, Event, EventKind, Key, Precondition, Refusal, Revision, Snapshot, Write};

#[cfg(test)]
mod tests;

/// How much history an engine keeps.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How many recent states can be read by [`Engine::snapshot_at`]. Each costs the map nodes that were
    /// replaced after it, a few KiB.
    pub history: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config { history: 256 }
    }
}

/// The state of the store.
///
/// # Guarantees
/// The same writes in the same order give the same state, outcomes and events, on every member. A refused write
/// takes no revision and changes nothing.
#[derive(Clone, Debug)]
pub struct Engine {
    config: Config,
    root: Root,
    revision: Revision,
    history: VecDeque<Snapshot>,
    compacted: Revision,
}

/// What became of a batch of writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// One outcome for each write, in their order: the new entry (of a delete, the stamped last state).
    pub outcomes: Vec<Result<Entry, Refusal>>,
    /// One event for each write that was made.
    pub events: Vec<Event>,
}

/// The state at a revision is no longer, or not yet, known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// It was dropped.
    #[error("the state is no longer kept; the oldest is {oldest}")]
    Compacted {
        /// The oldest revision that can be read.
        oldest: Revision,
    },
    /// It has not happened.
    #[error("the revision is in the future; the newest is {newest}")]
    Future {
        /// The newest revision.
        newest: Revision,
    },
}

impl Engine {
    /// An empty store.
    pub fn new(config: Config) -> Self {
        Engine::restore(config, Revision::ZERO, [])
    }

    /// A store with the given contents at the given revision.
    pub fn restore(
        config: Config,
        revision: Revision,
        entries: impl IntoIterator<Item = (Key, Entry)>,
    ) -> Self {
        let root = entries.into_iter().map(|(key, entry)| (key, Arc::new(entry))).collect();
        Engine { config, root, revision, history: VecDeque::new(), compacted: revision }
    }

    /// A store that goes on from a snapshot.
    pub fn adopt(config: Config, snapshot: Snapshot) -> Self {
        let revision = snapshot.revision();
        Engine { config, root: snapshot.into_root(), revision, history: VecDeque::new(), compacted: revision }
    }

    /// The revision of the last change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision whose state can be read.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// The newest state.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.root.clone(), self.revision)
    }

    /// The state at an earlier revision.
    pub fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, HistoryError> {
        if revision == self.revision {
            return Ok(self.snapshot());
        }
        if revision > self.revision {
            return Err(HistoryError::Future { newest: self.revision });
        }
        match self.history.binary_search_by_key(&revision, Snapshot::revision) {
            Ok(at) => Ok(self.history[at].clone()),
            Err(_) => Err(HistoryError::Compacted { oldest: self.compacted }),
        }
    }

    /// Applies writes one after the other; each sees the effect of those before it.
    pub fn apply<'a>(&mut self, writes: impl IntoIterator<Item = &'a Write>) -> Applied {
        let mut applied = Applied::default();
        for write in writes {
            let outcome = self.apply_one(write).map(|(entry, event)| {
                applied.events.push(event);
                entry
            });
            applied.outcomes.push(outcome);
        }
        applied
    }

    /// Forgets the states before `revision`. Returns the oldest revision that can be read from now on.
    pub fn compact(&mut self, revision: Revision) -> Revision {
        while self.history.front().is_some_and(|oldest| oldest.revision() < revision) {
            self.history.pop_front();
        }
        self.compacted = self.history.front().map_or(self.revision, Snapshot::revision);
        self.compacted
    }

    fn apply_one(&mut self, write: &Write) -> Result<(Entry, Event), Refusal> {
        let previous = self.root.get(&write.key).map(|entry| Entry::clone(entry));
        let holds = match (write.precondition, &write.change, &previous) {
            (Precondition::Absent, Change::Put(_), previous) => previous.is_none(),
            (Precondition::Absent, Change::Delete(_), _) => false,
            (Precondition::Unchanged(at), _, previous) => previous.as_ref().is_some_and(|e| e.modified == at),
            (Precondition::Any, Change::Put(_), _) => true,
            (Precondition::Any, Change::Delete(_), previous) => previous.is_some(),
        };
        if !holds {
            return Err(Refusal::Conflict { current: previous });
        }
        if !write.change.value().is_well_formed() {
            return Err(Refusal::Malformed);
        }
        let revision = self.revision.next();
        let entry = Entry {
            value: write.change.value().finish(revision),
            created: previous.as_ref().map_or(revision, |entry| entry.created),
            modified: revision,
        };
        self.remember();
        let kind = match write.change {
            Change::Put(_) => {
                self.root.insert(write.key.clone(), Arc::new(entry.clone()));
                if previous.is_some() { EventKind::Updated } else { EventKind::Created }
            }
            Change::Delete(_) => {
                self.root.remove(&write.key);
                EventKind::Deleted
            }
        };
        self.revision = revision;
        let event = Event { revision, key: write.key.clone(), kind, value: entry.value.clone(), previous };
        Ok((entry, event))
    }

    fn remember(&mut self) {
        if self.config.history == 0 {
            self.compacted = self.revision.next();
            return;
        }
        self.history.push_back(self.snapshot());
        while self.history.len() > self.config.history {
            self.history.pop_front();
        }
        if let Some(oldest) = self.history.front() {
            self.compacted = oldest.revision();
        }
    }
}
