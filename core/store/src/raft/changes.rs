//! Changes of the membership, on the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::sync::oneshot;

use super::core::{Core, unavailable};
use super::message::{MembersRequest, MembersResponse, Refused, Request, Response};
use super::runtime::spawn;
use super::{LogId, Member, TypeConfig};
use crate::members::{MemberId, MemberStatus, MembersError, Role};

/// A learner that lacks at most so many entries has caught up.
const CAUGHT_UP: u64 = 100;
/// How often a member that was removed is told so.
const FAREWELLS: u32 = 5;

/// What the leader knows of the members.
struct View {
    voters: BTreeSet<u64>,
    nodes: BTreeMap<u64, Member>,
    status: BTreeMap<u64, MemberStatus>,
    /// Whether all of this is committed: what is not may yet be cut off.
    committed: bool,
}

/// Those whose votes count by themselves: in the middle of a change, majorities of the old and of the new voters are
/// needed, so that one who comes is no voter yet, and the change must be driven on.
pub(crate) fn settled_voters(membership: &openraft::Membership<u64, Member>) -> BTreeSet<u64> {
    let mut configs = membership.get_joint_config().iter();
    let first = configs.next().cloned().unwrap_or_default();
    configs.fold(first, |settled, config| &settled & config)
}

impl View {
    /// `None` if this member does not lead.
    fn of(core: &Core) -> Option<View> {
        let metrics = core.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        if metrics.current_leader != Some(core.id()) {
            return None;
        }
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let settled = settled_voters(metrics.committed_membership_config.membership());
        let nodes: BTreeMap<u64, Member> = membership.nodes().map(|(id, node)| (*id, node.clone())).collect();
        let last = metrics.last_log_index;
        let heard = |id: &u64| {
            let heartbeats = metrics.heartbeat.as_ref();
            let at = heartbeats.and_then(|acked| acked.get(id)).and_then(|at| at.as_ref());
            at.is_some_and(|at| openraft::Instant::elapsed(&**at) < core.timing.election_timeout)
        };
        // Entries are counted from 0.
        let count = |last: Option<u64>| last.map_or(0, |last| last + 1);
        let status = nodes.iter().map(|(id, member)| {
            let leader = *id == core.id();
            let matched =
                if leader { last } else { replication.get(id).and_then(|at| at.as_ref()).map(|at| at.index) };
            let status = MemberStatus {
                id: MemberId(*id),
                name: member.name.clone(),
                addresses: member.addresses.clone(),
                role: if settled.contains(id) { Role::Voter } else { Role::Learner },
                leader,
                matched,
                lag: count(last).saturating_sub(count(matched)),
                healthy: leader || heard(id),
            };
            (*id, status)
        });
        let status = status.collect();
        let committed = metrics.membership_config.log_id() == metrics.committed_membership_config.log_id();
        Some(View { voters, nodes, status, committed })
    }

    /// Whether enough of these voters are well.
    fn enough(&self, voters: &BTreeSet<u64>) -> Result<(), MembersError> {
        let healthy = voters.iter().filter(|id| self.status.get(id).is_some_and(|status| status.healthy));
        let (healthy, needed) = (healthy.count() as u64, voters.len() as u64 / 2 + 1);
        if healthy >= needed { Ok(()) } else { Err(MembersError::Unhealthy { healthy, needed }) }
    }
}

/// The other voters that are well, those that lack least first; none if this member does not lead.
pub(crate) fn successors(core: &Core) -> Vec<(u64, Member)> {
    let Some(view) = View::of(core) else { return Vec::new() };
    let mut well: Vec<&MemberStatus> = view
        .status
        .values()
        .filter(|status| status.role == Role::Voter && status.healthy && !status.leader)
        .collect();
    well.sort_by_key(|status| status.lag);
    let known = |id: u64| view.nodes.get(&id).map(|member| (id, member.clone()));
    well.into_iter().filter_map(|status| known(status.id.0)).collect()
}

/// What is to be done for a request.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    List,
    Change(ChangeMembers<u64, Member>),
    Transfer(u64),
}

