//! Room on the disk for what is about to be logged.
//!
//! What is promised adds up: the log's thread says for how many bytes the log has room, and all promises together
//! never exceed that. A promise is kept until what it was made for has been written, so that a full disk is noticed
//! before anything is begun.

use std::sync::Arc;

use openraft::EntryPayload;
use parking_lot::Mutex;

use super::{Batch, LogEntry};
use crate::{Change, Precondition, Write};

/// The bytes of an entry beyond those of its writes: its place, its origin, and the frame around it.
const ENTRY: u64 = 256;
/// The bytes of a write beyond its key and its value.
const WRITE: u64 = 64;
/// More than the names and addresses of the members take.
const MEMBERSHIP: u64 = 16 << 10;

/// For what room is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It may use all but what is kept for others.
    Put,
    /// A full disk must be relieved: this may use what is kept for it.
    Delete,
    /// The leader has let it in already.
    Follow,
}

/// How much is kept for whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Margins {
    /// For deletions, beyond the next.
    deletes: u64,
    /// What one has room for who is said to have room.
    pub(crate) put: u64,
    /// For votes, cuts, and the first entry of a leader, which ask for nothing.
    pub(crate) small: u64,
}

impl Margins {
    /// In proportion to the segments of the log: with those of 16 MiB, 1 MiB and 256 KiB.
    pub(crate) fn of(segment_bytes: u64) -> Self {
        Margins {
            deletes: segment_bytes / 16,
            put: segment_bytes / 8,
            small: (segment_bytes / 64).max(1 << 10),
        }
    }

    /// What has to be left beside what is taken.
    pub(crate) fn beside(self, purpose: Purpose) -> u64 {
        match purpose {
            Purpose::Put => self.deletes + self.small,
            Purpose::Delete | Purpose::Follow => self.small,
        }
    }
}

/// What is there and what is promised. Clones share everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger(Arc<Mutex<Account>>);

#[derive(Debug, Default)]
struct Account {
    /// What the log had room for when it was last written to.
    there: u64,
    /// What of it is promised.
    promised: u64,
}

/// A promise; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    ledger: Ledger,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.ledger.0.lock().promised -= self.bytes;
    }
}

impl Ledger {
    /// Promises room if it is known to be there.
    pub(crate) fn take(&self, bytes: u64, beside: u64) -> Option<Room> {
        let mut account = self.0.lock();
        let needed = account.promised.saturating_add(bytes).saturating_add(beside);
        if needed > account.there {
            return None;
        }
        account.promised += bytes;
        Some(Room { ledger: self.clone(), bytes })
    }

    /// How much the log must have room for if this is to be promised too.
    pub(crate) fn needed(&self, bytes: u64, beside: u64) -> u64 {
        self.0.lock().promised.saturating_add(bytes).saturating_add(beside)
    }

    /// The log has room for so much now. What is promised may have been written in the meantime.
    pub(crate) fn found(&self, there: u64) {
        self.0.lock().there = there;
    }
}

/// At most how many bytes a write takes in the log.
pub(crate) fn size(write: &Write) -> u64 {
    let other = match &write.precondition {
        Precondition::AbsentBeside { other, .. } => other.as_str().len(),
        Precondition::Absent | Precondition::Unchanged(_) | Precondition::Any => 0,
    };
    (write.key.as_str().len() + other + write.change.value().bytes.len()) as u64 + WRITE
}

/// At most how many bytes an entry of these writes takes in the log.
pub(crate) fn size_of_all<'a>(writes: impl IntoIterator<Item = &'a Write>) -> u64 {
    ENTRY + writes.into_iter().map(size).sum::<u64>()
}

/// At most how many bytes an entry takes in the log.
pub(crate) fn size_of_entry(entry: &LogEntry) -> u64 {
    match &entry.payload {
        EntryPayload::Blank => ENTRY,
        EntryPayload::Normal(batch) => size_of_all(&batch.writes),
        EntryPayload::Membership(_) => MEMBERSHIP,
    }
}

pub(crate) fn is_delete(write: &Write) -> bool {
    matches!(write.change, Change::Delete(_))
}

/// For what a leader takes room for a batch.
pub(crate) fn purpose(batch: &Batch) -> Purpose {
    if batch.writes.iter().all(is_delete) { Purpose::Delete } else { Purpose::Put }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_add_up_and_end() {
        let ledger = Ledger::default();
        assert!(ledger.take(1, 0).is_none());
        ledger.found(100);
        let first = ledger.take(60, 10).unwrap();
        assert!(ledger.take(40, 10).is_none(), "the margin is left");
        assert_eq!(ledger.needed(40, 10), 110);
        let second = ledger.take(40, 0).unwrap();
        assert!(ledger.take(1, 0).is_none());
        drop(first);
        assert!(ledger.take(60, 0).is_some());
        drop(second);
        ledger.found(50);
        assert!(ledger.take(60, 0).is_none());
    }

    #[test]
    fn an_entry_takes_no_more_than_is_taken_for_it() {
        use crate::raft::log_storage::encode;
        use crate::raft::message::Origin;
        use crate::{Key, Revision, Value};
        let at = Revision::new(u64::MAX);
        let beside = Precondition::AbsentBeside { other: Key::new("/other").unwrap(), at };
        let of = |precondition| Write {
            key: Key::new("/k").unwrap(),
            precondition,
            change: Change::Put(Value::stamped("value", u32::MAX)),
        };
        let origin = Origin { member: u64::MAX, run: u64::MAX, number: u64::MAX, decided: u64::MAX };
        let writes = [of(Precondition::Unchanged(at)), of(beside)];
        for (count, write) in [1, 100].into_iter().flat_map(|count| writes.clone().map(|it| (count, it))) {
            let batch = Batch {
                writes: vec![write.clone(); count],
                origin: Some(origin),
                quota: Some(crate::Quota(u64::MAX)),
            };
            let log_id = openraft::LogId::new(
                openraft::vote::leader_id_adv::LeaderId { term: u64::MAX, node_id: u64::MAX },
                u64::MAX,
            );
            let entry = LogEntry { log_id, payload: EntryPayload::Normal(batch) };
            let record =
                crate::log::Record::Append { first: u64::MAX, entries: vec![encode(&entry).unwrap()] };
            let bytes = encode(&vec![record]).unwrap().len() as u64 + 24;
            assert!(bytes <= size_of_entry(&entry), "{bytes} {}", size_of_entry(&entry));
        }
    }
}
