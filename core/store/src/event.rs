//! What those who follow the store are told.

use bytes::Bytes;

use crate::{Entry, Key, Revision, Snapshot};

/// One change, as it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The change's place in the order of all changes.
    pub revision: Revision,
    /// What was changed.
    pub key: Key,
    /// How.
    pub kind: EventKind,
    /// The new value; of a deletion, the last state stamped with the deletion's revision.
    pub value: Bytes,
    /// What was there before.
    pub previous: Option<Entry>,
}

/// How a key was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was not there before.
    Created,
    /// It has a new value.
    Updated,
    /// It is gone.
    Deleted,
}

/// Follows the store without a gap.
///
/// # Guarantees
/// Calls come one at a time and in the order of revisions, and a write is answered only after the call that
/// shows it has returned. An observer must therefore be quick and never wait for the store. A store with an order of
/// its own counts without a gap; one that follows the order of others may leave revisions out, and several changes may
/// share one: then one call shows them all.
pub trait Observer: Send + Sync + 'static {
    /// The whole state, at open and whenever it was replaced.
    fn restored(&self, snapshot: &Snapshot);

    /// Changes that follow what was seen before.
    fn applied(&self, events: &[Event]);

    /// There is no change between the last that was shown and `revision`, and none will come up to there. Only a store
    /// whose revisions have gaps tells it.
    fn progressed(&self, _revision: Revision) {}

    /// States before `revision` can no longer be read.
    fn compacted(&self, revision: Revision);
}