/// Answers a request of a member, or of one that wants to be one.
pub(crate) async fn answer(core: &Arc<Core>, request: MembersRequest) -> Response {
    if core.alone && request != MembersRequest::List {
        return Response::Members(MembersResponse::Refused(MembersError::Alone));
    }
    let Some(view) = View::of(core) else {
        let leader = core.leader().map(|(leader, member)| (leader.node_id, member));
        return Response::NotLeader { leader: leader.filter(|(id, _)| *id != core.id()) };
    };
    let removed = match &request {
        MembersRequest::Remove { id } => view.nodes.get(id).map(|member| (*id, member.clone())),
        MembersRequest::Add { .. }
        | MembersRequest::Describe { .. }
        | MembersRequest::Promote { .. }
        | MembersRequest::Transfer { .. }
        | MembersRequest::List => None,
    };
    let done = MembersResponse::Done { cluster: core.identity.cluster.unwrap_or_default() };
    let committed = view.committed;
    let response = match plan(&view, request) {
        Ok(Plan::Nothing) | Err(MembersError::NotFound { .. }) if !committed => {
            MembersResponse::Refused(MembersError::Busy)
        }
        Ok(Plan::Nothing) => done,
        Ok(Plan::List) => MembersResponse::List(view.status.into_values().collect()),
        Ok(Plan::Transfer(to)) => match core.raft.trigger().transfer_leader(to).await {
            Ok(()) => done,
            Err(error) => return Response::Refused(unavailable(error)),
        },
        // It goes on to its end although who asked may not wait for it: one that is left in the middle needs the consent of
        // those who were and of those who will be.
        Ok(Plan::Change(change)) => {
            let (tell, told) = oneshot::channel();
            let core = Arc::clone(core);
            spawn(async move { tell.send(make(&core, change, removed).await) });
            return told.await.unwrap_or_else(|_ended| {
                Response::Refused(Refused::OutcomeUnknown { reason: "the member has ended".to_owned() })
            });
        }
        Err(refused) => MembersResponse::Refused(refused),
    };
    Response::Members(response)
}

/// Makes a change, and tells one that it removes.
async fn make(
    core: &Arc<Core>,
    change: ChangeMembers<u64, Member>,
    removed: Option<(u64, Member)>,
) -> Response {
    let response = match core.raft.change_membership(change, false).await {
        Ok(response) => {
            if let Some((id, member)) = removed {
                core.seen.forget(id);
                spawn(bid_farewell(Arc::clone(core), id, member, response.log_id));
            }
            MembersResponse::Done { cluster: core.identity.cluster.unwrap_or_default() }
        }
        Err(error) => match failed(core, error) {
            Ok(refused) => MembersResponse::Refused(refused),
            Err(response) => return response,
        },
    };
    Response::Members(response)
}

/// Decides what is to be done.
fn plan(view: &View, request: MembersRequest) -> Result<Plan, MembersError> {
    let known = |id: u64| view.status.get(&id).ok_or(MembersError::NotFound { id: MemberId(id) });
    match &request {
        // Nothing can be changed by fewer than a majority of those who vote now.
        MembersRequest::Add { .. } | MembersRequest::Promote { .. } => view.enough(&view.voters)?,
        MembersRequest::Remove { id } if view.nodes.contains_key(id) => view.enough(&view.voters)?,
        MembersRequest::Remove { .. }
        | MembersRequest::Describe { .. }
        | MembersRequest::Transfer { .. }
        | MembersRequest::List => {}
    }
    match request {
        MembersRequest::List => Ok(Plan::List),
        MembersRequest::Add { id, member } => {
            let taken = view.nodes.iter().find(|(other, node)| **other != id && node.name == member.name);
            if let Some((other, _)) = taken {
                return Err(MembersError::NameTaken { name: member.name, id: MemberId(*other) });
            }
            match view.nodes.get(&id) {
                Some(node) if *node == member => Ok(Plan::Nothing),
                Some(_) => Ok(Plan::Change(ChangeMembers::SetNodes([(id, member)].into()))),
                None => Ok(Plan::Change(ChangeMembers::AddNodes([(id, member)].into()))),
            }
        }
        MembersRequest::Describe { id, member } => {
            known(id)?;
            let taken = view.nodes.iter().find(|(other, node)| **other != id && node.name == member.name);
            match (taken, view.nodes.get(&id)) {
                (Some((other, _)), _) => {
                    Err(MembersError::NameTaken { name: member.name, id: MemberId(*other) })
                }
                (None, Some(node)) if *node == member => Ok(Plan::Nothing),
                (None, _) => Ok(Plan::Change(ChangeMembers::SetNodes([(id, member)].into()))),
            }
        }
        MembersRequest::Promote { id } => {
            let status = known(id)?;
            if status.role == Role::Voter {
                return Ok(Plan::Nothing);
            }
            if status.lag > CAUGHT_UP || status.matched.is_none() {
                return Err(MembersError::Behind { id: MemberId(id), entries: status.lag });
            }
            let mut voters = view.voters.clone();
            voters.insert(id);
            view.enough(&voters)?;
            Ok(Plan::Change(ChangeMembers::AddVoterIds([id].into())))
        }
        MembersRequest::Remove { id } => {
            known(id)?;
            if !view.voters.contains(&id) {
                return Ok(Plan::Change(ChangeMembers::RemoveNodes([id].into())));
            }
            let mut voters = view.voters.clone();
            voters.remove(&id);
            view.enough(&voters)?;
            Ok(Plan::Change(ChangeMembers::RemoveVoters([id].into())))
        }
        MembersRequest::Transfer { id } => match known(id)? {
            status if status.leader => Ok(Plan::Nothing),
            status if status.role == Role::Voter => Ok(Plan::Transfer(id)),
            _ => Err(MembersError::NotVoter { id: MemberId(id) }),
        },
    }
}

