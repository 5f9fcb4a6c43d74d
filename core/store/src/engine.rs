//! The pure state machine: writes in, outcomes and events out. No IO, no clock, no lock.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::snapshot::Root;
use crate::{Change, Entry, Event, EventKind, Key, Precondition, Refusal, Revision, Snapshot, Write};

#[cfg(test)]
mod tests;

/// How much history an engine keeps.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How many recent states can be read by [`Engine::snapshot_at`]. Each costs what was replaced after it: a value,
    /// and a few KiB of map nodes.
    pub history: usize,
    /// How many bytes they may cost together, roughly; the oldest are dropped first.
    pub history_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config { history: 256, history_bytes: 16 << 20 }
    }
}

/// What a past state costs beside the value that was replaced after it: the nodes on the way to it.
pub(crate) const NODES: u64 = 4 << 10;

/// How large the state may become: the bytes of keys and values together.
///
/// A put that would make the state grow beyond it is refused. Deletions go on, and so do puts that do not make it
/// grow; small changes of what is there, such as the mark that an object is to be deleted, may use a sixteenth more,
/// because else nothing that is deleted step by step could be deleted. Who proposes writes says by which quota they
/// are judged, so that every member decides the same, also when it applies its log again under another setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Quota(pub u64);

impl Quota {
    /// The most bytes that a change may add for being small.
    pub const SMALL: u64 = 1 << 10;

    /// Whether a state of `bytes` may grow by `growth`.
    fn allows(self, bytes: u64, growth: u64, of_present: bool) -> bool {
        let reserve = if of_present && growth <= Quota::SMALL { self.0 / 16 } else { 0 };
        growth == 0 || bytes.saturating_add(growth) <= self.0.saturating_add(reserve)
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
    /// The bytes of all keys and values.
    bytes: u64,
    history: VecDeque<Past>,
    /// What they cost together.
    history_bytes: u64,
    compacted: Revision,
    /// The growth that was last refused, and by which quota.
    refused: Option<(u64, Quota)>,
}

/// A state that was, and what it costs to keep.
#[derive(Clone, Debug)]
struct Past {
    state: Snapshot,
    bytes: u64,
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
        let mut bytes = 0;
        let counted = |(key, entry): (Key, Entry)| {
            bytes += entry.counts(&key);
            (key, Arc::new(entry))
        };
        let root = entries.into_iter().map(counted).collect();
        Engine::adopt(config, Snapshot::counted(root, revision, bytes))
    }

    /// A store that goes on from a snapshot.
    pub fn adopt(config: Config, snapshot: Snapshot) -> Self {
        let (revision, bytes) = (snapshot.revision(), snapshot.bytes());
        Engine {
            config,
            root: snapshot.into_root(),
            revision,
            bytes,
            history: VecDeque::new(),
            history_bytes: 0,
            compacted: revision,
            refused: None,
        }
    }

    /// The revision of the last change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision whose state can be read.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// The bytes of all keys and values: what a [`Quota`] limits.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a put was refused by its quota and would still be.
    pub fn lacks_space(&self) -> bool {
        self.refused.is_some_and(|(growth, quota)| !quota.allows(self.bytes, growth, false))
    }

    /// The newest state.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::counted(self.root.clone(), self.revision, self.bytes)
    }

    /// The state at an earlier revision.
    pub fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, HistoryError> {
        if revision == self.revision {
            return Ok(self.snapshot());
        }
        if revision > self.revision {
            return Err(HistoryError::Future { newest: self.revision });
        }
        match self.history.binary_search_by_key(&revision, |past| past.state.revision()) {
            Ok(at) => Ok(self.history[at].state.clone()),
            Err(_) => Err(HistoryError::Compacted { oldest: self.compacted }),
        }
    }

    /// Applies writes one after the other; each sees the effect of those before it.
    pub fn apply<'a>(&mut self, writes: impl IntoIterator<Item = &'a Write>) -> Applied {
        self.apply_within(None, writes)
    }

    /// Applies writes as [`Engine::apply`] does, and refuses those for which the quota has no room.
    pub fn apply_within<'a>(
        &mut self,
        quota: Option<Quota>,
        writes: impl IntoIterator<Item = &'a Write>,
    ) -> Applied {
        let mut applied = Applied::default();
        for write in writes {
            let outcome = self.apply_one(write, quota).map(|(entry, event)| {
                applied.events.push(event);
                entry
            });
            applied.outcomes.push(outcome);
        }
        applied
    }

    /// Forgets the states before `revision`. Returns the oldest revision that can be read from now on.
    pub fn compact(&mut self, revision: Revision) -> Revision {
        while self.history.front().is_some_and(|oldest| oldest.state.revision() < revision) {
            self.forget();
        }
        self.compacted = self.history.front().map_or(self.revision, |past| past.state.revision());
        self.compacted
    }

    fn apply_one(&mut self, write: &Write, quota: Option<Quota>) -> Result<(Entry, Event), Refusal> {
        let previous = self.root.get(&write.key).map(|entry| Entry::clone(entry));
        let holds = match (&write.precondition, &write.change, &previous) {
            (Precondition::Absent | Precondition::AbsentBeside { .. }, Change::Put(_), previous) => {
                previous.is_none()
            }
            (Precondition::Absent | Precondition::AbsentBeside { .. }, Change::Delete(_), _) => false,
            (Precondition::Unchanged(at), _, previous) => {
                previous.as_ref().is_some_and(|e| e.modified == *at)
            }
            (Precondition::Any, Change::Put(_), _) => true,
            (Precondition::Any, Change::Delete(_), previous) => previous.is_some(),
        };
        if !holds {
            return Err(Refusal::Conflict { current: previous });
        }
        if let Precondition::AbsentBeside { other, at } = &write.precondition
            && self.root.get(other).is_none_or(|entry| entry.modified != *at)
        {
            return Err(Refusal::Outdated);
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
        let held = previous.as_ref().map_or(0, |entry| entry.counts(&write.key));
        let holds = match write.change {
            Change::Put(_) => entry.counts(&write.key),
            Change::Delete(_) => 0,
        };
        let growth = holds.saturating_sub(held);
        if let Some(quota) = quota.filter(|quota| !quota.allows(self.bytes, growth, previous.is_some())) {
            self.refused = Some((growth, quota));
            return Err(Refusal::NoSpace { bytes: self.bytes, quota: quota.0 });
        }
        self.remember(held);
        self.bytes = self.bytes + holds - held;
        if !self.lacks_space() || self.refused.is_some_and(|(refused, _)| growth >= refused) {
            self.refused = None;
        }
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

    /// Keeps the state as it is, before `replaced` bytes of it are.
    fn remember(&mut self, replaced: u64) {
        if self.config.history == 0 {
            self.compacted = self.revision.next();
            return;
        }
        let bytes = replaced + NODES;
        self.history.push_back(Past { state: self.snapshot(), bytes });
        self.history_bytes += bytes;
        while self.history.len() > self.config.history || self.history_bytes > self.config.history_bytes {
            self.forget();
        }
        self.compacted = self.history.front().map_or(self.revision.next(), |past| past.state.revision());
    }

    /// Drops the oldest state.
    fn forget(&mut self) {
        if let Some(past) = self.history.pop_front() {
            self.history_bytes -= past.bytes;
        }
    }
}
