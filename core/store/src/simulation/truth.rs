//! What is true: the one order of changes, as the first member to apply each has shown it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::Report;
use super::history::{Action, Operation, is_linearizable};
use crate::{Event, EventKind, Key, Observer, Revision, Snapshot, Value};

/// The changes, what clients saw, and what was violated first.
#[derive(Default)]
pub(super) struct Truth(Mutex<State>);

#[derive(Default)]
struct State {
    /// Each change, and when it was first shown.
    changes: BTreeMap<u64, (Change, u64)>,
    /// Counts what happens, so that it has an order although the clock stands still.
    moment: u64,
    /// What is in none of the changes because it was refused.
    refused: BTreeSet<u64>,
    /// The largest revision of which anybody was told.
    acknowledged: u64,
    histories: BTreeMap<Key, Vec<Seen>>,
    violated: Option<String>,
    report: Report,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Change {
    key: Key,
    deleted: bool,
    value: Bytes,
}

/// An operation, and the value that it wrote if nothing is known of it.
#[derive(Clone, Copy, Debug, Hash)]
struct Seen {
    begun: u64,
    ended: Option<u64>,
    action: Action,
    unknown: Option<u64>,
}

impl std::hash::Hash for Action {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match self {
            Action::Read(value) => (0, *value, 0).hash(state),
            Action::Write(value) => (1, None::<u64>, *value).hash(state),
            Action::Swap(old, new) => (2, *old, *new).hash(state),
            Action::NotSwapped(value) => (3, *value, 0).hash(state),
            Action::Removed(value) => (4, Some(*value), 0).hash(state),
            Action::Cleared => (5, None::<u64>, 0).hash(state),
        }
    }
}

/// A value as it is written: every other one wants its revision behind it.
pub(super) fn to_value(value: u64) -> Value {
    if value.is_multiple_of(2) {
        return Value::plain(value.to_string());
    }
    let text = format!("{value}@");
    let end = text.len() as u32;
    Value::stamped(text, end)
}

/// The same as it is stored.
fn to_bytes(value: u64, revision: Revision) -> Bytes {
    to_value(value).finish(revision)
}

pub(super) fn from_bytes(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.split('@').next()?.parse().ok()
}

impl Truth {
    /// Says that something must not be.
    pub(super) fn violate(&self, what: String) {
        self.0.lock().violated.get_or_insert(what);
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.0.lock().violated.clone().map_or(Ok(()), Err)
    }

    /// A point in the order of what happens.
    pub(super) fn moment(&self) -> u64 {
        let mut state = self.0.lock();
        state.moment += 1;
        state.moment
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Report)) {
        count(&mut self.0.lock().report);
    }

    /// The largest revision of which anybody was told.
    pub(super) fn acknowledged(&self) -> u64 {
        self.0.lock().acknowledged
    }

    /// A client was told that its value, or the removal of its value, is at a revision.
    pub(super) fn acknowledge(&self, key: &Key, value: u64, deleted: bool, revision: Revision) {
        let mut state = self.0.lock();
        let bytes = to_bytes(value, revision);
        let revision = revision.get();
        state.acknowledged = state.acknowledged.max(revision);
        let change = state.changes.get(&revision).map(|(change, _)| change.clone());
        let told = Change { key: key.clone(), deleted, value: bytes };
        if change.as_ref() != Some(&told) {
            let text = format!("{told:?} was acknowledged at {revision}, where {change:?} is");
            state.violated.get_or_insert(text);
        }
    }

    /// A client was told that its value was not written.
    pub(super) fn refuse(&self, value: u64) {
        self.0.lock().refused.insert(value);
    }

    /// A client has done something and was told what came of it.
    pub(super) fn saw(&self, key: &Key, begun: u64, action: Action) {
        let ended = Some(self.moment());
        let seen = Seen { begun, ended, action, unknown: None };
        self.0.lock().histories.entry(key.clone()).or_default().push(seen);
    }

    /// A client wrote a value and was told that nothing is known of it.
    pub(super) fn saw_nothing(&self, key: &Key, begun: u64, action: Action, value: u64) {
        let seen = Seen { begun, ended: None, action, unknown: Some(value) };
        self.0.lock().histories.entry(key.clone()).or_default().push(seen);
    }

    /// Checks what clients saw, when nothing happens any more.
    pub(super) fn conclude(&self) -> Result<Report, String> {
        self.check()?;
        let state = self.0.lock();
        let written: BTreeMap<u64, u64> = state
            .changes
            .values()
            .filter_map(|(change, at)| from_bytes(&change.value).map(|value| (value, *at)))
            .collect();
        if let Some(value) = state.refused.iter().find(|value| written.contains_key(value)) {
            return Err(format!("{value} was refused and is there"));
        }
        for (key, seen) in &state.histories {
            // What nothing is known of has happened when it was first shown, or never.
            let operations = seen.iter().filter_map(|seen| {
                let ended = match seen.unknown {
                    Some(value) => Some(*written.get(&value)?),
                    None => seen.ended,
                };
                let ended = ended.map(|ended| ended.max(seen.begun));
                Some(Operation { begun: seen.begun, ended, action: seen.action })
            });
            let operations: Vec<Operation> = operations.collect();
            if !is_linearizable(&operations) {
                return Err(format!("{key} is no register: {operations:#?}"));
            }
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(format!("{:?}{:?}", state.changes, state.histories).as_bytes());
        Ok(Report { digest: u64::from(hasher.finalize()), ..state.report })
    }
}