/// What a change that failed is answered with.
fn failed(
    core: &Core,
    error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
) -> Result<MembersError, Response> {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
            let leader = core.leader().map(|(leader, member)| (leader.node_id, member));
            Err(Response::NotLeader { leader: leader.filter(|(id, _)| *id != core.id()) })
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
        )) => Ok(MembersError::Busy),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            Ok(MembersError::Invalid { reason: error.to_string() })
        }
        RaftError::APIError(error @ ClientWriteError::PreconditionFailed(_)) => {
            Err(Response::Refused(unavailable(error)))
        }
        RaftError::APIError(error @ ClientWriteError::LogEntryDiscarded(_)) => {
            Ok(MembersError::OutcomeUnknown { reason: error.to_string() })
        }
        RaftError::Fatal(error) => {
            Err(Response::Refused(Refused::OutcomeUnknown { reason: error.to_string() }))
        }
    }
}

/// Tells a member that it was removed, for nobody else will: it is sent nothing any more.
async fn bid_farewell(core: Arc<Core>, id: u64, member: Member, by: LogId) {
    if id == core.id() {
        return;
    }
    let mut pause = Duration::from_millis(100);
    for _ in 0..FAREWELLS {
        let told = core.ask(id, &member, Request::Removed { by }, core.timing.election_timeout).await;
        if let Ok(Response::Done) = told {
            return;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    tracing::info!(member = %member, "a removed member could not be told; it learns it when it asks");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> Member {
        Member::new(name, &["127.0.0.1:1".to_owned()]).unwrap()
    }

    #[test]
    fn in_the_middle_of_a_change_only_those_vote_who_did_before_and_will() {
        let membership = |configs: Vec<BTreeSet<u64>>| {
            let nodes: BTreeMap<u64, Member> = (1..=3).map(|id| (id, member(&format!("m{id}")))).collect();
            openraft::Membership::new(configs, nodes).unwrap()
        };
        let (two, three) = (BTreeSet::from([1, 2]), BTreeSet::from([1, 2, 3]));
        assert_eq!(settled_voters(&membership(vec![two.clone(), three.clone()])), two);
        assert_eq!(settled_voters(&membership(vec![three.clone(), two.clone()])), two);
        assert_eq!(settled_voters(&membership(vec![three.clone()])), three);
    }

    /// Members 1, 2, 3 vote, 4 learns; those named are healthy.
    fn view(healthy: &[u64], lag: u64) -> View {
        let nodes: BTreeMap<u64, Member> = (1..=4).map(|id| (id, member(&format!("m{id}")))).collect();
        let voters = BTreeSet::from([1, 2, 3]);
        let status = nodes.iter().map(|(id, member)| {
            let status = MemberStatus {
                id: MemberId(*id),
                name: member.name.clone(),
                addresses: member.addresses.clone(),
                role: if voters.contains(id) { Role::Voter } else { Role::Learner },
                leader: *id == 1,
                matched: Some(1000 - lag),
                lag,
                healthy: healthy.contains(id),
            };
            (*id, status)
        });
        let status = status.collect();
        View { voters, nodes, status, committed: true }
    }

    #[test]
    fn a_learner_is_promoted_when_it_has_caught_up() {
        let promote = MembersRequest::Promote { id: 4 };
        let plan_of = |view: View| plan(&view, promote.clone());
        assert_eq!(
            plan_of(view(&[1, 2, 3, 4], CAUGHT_UP)),
            Ok(Plan::Change(ChangeMembers::AddVoterIds([4].into())))
        );
        let behind = MembersError::Behind { id: MemberId(4), entries: CAUGHT_UP + 1 };
        assert_eq!(plan_of(view(&[1, 2, 3, 4], CAUGHT_UP + 1)), Err(behind));
        assert_eq!(plan_of(view(&[1, 2], 0)), Err(MembersError::Unhealthy { healthy: 2, needed: 3 }));
    }

    #[test]
    fn a_member_is_removed_only_if_the_others_can_go_on() {
        let remove = |id, healthy: &[u64]| plan(&view(healthy, 0), MembersRequest::Remove { id });
        assert_eq!(remove(3, &[1, 2]), Ok(Plan::Change(ChangeMembers::RemoveVoters([3].into()))));
        assert_eq!(remove(2, &[1, 2]), Err(MembersError::Unhealthy { healthy: 1, needed: 2 }));
        assert_eq!(remove(4, &[1, 2]), Ok(Plan::Change(ChangeMembers::RemoveNodes([4].into()))));
        assert_eq!(remove(4, &[1]), Err(MembersError::Unhealthy { healthy: 1, needed: 2 }));
        assert_eq!(remove(5, &[1]), Err(MembersError::NotFound { id: MemberId(5) }));
    }

    #[test]
    fn a_name_belongs_to_one_member() {
        let add =
            |id, name: &str| plan(&view(&[1, 2, 3], 0), MembersRequest::Add { id, member: member(name) });
        assert_eq!(add(9, "m2"), Err(MembersError::NameTaken { name: "m2".to_owned(), id: MemberId(2) }));
        assert_eq!(add(9, "m9"), Ok(Plan::Change(ChangeMembers::AddNodes([(9, member("m9"))].into()))));
        assert_eq!(add(2, "m2"), Ok(Plan::Nothing), "asked for twice, it is made already");
    }
}
