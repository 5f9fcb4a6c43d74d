//! Gives the lead to another member where this one has no room for what is to be written.
//!
//! A leader that cannot write would keep all from writing, although a majority of the members could. So it asks the
//! others which of them have room, and hands the lead to the one of them that lacks least; who wrote meanwhile is told
//! that nothing was done, and is led to the next leader. Where nobody has room, writes are refused as on a lone member.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::message::{Request, Response};
use super::room::Purpose;
use super::{LeaderId, Member, changes};

/// How long one is asked, and how long its answer holds, in heartbeats.
const ANSWER: u32 = 3;
/// How long a leader that has no room, and has found nobody who has, waits before it asks again, although nobody
/// writes.
const AGAIN: Duration = Duration::from_secs(1);

/// What came of the last attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// Whose lead it was.
    leader: LeaderId,
    at: Instant,
    given: bool,
}

impl Core {
    /// This member's lead, if it leads.
    fn own_lead(&self) -> Option<LeaderId> {
        self.leader().map(|(leader, _)| leader).filter(|leader| leader.node_id == self.id())
    }

    /// As leader without room for so many bytes: lets one lead that has it. Says whether there is one.
    pub(crate) async fn give_lead_away(&self, bytes: u64) -> bool {
        let mut last = self.handover.lock().await;
        // Somebody else may lead by now.
        let Some(leader) = self.own_lead() else { return true };
        let holds = self.timing.heartbeat * ANSWER;
        if let Some(attempt) = last.filter(|attempt| attempt.leader == leader)
            && attempt.at.elapsed() < holds
        {
            return attempt.given;
        }
        let bytes = self.log.comfortable(bytes);
        let given = match self.successor(bytes, holds).await {
            Some((id, member)) => {
                tracing::warn!(to = %member, "there is no room on the disk: the lead is given to a member that has it");
                self.raft.trigger().transfer_leader(id).await.is_ok()
            }
            None => false,
        };
        *last = Some(Attempt { leader, at: Instant::now(), given });
        given
    }

    /// The voter that lacks least of those that have room for so many bytes.
    async fn successor(&self, bytes: u64, within: Duration) -> Option<(u64, Member)> {
        let candidates = changes::successors(self);
        let asked = candidates.iter().map(|(id, member)| async move {
            let answer = self.ask(*id, member, Request::Room { bytes }, within).await;
            matches!(answer, Ok(Response::Room(true)))
        });
        let have = futures::future::join_all(asked).await;
        candidates.into_iter().zip(have).find(|(_, has)| *has).map(|(candidate, _)| candidate)
    }

    /// Whether there is room to lead; it is looked for where that is not known.
    async fn has_room(&self) -> bool {
        let bytes = self.log.comfortable(0);
        let room = self.log.reserve(bytes, Purpose::Put).await;
        self.space.reserved(bytes, &room);
        room.is_ok()
    }

    /// Whether there is room for so many bytes, for one who would have this member lead.
    pub(crate) async fn room_to_lead(&self, bytes: u64) -> bool {
        self.log.reserve(bytes, Purpose::Put).await.is_ok()
    }
}

/// Sees to it that a member that comes to lead without room does not keep the lead.
pub(crate) async fn watch(core: Arc<Core>, ended: CancellationToken) {
    let mut server = core.raft.server_metrics();
    let mut well = None;
    loop {
        let lead = core.own_lead();
        let lacks = lead.is_some() && lead != well && !core.has_room().await;
        if lacks {
            core.give_lead_away(0).await;
        } else {
            well = lead;
        }
        let again = async {
            if lacks {
                tokio::time::sleep(AGAIN).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = ended.cancelled() => return,
            changed = server.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = again => {}
        }
    }
}
