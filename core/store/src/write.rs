//! Conditional changes.

use serde::{Deserialize, Serialize};

use crate::{Entry, Key, Revision, Value};

/// One change of one key, made if its precondition holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The key to change.
    pub key: Key,
    /// What must hold of it.
    pub precondition: Precondition,
    /// What to do.
    pub change: Change,
}

/// What must hold for a change of a key to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    /// The key is not there.
    Absent,
    /// The key is there and was last modified at this revision.
    Unchanged(Revision),
    /// Anything; a delete still needs the key to be there.
    Any,
    /// The key is not there, and another one is there and was last modified at this revision: what is made belongs to
    /// that, and is not made any more once that has changed.
    AbsentBeside {
        /// The other key.
        other: Key,
        /// The revision.
        at: Revision,
    },
}

/// What to do with a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Set its value.
    Put(Value),
    /// Remove it. The value is its last state, which the event carries stamped with the deletion's revision.
    Delete(Value),
}

impl Change {
    pub(crate) fn value(&self) -> &Value {
        match self {
            Change::Put(value) | Change::Delete(value) => value,
        }
    }
}

/// Why a write was not made. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The precondition does not hold.
    #[error("the precondition does not hold")]
    Conflict {
        /// What is there instead; `None` where nothing is.
        current: Option<Entry>,
    },
    /// The other key that the precondition names has changed, or is not there.
    #[error("what the key belongs to has changed")]
    Outdated,
    /// The value's stamp lies outside of it.
    #[error("the stamp lies outside of the value")]
    Malformed,
    /// The state would grow beyond its quota.
    #[error("the store holds {bytes} bytes and may not grow beyond its quota of {quota}")]
    NoSpace {
        /// How many bytes the keys and values have.
        bytes: u64,
        /// How many they may have.
        quota: u64,
    },
}
