//! The engine behind a Raft log.
//!
//! ```text
//! write() -> sequencer -> openraft -> log thread (append, one flush per group) -> state machine -> observer -> answer
//! ```
//!
//! | module | task or thread |
//! |---|---|
//! | [`sequencer`] | one task that makes one log entry of the writes that wait |
//! | [`log_storage`] | one thread that owns the [`crate::log::Log`] |
//! | [`state_machine`] | applies committed entries to the engine, tells the observer, answers |
//! | [`saver`] | saves states: what changed in a [`crate::checkpoint`], and now and then the whole in a [`snapshot_file`] |
//! | [`recovery`] | finds the newest saved state at the start, or makes it again |
//! | [`network`] | the way to other members |

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Entry, Refusal, Write};

pub(crate) mod log_storage;
pub(crate) mod network;
pub(crate) mod recovery;
pub(crate) mod saver;
pub(crate) mod sequencer;
pub(crate) mod snapshot_file;
pub(crate) mod state_machine;

openraft::declare_raft_types!(
    /// The types of this Raft.
    pub(crate) TypeConfig:
        D = Batch,
        R = Outcomes,
        NodeId = u64,
        Node = openraft::impls::BasicNode,
);

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type LogEntry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Raft = openraft::Raft<TypeConfig, state_machine::StateMachine>;

/// The writes of one log entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch(pub(crate) Vec<Write>);

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} writes", self.0.len())
    }
}

/// One outcome for each write of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcomes(pub(crate) Vec<Result<Entry, Refusal>>);
