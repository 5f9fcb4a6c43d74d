//! A revisioned key-value store: an immutable ordered map behind a durable log.
//!
//! | module | what it holds |
//! |---|---|
//! | [`revision`], [`key`], [`entry`] | the newtypes and the stored value |
//! | [`write`] | a conditional change and what it may be refused with |
//! | [`event`] | what a change looks like to an [`Observer`] |
//! | [`engine`] | the pure state machine: writes in, outcomes and events out |
//! | [`snapshot`] | a consistent, immutable view at one revision |
//! | `disk` | files, real or simulated |
//! | `checkpoint` | the applied state in sled, saved as what has changed |
//! | [`log`] | the durable point: checksummed frames in preallocated segments |
//! | [`store`] | the [`Store`] trait that the API server is written against |
//! | [`raft_store`] | the durable store: the engine behind a Raft log, with snapshots |
//! | [`archive`] | the whole state as a file that people keep, and a store made of it |
//! | [`rebuild`] | what becomes of a damaged store that others can make again |
//! | [`members`] | the members of a store, and changes of them |
//! | [`memory`] | the engine without a log, for embedding and for tests |
//! | [`mirror`] | a copy of a store elsewhere that orders its changes itself |
//!
//! **Invariant:** a write is answered only after the observer has seen its event, so a reader that was told of
//! a revision can always find it.

pub mod archive;
mod checkpoint;
#[cfg(feature = "conformance")]
pub mod conformance;
mod disk;
pub mod engine;
pub mod entry;
pub mod event;
pub mod key;
pub mod log;
pub mod members;
pub mod memory;
mod metrics;
pub mod mirror;
mod raft;
pub mod raft_store;
pub mod rebuild;
pub mod revision;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod snapshot;
pub mod store;
pub mod write;

pub use checkpoint::CheckpointError;
pub use engine::{Engine, Quota};
pub use entry::{Entry, Value};
pub use event::{Event, EventKind, Observer};
pub use key::{InvalidKey, Key};
pub use members::{MemberId, MemberStatus, Members, MembersError, Role};
pub use memory::MemoryStore;
pub use mirror::Mirror;
pub use raft::member::InvalidMember;
pub use raft::snapshot_file::SnapshotError;
pub use raft_store::{OpenError, RaftStore};
pub use revision::Revision;
pub use snapshot::Snapshot;
pub use store::{Alarm, Failure, Store, StoreError};
pub use write::{Change, Precondition, Refusal, Write};
