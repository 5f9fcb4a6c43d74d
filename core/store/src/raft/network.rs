//! The way to other members. A store with one member has none, and says so.

use std::future::Future;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::BasicNode;
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{RaftNetworkFactory, RaftNetworkV2};

use super::{TypeConfig, Vote};
use crate::Snapshot;

/// The network of a store that has no peers.
#[derive(Debug, Default)]
pub(crate) struct NoPeers;

/// A peer that cannot be reached, because this store was opened without peers.
#[derive(Debug)]
pub(crate) struct AbsentPeer {
    id: u64,
}

impl AbsentPeer {
    fn unreachable(&self) -> Unreachable<TypeConfig> {
        let text = format!("member {} cannot be reached: the store was opened without peers", self.id);
        Unreachable::new(&std::io::Error::new(std::io::ErrorKind::NotConnected, text))
    }
}

impl RaftNetworkFactory<TypeConfig> for NoPeers {
    type Network = AbsentPeer;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> AbsentPeer {
        AbsentPeer { id: target }
    }
}

impl RaftNetworkV2<TypeConfig> for AbsentPeer {
    type SnapshotData = Snapshot;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: SnapshotOf<TypeConfig, Snapshot>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(StreamingError::Unreachable(self.unreachable()))
    }
}
