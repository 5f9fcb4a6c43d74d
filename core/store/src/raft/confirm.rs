//! How a leader makes sure that nobody else leads when somebody reads.
//!
//! A heartbeat would do, but a member answers it only when it has flushed all entries that came before, so that who reads
//! while others write would wait for the disk. What is asked here is answered at once: whether the vote that the member
//! has stored is for a later leader.
//!
//! **A vote is stored before it is given, and before anything of a later leader is answered.** A later leader that has
//! acknowledged a write has a majority that says so, and every two majorities share a member: if those that say
//! that they know of no later one are a majority, none had acknowledged anything when they were asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use tokio::sync::{Semaphore, mpsc};

use super::core::Core;
use super::message::{Request, Response};
use super::runtime::spawn;
use super::{LeaderId, Member};

/// Questions that may be under way; with more, it is left to heartbeats.
const UNDER_WAY: usize = 16;

/// The questions of a member that are under way.
#[derive(Debug)]
pub(crate) struct Questions(Arc<Semaphore>);

impl Default for Questions {
    fn default() -> Self {
        Questions(Arc::new(Semaphore::new(UNDER_WAY)))
    }
}

/// Whether those who agree are a majority of each set of voters.
fn is_majority(agree: &BTreeSet<u64>, voters: &[BTreeSet<u64>]) -> bool {
    voters.iter().all(|voters| voters.intersection(agree).count() > voters.len() / 2)
}

impl Core {
    /// Whether this member has stored no vote for a later leader.
    pub(crate) fn knows_no_later(&self, leader: LeaderId) -> bool {
        self.log.vote().is_none_or(|vote| vote.leader_id <= leader)
    }

    /// Whether a majority of the voters knew of no later leader than this when it was asked, which was after this was
    /// called. `false` says nothing.
    pub(crate) async fn is_confirmed(self: &Arc<Self>, leader: LeaderId) -> bool {
        let (voters, others) = self.voters();
        let mut agree = BTreeSet::new();
        if self.knows_no_later(leader) {
            agree.insert(self.id());
        }
        let (sender, mut answers) = mpsc::channel(UNDER_WAY);
        for (id, member) in others {
            let Ok(permit) = Arc::clone(&self.questions.0).try_acquire_owned() else { break };
            let (core, sender) = (Arc::clone(self), sender.clone());
            // Each question comes to its end, also if others were enough.
            spawn(async move {
                let request = Request::Confirm { leader };
                let answer = core.ask(id, &member, request, core.timing.heartbeat).await;
                drop(permit);
                if matches!(answer, Ok(Response::Confirmed(true))) {
                    // Who asked may have gone.
                    let _ = sender.send(id).await;
                }
            });
        }
        drop(sender);
        while !is_majority(&agree, &voters) {
            let Some(id) = answers.recv().await else { return false };
            agree.insert(id);
        }
        true
    }

    /// The sets of voters, of each of which a majority is needed, and all other members in them.
    fn voters(&self) -> (Vec<BTreeSet<u64>>, Vec<(u64, Member)>) {
        let server = self.raft.server_metrics();
        let server = server.borrow_watched();
        let membership = server.membership_config.membership();
        let others = membership.voter_ids().filter(|id| *id != self.id());
        let others = others.filter_map(|id| membership.get_node(&id).map(|member| (id, member.clone())));
        (membership.get_joint_config().to_vec(), others.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(agree: &[u64], voters: &[&[u64]]) -> bool {
        let voters: Vec<_> = voters.iter().map(|voters| voters.iter().copied().collect()).collect();
        is_majority(&agree.iter().copied().collect(), &voters)
    }

    #[test]
    fn a_majority_of_each_set_of_voters_is_needed() {
        assert!(agreed(&[1], &[&[1]]));
        assert!(!agreed(&[1], &[&[1, 2]]));
        assert!(agreed(&[1, 2], &[&[1, 2, 3]]));
        assert!(!agreed(&[1, 2], &[&[1, 2, 3, 4]]));
        assert!(!agreed(&[1, 2], &[&[1, 2, 3], &[3, 4, 5]]));
        assert!(agreed(&[1, 3, 4], &[&[1, 2, 3], &[3, 4, 5]]));
    }

    #[test]
    fn those_who_are_no_voters_do_not_count() {
        assert!(!agreed(&[1, 7, 8], &[&[1, 2, 3]]));
    }
}
