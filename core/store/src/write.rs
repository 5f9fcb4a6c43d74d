//! Conditional changes.

use serde::{Deserialize, Serialize};

use crate::{Entry, Key, Revision, Value};

/// One change of one key, made if its precondition holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The key to change.
    pub key: Key,
    /// What must hold of the key.
    pub precondition: Precondition,
    /// What to do.
    pub change: Change,
}

/// What must hold of a key for a change of it to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    /// The key is not there.
    Absent,
    /// The key is there and was last modified at this revision.
    Unchanged(Revision),
    /// Anything; a delete still needs the key to be there.
    Any,
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
