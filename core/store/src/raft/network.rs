//! Gives openraft the way to other members.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{RPCTypes, RaftNetworkFactory, RaftNetworkV2};

use super::core::Hearsay;
use super::message::{Dial, Peer, PeerError, Refused, Request, Response};
use super::retention::Sending;
use super::state_machine::Image;
use super::{Member, TypeConfig, Vote};

/// How long until a member that could not be reached is tried again: the first pause and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Makes ways to other members.
pub(crate) struct Network {
    pub(crate) me: u64,
    pub(crate) dial: Arc<dyn Dial>,
    /// Told when another member says that this one was removed.
    pub(crate) hearsay: Arc<Hearsay>,
    /// Told which whole states are being sent.
    pub(crate) sending: Arc<Sending>,
}

/// The way to one other member.
pub(crate) struct Target {
    me: u64,
    id: u64,
    peer: Arc<dyn Peer>,
    hearsay: Arc<Hearsay>,
    sending: Arc<Sending>,
    /// Heartbeats are questions of their own, so that none waits behind entries.
    heartbeats: bool,
}

impl Network {
    fn target(&self, id: u64, member: &Member, heartbeats: bool) -> Target {
        let peer = self.dial.peer(id, member);
        let (hearsay, sending) = (Arc::clone(&self.hearsay), Arc::clone(&self.sending));
        Target { me: self.me, id, peer, hearsay, sending, heartbeats }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Target;

    async fn new_client(&mut self, target: u64, node: &Member) -> Target {
        self.target(target, node, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Target {
        self.target(target, node, true)
    }
}

fn unexpected(response: &Response) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(format!(
        "the answer is not one to this question: {response:?}"
    )))
}

impl Target {
    fn failed(&self, error: PeerError) -> RPCError<TypeConfig> {
        match error {
            PeerError::Unreachable { .. } => RPCError::Unreachable(Unreachable::new(&error)),
            PeerError::NoAnswer { .. } => RPCError::Network(NetworkError::new(&error)),
            PeerError::Refused { refused: Refused::Removed { by }, .. } => {
                self.hearsay.removed(by);
                RPCError::Unreachable(Unreachable::new(&error))
            }
            PeerError::Refused { .. } => RPCError::Unreachable(Unreachable::new(&error)),
        }
    }

    async fn call(
        &self,
        request: Request,
        action: RPCTypes,
        timeout: Duration,
    ) -> Result<Response, RPCError<TypeConfig>> {
        match tokio::time::timeout(timeout, self.peer.call(request)).await {
            Ok(Ok(Response::Refused(refused))) => {
                Err(self.failed(PeerError::Refused { peer: format!("{:016x}", self.id), refused }))
            }
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => Err(RPCError::Timeout(Timeout { action, id: self.me, target: self.id, timeout })),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Target {
    type SnapshotData = Image;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(Request::Append(rpc), RPCTypes::AppendEntries, option.soft_ttl()).await? {
            Response::Append(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        if self.heartbeats {
            return stream_append_sequential(self, input, option);
        }
        let mut input = input.boxed();
        Box::pin(async move {
            let this = &*self;
            // The pause before another attempt is part of the wait for the first request.
            let Some(first) = input.next().await else { return Ok(futures::stream::empty().boxed()) };
            let input = futures::stream::iter([first]).chain(input).boxed();
            let answers = this.peer.append(input).await.map_err(|error| this.failed(error))?;
            Ok(answers.map(|answer| answer.map_err(|error| this.failed(error))).boxed())
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(Request::Vote(rpc), RPCTypes::Vote, option.soft_ttl()).await? {
            Response::Vote(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(Request::PreVote(rpc), RPCTypes::Vote, option.soft_ttl()).await? {
            Response::Vote(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, Image>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let _under_way = snapshot.meta.last_log_id.map(|last| self.sending.begin(self.id, last.index));
        let sent = self.peer.snapshot(vote, snapshot.meta, snapshot.snapshot.state);
        tokio::select! {
            biased;
            sent = sent => sent.map(SnapshotResponse::new).map_err(|error| self.failed(error).into()),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(Request::Transfer(rpc), RPCTypes::TransferLeader, option.soft_ttl()).await? {
            Response::Transfer(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        let (first, longest) = BACKOFF;
        let pauses = std::iter::successors(Some(first), move |pause| Some((*pause * 2).min(longest)));
        Some(Backoff::new(pauses))
    }
}
