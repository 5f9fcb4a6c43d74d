//! Finds up to where the log must be applied before one reads what is current. Those who ask while the leader is
//! asked share the next question.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::core::Core;
use super::forward::{applied_up_to, no_leader, unavailable};
use super::message::{Request, Response};
use super::runtime::spawn;
use crate::{Revision, StoreError};

/// Those who may wait to be taken; more wait before that.
const QUEUE: usize = 1024;

/// Whom to tell.
pub(crate) type Ask = oneshot::Sender<Result<Revision, Arc<StoreError>>>;

/// Starts the task, which ends when the last sender is dropped.
pub(crate) fn start(core: Arc<Core>) -> mpsc::Sender<Ask> {
    let (sender, mut receiver) = mpsc::channel::<Ask>(QUEUE);
    spawn(async move {
        let mut waiting = Vec::new();
        while receiver.recv_many(&mut waiting, QUEUE).await > 0 {
            let answer = read(&core).await.map_err(Arc::new);
            for ask in waiting.drain(..) {
                // Who asked may have gone.
                let _ = ask.send(answer.clone());
            }
        }
    });
    sender
}

/// Waits until this member has applied all that was acknowledged when this was called.
async fn read(core: &Arc<Core>) -> Result<Revision, StoreError> {
    let deadline = Instant::now() + core.timing.request_timeout;
    loop {
        if let Some(removed) = core.removed() {
            return Err(removed);
        }
        let error = match ask(core, deadline).await {
            Ok(index) if applied_up_to(core, index, patience(core, deadline)).await => {
                return Ok(core.engine.read().revision());
            }
            Ok(_) => {
                let late = || unavailable("this member has not caught up with the leader in time");
                return Err(core.lacks_entries().unwrap_or_else(late));
            }
            Err(error) => error,
        };
        let pause = core.timing.heartbeat / 4;
        if Instant::now() + pause >= deadline {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
    }
}

/// Until when this member may catch up: one whose disk is full hardly will.
fn patience(core: &Core, deadline: Instant) -> Instant {
    let soon = Instant::now() + core.timing.election_timeout;
    if core.lacks_entries().is_some() { deadline.min(soon) } else { deadline }
}

async fn ask(core: &Arc<Core>, deadline: Instant) -> Result<u64, StoreError> {
    let (leader, member) = core.leader().ok_or_else(no_leader)?;
    let response = if leader.node_id == core.id() {
        let left = deadline.saturating_duration_since(Instant::now());
        tokio::time::timeout(left, core.read_index()).await.map_err(unavailable)?
    } else {
        let left = deadline.saturating_duration_since(Instant::now()).min(core.timing.election_timeout);
        core.ask(leader.node_id, &member, Request::ReadIndex, left).await.map_err(unavailable)?
    };
    match response {
        Response::ReadIndex(place) => Ok(place.index),
        Response::NotLeader { .. } => Err(no_leader()),
        Response::Refused(refused) => Err(unavailable(refused)),
        other => Err(unavailable(format!("the leader answered {other:?}"))),
    }
}
