//! Makes one log entry, and so one flush, of the writes that wait while the one before is under way.

use std::sync::Arc;

use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::core::Core;
use super::room::{Purpose, is_delete, size, size_of_all};
use super::runtime::spawn;
use super::{Batch, Outcomes, forward};
use crate::log::LogError;
use crate::{Entry, StoreError, Write};

/// Writes that may wait; a caller beyond that waits to be taken.
const QUEUE: usize = 1024;
/// The most writes in one log entry.
const BATCH: usize = 256;
/// The most bytes in one log entry; one write may be larger.
const BATCH_BYTES: u64 = 4 << 20;
/// Batches that a member with peers has under way at once: while one crosses the network, the next is gathered.
const UNDER_WAY: usize = 4;

/// A write and whom to tell.
pub(crate) struct Proposal {
    pub(crate) write: Write,
    pub(crate) answer: oneshot::Sender<Result<Entry, StoreError>>,
}

/// Starts the task of a member without peers, which ends when the last sender is dropped.
pub(crate) fn start(core: Arc<Core>) -> mpsc::Sender<Proposal> {
    let (sender, mut waiting) = mpsc::channel(QUEUE);
    spawn(async move {
        let mut next = None;
        while let Some(batch) = gather(&mut waiting, &mut next).await {
            propose(&core, batch).await;
        }
    });
    sender
}

/// Starts the task of a member with peers, which ends when the last sender is dropped.
pub(crate) fn start_with_peers(core: Arc<Core>) -> mpsc::Sender<Proposal> {
    let (sender, mut waiting) = mpsc::channel(QUEUE);
    spawn(async move {
        let under_way = Arc::new(Semaphore::new(UNDER_WAY));
        let mut next = None;
        loop {
            let Ok(permit) = Arc::clone(&under_way).acquire_owned().await else { return };
            let Some(batch) = gather(&mut waiting, &mut next).await else { return };
            let core = Arc::clone(&core);
            spawn(async move {
                bring(&core, batch).await;
                drop(permit);
            });
        }
    });
    sender
}

/// Brings a batch to the leader. Where there is no room for all of it, what deletes goes alone.
async fn bring(core: &Arc<Core>, batch: Vec<Proposal>) {
    let (writes, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|p| (p.write, p.answer)).unzip();
    let mixed = writes.iter().any(is_delete) && !writes.iter().all(is_delete);
    if !mixed {
        return answer(answers, forward(core, writes).await);
    }
    let outcomes = forward(core, writes.clone()).await;
    if !matches!(outcomes, Err(StoreError::NoSpace)) {
        return answer(answers, outcomes);
    }
    let (deletes, puts): (Vec<_>, Vec<_>) =
        writes.into_iter().zip(answers).partition(|(write, _)| is_delete(write));
    answer(puts.into_iter().map(|(_, answer)| answer).collect(), outcomes);
    let (writes, answers): (Vec<_>, Vec<_>) = deletes.into_iter().unzip();
    answer(answers, forward(core, writes).await);
}

async fn forward(core: &Arc<Core>, writes: Vec<Write>) -> Result<Outcomes, StoreError> {
    let outcomes = forward::write(core, writes).await;
    if let (Err(_), Some(metrics)) = (&outcomes, &core.metrics) {
        metrics.proposals_failed.inc();
    }
    outcomes
}

/// Tells all writers of a batch.
fn answer(answers: Vec<oneshot::Sender<Result<Entry, StoreError>>>, outcomes: Result<Outcomes, StoreError>) {
    // Who asked may have gone.
    match outcomes {
        Ok(Outcomes(outcomes)) => {
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                let _ = answer.send(outcome.map_err(StoreError::from));
            }
        }
        Err(error) => {
            for answer in answers {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}

/// The writes that wait, as far as they go into one entry.
async fn gather(
    waiting: &mut mpsc::Receiver<Proposal>,
    next: &mut Option<Proposal>,
) -> Option<Vec<Proposal>> {
    let first = match next.take() {
        Some(first) => first,
        None => waiting.recv().await?,
    };
    let mut bytes = size(&first.write);
    let mut batch = vec![first];
    while batch.len() < BATCH
        && let Ok(proposal) = waiting.try_recv()
    {
        let more = size(&proposal.write);
        if bytes + more > BATCH_BYTES {
            *next = Some(proposal);
            break;
        }
        bytes += more;
        batch.push(proposal);
    }
    Some(batch)
}

async fn propose(core: &Core, mut batch: Vec<Proposal>) {
    let log = &core.log;
    let bytes = size_of_all(batch.iter().map(|p| &p.write));
    let mut room = log.reserve(bytes, Purpose::Put).await;
    core.space.reserved(bytes, &room);
    if let Err(error) = &room {
        tracing::warn!(error = error as &dyn std::error::Error, "the log has no room for writes");
        let (deletes, puts): (Vec<_>, Vec<_>) = batch.into_iter().partition(|p| is_delete(&p.write));
        batch = deletes;
        for proposal in puts {
            // Who asked may have gone.
            let _ = proposal.answer.send(Err(no_room(error)));
        }
        if batch.is_empty() {
            return;
        }
        room = log.reserve(size_of_all(batch.iter().map(|p| &p.write)), Purpose::Delete).await;
    }
    let (writes, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|p| (p.write, p.answer)).unzip();
    let _room = match room {
        Ok(room) => room,
        Err(error) => return answer(answers, Err(no_room(&error))),
    };
    let batch = Batch { writes, origin: None, quota: core.space.quota };
    let outcomes = core.raft.client_write(batch).await;
    answer(
        answers,
        outcomes.map(|response| response.data).map_err(|error| match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                StoreError::Unavailable { reason: format!("this member does not lead ({to})") }
            }
            other => StoreError::OutcomeUnknown { reason: other.to_string() },
        }),
    );
}

fn no_room(error: &LogError) -> StoreError {
    if error.is_no_space() {
        StoreError::NoSpace
    } else {
        StoreError::Unavailable { reason: error.to_string() }
    }
}
