//! The interface that the API server is written against.

use async_trait::async_trait;

use crate::engine::HistoryError;
use crate::{Entry, Refusal, Revision, Snapshot, Write};

/// A revisioned store.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Makes one change. When it returns, the change is durable and every observer of this member has seen it.
    async fn write(&self, write: Write) -> Result<Entry, StoreError>;

    /// A point that is not before anything that was acknowledged when it was called.
    async fn barrier(&self) -> Result<Revision, StoreError>;

    /// Whether nobody else can write: what was acknowledged is then always what this member has applied, and a read needs
    /// no [`Store::barrier`].
    fn is_sole(&self) -> bool {
        false
    }

    /// The newest state that this member has applied.
    fn snapshot(&self) -> Snapshot;

    /// The state at an earlier revision.
    fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, HistoryError>;

    /// What keeps it from taking all writes, if anything does: it is told to people, and ends by itself.
    async fn alarms(&self) -> Vec<Alarm> {
        Vec::new()
    }

    /// Gives back to the disk what the store has taken and does not need. Reads and writes go on meanwhile.
    async fn defragment(&self) -> Result<(), StoreError> {
        Err(StoreError::Unavailable { reason: "it is kept elsewhere, and defragmented there".to_owned() })
    }

    /// Waits until the store has failed for good: it can neither read nor write what is current any more, and is to be
    /// opened again, which finds all that was acknowledged. One that does not fail, or was closed, waits for ever.
    async fn failed(&self) -> Failure {
        std::future::pending().await
    }

    /// Ends the store: later writes get [`StoreError::Closed`], and what was acknowledged is on disk.
    async fn close(&self);
}

/// Why a store has failed for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store has failed, and what was acknowledged is kept: {reason}")]
pub struct Failure {
    /// What is wrong.
    pub reason: String,
}

/// Why a write or a barrier failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The write was refused; nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no room for the write on the disk; nothing has changed.
    #[error("no space is left on the disk that holds the store")]
    NoSpace,
    /// The value is larger than the store takes; nothing has changed.
    #[error("the value is larger than the store takes: {reason}")]
    TooLarge {
        /// What it says.
        reason: String,
    },
    /// The write was not made, or nothing could be read: a majority of the members cannot be reached, say.
    #[error("the store cannot answer now: {reason}")]
    Unavailable {
        /// What is wrong.
        reason: String,
    },
    /// It is not known whether the write was made, and this store cannot find out. It may still be made.
    #[error("it is not known whether the write was made: {reason}")]
    OutcomeUnknown {
        /// What happened.
        reason: String,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

/// What keeps a store from taking all writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    /// The state has grown to its quota: what would make it grow is refused.
    #[error(
        "NOSPACE: the store holds {bytes} bytes of its quota of {quota}; delete objects, or raise the quota"
    )]
    Quota {
        /// How many bytes the keys and values have.
        bytes: u64,
        /// How many they may have.
        quota: u64,
    },
    /// The disk is full: only deletions find room.
    #[error("NOSPACE: no space is left on the disk that holds the store; free some, or delete objects")]
    Disk,
    /// What keeps the state elsewhere has raised one.
    #[error("{0}")]
    Elsewhere(String),
}
