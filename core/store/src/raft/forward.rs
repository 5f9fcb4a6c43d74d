//! Brings a batch to the leader, and finds out what became of it.
//!
//! Each attempt has an origin of its own and is meant for one leader of one term; nobody else proposes it. If its
//! answer is lost, it is decided before there is another attempt: the same leader says whether it has proposed it and
//! promises not to any more, or this member has applied the log up to a place that a later leader has confirmed, behind
//! which nothing of the earlier one can follow. So a batch is made at most once, and its writers are told that they
//! cannot know only if the time is up, or the state was replaced as a whole meanwhile.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::core::Core;
use super::message::{Origin, PeerError, Refused, Request, Response};
use super::{Batch, LeaderId, Member, Outcomes};
use crate::{StoreError, Write};

/// The pauses between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));

/// What is known of an attempt.
enum Attempt {
    Made(Outcomes),
    /// It was not made and never will be.
    NotMade(StoreError),
    /// It was not made, and it need not be tried again.
    Refused(StoreError),
    Unknown(String),
}

/// Brings a batch to the leader. The answer comes when this member has applied it.
pub(crate) async fn write(core: &Arc<Core>, writes: Vec<Write>) -> Result<Outcomes, StoreError> {
    let deadline = Instant::now() + core.timing.request_timeout;
    let mut pause = PAUSE.0;
    loop {
        // The outcome could not be seen here.
        if let Some(lacks) = core.lacks_entries() {
            return Err(lacks);
        }
        let (origin, mut applied) = core.pending.register();
        let batch = Batch { writes: writes.clone(), origin: Some(origin), quota: None };
        let error = match attempt(core, batch, origin, &mut applied, deadline).await {
            Attempt::Made(outcomes) => return Ok(outcomes),
            Attempt::Refused(error) => {
                core.pending.forget(origin);
                return Err(error);
            }
            Attempt::Unknown(reason) => {
                core.pending.forget(origin);
                return Err(StoreError::OutcomeUnknown { reason });
            }
            Attempt::NotMade(error) => error,
        };
        core.pending.forget(origin);
        if let Some(removed) = core.removed() {
            return Err(removed);
        }
        if Instant::now() + pause >= deadline {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

async fn attempt(
    core: &Arc<Core>,
    batch: Batch,
    origin: Origin,
    applied: &mut oneshot::Receiver<Outcomes>,
    deadline: Instant,
) -> Attempt {
    let Some((leader, member)) = core.leader() else {
        return Attempt::NotMade(no_leader());
    };
    let request = Request::Propose { leader, batch };
    let asked = ask_leader(core, leader, &member, request, deadline);
    // The batch is applied here before or after its answer comes: whichever says so first.
    let answer = tokio::select! {
        biased;
        outcomes = &mut *applied => return made(outcomes),
        answer = asked => answer,
    };
    let reason = match answer {
        Ok(Response::Proposed(at)) => {
            let lost = "this member has not caught up with the leader in time".to_owned();
            let place = applied_up_to(core, at.index, deadline);
            return tokio::select! {
                biased;
                outcomes = &mut *applied => made(outcomes),
                reached = place => match applied.try_recv() {
                    Ok(outcomes) => Attempt::Made(outcomes),
                    Err(_) if reached => made(Err(())),
                    Err(_) => Attempt::Unknown(lost),
                },
            };
        }
        Ok(Response::NotLeader { .. }) => {
            return Attempt::NotMade(no_leader());
        }
        Ok(Response::Refused(Refused::NoSpace)) => return Attempt::Refused(StoreError::NoSpace),
        Ok(Response::Refused(Refused::OutcomeUnknown { reason })) => reason,
        Ok(Response::Refused(refused)) => return Attempt::NotMade(unavailable(refused)),
        Ok(other) => format!("the leader answered {other:?}"),
        Err(error @ (PeerError::Unreachable { .. } | PeerError::Refused { .. })) => {
            return Attempt::NotMade(unavailable(error));
        }
        Err(error @ PeerError::NoAnswer { .. }) => error.to_string(),
    };
    decide(core, leader, origin, applied, deadline, reason).await
}

/// Asks a leader; this member too may be it.
async fn ask_leader(
    core: &Arc<Core>,
    leader: LeaderId,
    member: &Member,
    request: Request,
    deadline: Instant,
) -> Result<Response, PeerError> {
    if leader.node_id == core.id() {
        let answer = tokio::time::timeout_at(deadline, core.answer(core.sender(), request)).await;
        let reason = "no majority of the members has confirmed it in time".to_owned();
        return answer.map_err(|_| PeerError::NoAnswer { peer: member.name.clone(), reason });
    }
    let left = deadline.saturating_duration_since(Instant::now());
    // A leader that is gone must be noticed long before the time is up.
    core.ask(leader.node_id, member, request, left.min(core.timing.election_timeout)).await
}

/// Finds out whether a batch was made.
async fn decide(
    core: &Arc<Core>,
    attempted: LeaderId,
    origin: Origin,
    applied: &mut oneshot::Receiver<Outcomes>,
    deadline: Instant,
    reason: String,
) -> Attempt {
    while Instant::now() < deadline {
        match core.leader() {
            Some((leader, member)) if leader == attempted => {
                let fence = Request::Fence { leader, origin };
                let asked = ask_leader(core, leader, &member, fence, deadline).await;
                if let Ok(Response::Fenced { proposed: false }) = asked {
                    return Attempt::NotMade(unavailable(&reason));
                }
            }
            Some((leader, member)) if leader > attempted => {
                let asked = ask_leader(core, leader, &member, Request::ReadIndex, deadline).await;
                if let Ok(Response::ReadIndex(place)) = asked
                    && place.leader_id > attempted
                    && applied_up_to(core, place.index, deadline).await
                {
                    return match applied.try_recv() {
                        Ok(outcomes) => Attempt::Made(outcomes),
                        Err(oneshot::error::TryRecvError::Empty) => Attempt::NotMade(unavailable(&reason)),
                        Err(oneshot::error::TryRecvError::Closed) => made(Err(())),
                    };
                }
            }
            Some(_) | None => {}
        }
        tokio::select! {
            biased;
            outcomes = &mut *applied => return made(outcomes),
            () = tokio::time::sleep(PAUSE.1) => {}
        }
    }
    Attempt::Unknown(reason)
}

fn made<E>(outcomes: Result<Outcomes, E>) -> Attempt {
    outcomes.map_or_else(
        |_| {
            Attempt::Unknown("the state of this member was replaced while the write was under way".to_owned())
        },
        Attempt::Made,
    )
}

/// Waits until the log is applied up to a place; says whether it was in time.
pub(crate) async fn applied_up_to(core: &Core, index: u64, deadline: Instant) -> bool {
    let mut metrics = core.raft.data_metrics();
    loop {
        if metrics.borrow_watched().last_applied.is_some_and(|applied| applied.index >= index) {
            return true;
        }
        match tokio::time::timeout_at(deadline, metrics.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return false,
        }
    }
}

pub(crate) fn unavailable(reason: impl ToString) -> StoreError {
    StoreError::Unavailable { reason: reason.to_string() }
}

pub(crate) fn no_leader() -> StoreError {
    unavailable("the members have no leader: a majority of them cannot be reached, or they are electing one")
}
