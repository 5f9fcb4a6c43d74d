//! The engine behind a Raft log.
//!
//! ```text
//! write() -> sequencer -> openraft -> log thread (append, one flush per group) -> state machine -> observer -> answer
//! ```
//!
//! | module | task or thread |
//! |---|---|
//! | [`core`] | what a member is made of; answers what other members ask |
//! | [`member`] | names, addresses and identities of members |
//! | [`message`] | what members ask each other, and the way to another member as a trait |
//! | [`peer`] | that way over gRPC and mutual TLS: client, listener, certificates |
//! | [`space`] | whether there is room for more |
//! | [`sequencer`] | one task that makes one log entry of the writes that wait |
//! | [`log_storage`] | one thread that owns the [`crate::log::Log`] |
//! | [`state_machine`] | applies committed entries to the engine, tells the observer, answers |
//! | [`saver`] | saves states: what changed in a [`crate::checkpoint`], and now and then the whole in a [`snapshot_file`] |
//! | [`pieces`] | a whole state as it crosses the network |
//! | [`recovery`] | finds the newest saved state at the start, or makes it again |
//! | [`network`] | gives openraft the way to other members |
//! | [`intake`] | takes entries of a leader, if there is room for them |
//! | [`room`] | room on the disk for what is about to be logged |
//! | [`retention`] | how much of the log is kept for members that lack some of it |
//! | [`origin`] | which batches of this member wait, and which of others this leader has proposed |
//! | [`forward`] | brings a batch to the leader, and finds out what became of it |
//! | [`reader`] | one task that asks up to where the log must be applied before one reads |
//! | [`changes`] | changes of the membership, on the leader |
//! | [`runtime`] | tokio, or what a simulation makes of it |

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Entry, Quota, Refusal, Write};

pub(crate) mod changes;
pub(crate) mod confirm;
pub(crate) mod core;
pub(crate) mod forward;
pub(crate) mod handover;
pub(crate) mod intake;
pub(crate) mod log_storage;
pub(crate) mod member;
pub(crate) mod message;
pub(crate) mod network;
pub(crate) mod origin;
pub(crate) mod peer;
pub(crate) mod pieces;
pub(crate) mod reader;
pub(crate) mod recovery;
pub(crate) mod retention;
pub(crate) mod room;
pub(crate) mod runtime;
pub(crate) mod saver;
pub(crate) mod sequencer;
pub(crate) mod snapshot_file;
pub(crate) mod space;
pub(crate) mod state_machine;

use member::Member;
use message::Origin;

/// The types of this Raft.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Batch;
    type R = Outcomes;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Batch, u64, Member>;
    type Entry = openraft::Entry<
        <Self::LeaderId as openraft::vote::RaftLeaderId>::Committed,
        openraft::EntryPayload<Batch, u64, Member>,
    >;
    type AsyncRuntime = runtime::Runtime;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type LeaderId = openraft::type_config::alias::LeaderIdOf<TypeConfig>;
pub(crate) type LogEntry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Raft = openraft::Raft<TypeConfig, state_machine::StateMachine>;

/// The writes of one log entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Batch {
    pub(crate) writes: Vec<Write>,
    /// Which member gathered them; a member without peers does not say so.
    pub(crate) origin: Option<Origin>,
    /// By which quota they are judged, as the leader that proposes them says.
    pub(crate) quota: Option<Quota>,
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Batch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a batch of writes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<Batch, A::Error> {
                let missing = || serde::de::Error::invalid_length(0, &"writes");
                let writes = fields.next_element()?.ok_or_else(missing)?;
                // Entries were once written without an origin, and then without a quota. Their bytes are checksummed,
                // so that an end here can only be theirs.
                let origin = fields.next_element().ok().flatten().flatten();
                let quota = fields.next_element().ok().flatten().flatten();
                Ok(Batch { writes, origin, quota })
            }
        }

        deserializer.deserialize_struct("Batch", &["writes", "origin", "quota"], Fields)
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} writes", self.writes.len())
    }
}

/// One outcome for each write of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcomes(pub(crate) Vec<Result<Entry, Refusal>>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Change, Key, Precondition, Value};

    #[test]
    fn a_batch_that_was_written_without_an_origin_or_a_quota_is_still_read() {
        let write = Write {
            key: Key::new("/a").unwrap(),
            precondition: Precondition::Any,
            change: Change::Put(Value::plain("x")),
        };
        let old = postcard::to_allocvec(&vec![write.clone()]).unwrap();
        let batch = Batch { writes: vec![write.clone()], origin: None, quota: None };
        assert_eq!(postcard::from_bytes::<Batch>(&old).unwrap(), batch);
        let origin = Some(Origin { member: u64::MAX, run: 2, number: 3, decided: 1 });
        let old = postcard::to_allocvec(&(vec![write], origin)).unwrap();
        let batch = Batch { origin, ..batch };
        assert_eq!(postcard::from_bytes::<Batch>(&old).unwrap(), batch);
        let batch = Batch { quota: Some(Quota(7)), ..batch };
        assert_eq!(postcard::from_bytes::<Batch>(&postcard::to_allocvec(&batch).unwrap()).unwrap(), batch);
    }
}