/// Follows one run of a member.
pub(super) struct Watcher {
    truth: Arc<Truth>,
    place: usize,
    seen: Mutex<(u64, Held)>,
}

/// A state as one who follows has put it together.
pub(super) type Held = BTreeMap<Key, (u64, Bytes)>;

impl Watcher {
    pub(super) fn new(truth: Arc<Truth>, place: usize) -> Self {
        Watcher { truth, place, seen: Mutex::default() }
    }

    /// The state as it was told.
    pub(super) fn seen(&self) -> (u64, Held) {
        self.seen.lock().clone()
    }
}

impl Observer for Watcher {
    fn restored(&self, snapshot: &Snapshot) {
        let revision = snapshot.revision().get();
        let mut seen = self.seen.lock();
        let mut state = self.truth.0.lock();
        let mut expected = Held::new();
        for (at, (change, _)) in state.changes.range(..=revision) {
            if change.deleted {
                expected.remove(&change.key);
            } else {
                expected.insert(change.key.clone(), (*at, change.value.clone()));
            }
        }
        let found: Held = snapshot
            .range("/", None)
            .map(|(key, entry)| (key.clone(), (entry.modified.get(), entry.value.clone())))
            .collect();
        if found != expected {
            let text = format!("member {} restored {found:?} at {revision}, not {expected:?}", self.place);
            state.violated.get_or_insert(text);
        }
        *seen = (revision, found);
    }

    fn applied(&self, events: &[Event]) {
        let mut seen = self.seen.lock();
        let (last, held) = &mut *seen;
        let mut state = self.truth.0.lock();
        for event in events {
            let revision = event.revision.get();
            let previous = event.previous.as_ref().map(|entry| (entry.modified.get(), entry.value.clone()));
            let before = if event.kind == EventKind::Deleted {
                held.remove(&event.key)
            } else {
                held.insert(event.key.clone(), (revision, event.value.clone()))
            };
            if before != previous || (event.kind == EventKind::Created) != before.is_none() {
                let text = format!("member {}: {before:?} was there before {event:?}", self.place);
                state.violated.get_or_insert(text);
            }
            if revision != *last + 1 {
                let text = format!("member {} showed {revision} after {last}", self.place);
                state.violated.get_or_insert(text);
            }
            *last = revision;
            let change = Change {
                key: event.key.clone(),
                deleted: event.kind == EventKind::Deleted,
                value: event.value.clone(),
            };
            state.moment += 1;
            let moment = state.moment;
            let known = state.changes.entry(revision).or_insert_with(|| (change.clone(), moment)).0.clone();
            if known != change {
                let text = format!("member {} showed {change:?} at {revision}, others {known:?}", self.place);
                state.violated.get_or_insert(text);
            }
        }
    }

    fn compacted(&self, _: Revision) {}
}
