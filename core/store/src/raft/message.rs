//! What members ask each other, and the answers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::runtime::spawn;
use super::{Batch, LeaderId, LogId, Member, SnapshotMeta, TypeConfig, Vote};
use crate::Snapshot;

/// Messages of entries that wait to be sent to one member.
const ENTRIES: usize = 4;

/// Who asks, and in which cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sender {
    /// `None` while it is not yet of any cluster.
    pub(crate) cluster: Option<u64>,
    pub(crate) member: u64,
}

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    Transfer(TransferLeaderRequest<TypeConfig>),
    /// Writes for the leader to propose, if it still is this leader.
    Propose {
        leader: LeaderId,
        batch: Batch,
    },
    /// Whether the batch of this origin was proposed by this leader: this member in this term, and since it was
    /// started. If not, it never will be.
    Fence {
        leader: LeaderId,
        origin: Origin,
    },
    /// Up to where a member must have applied the log to read what is current.
    ReadIndex,
    /// A change of the membership, or a look at it.
    Members(MembersRequest),
    /// Tells the one asked that a committed membership is without it.
    Removed {
        by: LogId,
    },
    /// Whether the one asked would have room for so many bytes, if it led.
    Room {
        bytes: u64,
    },
    /// Whether the one asked knows of no later leader than this.
    Confirm {
        leader: LeaderId,
    },
}

/// What may be asked about the membership; only the leader answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MembersRequest {
    Add { id: u64, member: Member },
    Describe { id: u64, member: Member },
    Promote { id: u64 },
    Remove { id: u64 },
    Transfer { id: u64 },
    List,
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    Transfer(TransferLeaderResponse<TypeConfig>),
    /// The batch is committed at this place of the log.
    Proposed(LogId),
    /// Whether it was proposed.
    Fenced {
        proposed: bool,
    },
    ReadIndex(LogId),
    Members(MembersResponse),
    Room(bool),
    Done,
    /// The one asked does not lead; nothing was done.
    NotLeader {
        leader: Option<(u64, Member)>,
    },
    /// It was not done, and why.
    Refused(Refused),
    /// Whether no later leader is known.
    Confirmed(bool),
}

/// The answer of a leader about the membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MembersResponse {
    /// It was done. The cluster and how many entries its log has.
    Done { cluster: u64 },
    /// All of them.
    List(Vec<crate::members::MemberStatus>),
    /// It was refused, and nothing has changed.
    Refused(crate::members::MembersError),
}

/// Why a question was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refused {
    #[error("member {member} belongs to another cluster: {theirs:016x}, not {ours:016x}")]
    OtherCluster { member: String, theirs: u64, ours: u64 },
    #[error("it was said to be member {meant:016x}, but it is {is:016x}")]
    OtherMember { meant: u64, is: u64 },
    #[error("the certificate is not that of member {member}")]
    OtherIdentity { member: String },
    #[error("a member that has not been added may not ask this")]
    Unknown,
    #[error("the member was removed from the cluster")]
    Removed { by: LogId },
    #[error("no space is left on the disk")]
    NoSpace,
    #[error("{reason}")]
    Unavailable { reason: String },
    /// It may have been done.
    #[error("{reason}")]
    OutcomeUnknown { reason: String },
}

/// Where a batch comes from: the member, its run, and a number that it uses once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) member: u64,
    /// How often the member was started, so that it is not taken for what it was before.
    pub(crate) run: u64,
    pub(crate) number: u64,
    /// Every number below has been decided.
    pub(crate) decided: u64,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// There is no connection; nothing was asked.
    #[error("member {peer} cannot be reached: {reason}")]
    Unreachable { peer: String, reason: String },
    /// The question was sent, and whether it arrived is not known.
    #[error("member {peer} did not answer: {reason}")]
    NoAnswer { peer: String, reason: String },
    /// It would not answer.
    #[error("member {peer} refused: {refused}")]
    Refused { peer: String, refused: Refused },
}

/// A future that is kept as such.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What comes back for entries.
pub(crate) type EntryAnswers = BoxStream<'static, Result<StreamAppendResult<TypeConfig>, PeerError>>;

/// The way to one other member.
pub(crate) trait Peer: Send + Sync + 'static {
    /// Asks a question.
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Response, PeerError>>;

    /// Sends the log. Answers come in the order of what was sent.
    fn append(
        &self,
        input: BoxStream<'static, AppendEntriesRequest<TypeConfig>>,
    ) -> BoxFuture<'_, Result<EntryAnswers, PeerError>>;

    /// Sends the whole state; says the vote of the one who took it.
    fn snapshot(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        state: Snapshot,
    ) -> BoxFuture<'_, Result<Vote, PeerError>>;
}

/// Finds the way to other members.
pub(crate) trait Dial: Send + Sync + 'static {
    /// The way to a member. It costs nothing until it is used.
    fn peer(&self, id: u64, member: &Member) -> Arc<dyn Peer>;

    /// The way to whoever listens at an address.
    fn stranger(&self, address: &str) -> Arc<dyn Peer>;
}

/// Takes entries from openraft and hands them on, until the handle is dropped: openraft waits for the stream that it
/// gave away to be gone before it opens another.
pub(crate) fn pump<T: Send + 'static>(
    mut input: BoxStream<'static, AppendEntriesRequest<TypeConfig>>,
    encode: impl Fn(AppendEntriesRequest<TypeConfig>) -> Option<T> + Send + 'static,
) -> (mpsc::Receiver<T>, AbortOnDropHandle<()>) {
    let (sender, receiver) = mpsc::channel(ENTRIES);
    let pump = spawn(async move {
        while let Some(request) = input.next().await {
            // What cannot be encoded ends the stream, and with it the answers.
            let Some(entries) = encode(request) else { return };
            if sender.send(entries).await.is_err() {
                return;
            }
        }
    });
    (receiver, AbortOnDropHandle::new(pump))
}

/// A member that cannot be reached, because this store was opened without peers.
#[derive(Debug)]
pub(crate) struct Absent;

impl Absent {
    fn error() -> PeerError {
        PeerError::Unreachable {
            peer: "of another server".to_owned(),
            reason: "the store was opened without settings for peers".to_owned(),
        }
    }
}

impl Peer for Absent {
    fn call(&self, _: Request) -> BoxFuture<'_, Result<Response, PeerError>> {
        Box::pin(std::future::ready(Err(Absent::error())))
    }

    fn append(
        &self,
        _: BoxStream<'static, AppendEntriesRequest<TypeConfig>>,
    ) -> BoxFuture<'_, Result<EntryAnswers, PeerError>> {
        Box::pin(std::future::ready(Err(Absent::error())))
    }

    fn snapshot(&self, _: Vote, _: SnapshotMeta, _: Snapshot) -> BoxFuture<'_, Result<Vote, PeerError>> {
        Box::pin(std::future::ready(Err(Absent::error())))
    }
}
