//! Makes one log entry, and so one flush, of the writes that wait while the one before is under way.

use std::sync::Arc;

use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::core::Core;
use super::log_storage::LogStorage;
use super::runtime::spawn;
use super::space::Space;
use super::{Batch, forward};
use crate::log::LogError;
use crate::{Change, Entry, StoreError, Write};

/// Writes that may wait; a caller beyond that waits to be taken.
const QUEUE: usize = 1024;
/// The most writes in one log entry.
const BATCH: usize = 256;
/// The most bytes in one log entry; one write may be larger.
const BATCH_BYTES: usize = 4 << 20;
/// Batches that a member with peers has under way at once: while one crosses the network, the next is gathered.
const UNDER_WAY: usize = 4;
/// Room that only deletions may use, so that a full disk can be relieved.
const DELETE_RESERVE: u64 = 1 << 20;

/// A write and whom to tell.
pub(crate) struct Proposal {
    pub(crate) write: Write,
    pub(crate) answer: oneshot::Sender<Result<Entry, StoreError>>,
}

fn size(write: &Write) -> usize {
    write.key.as_str().len() + write.change.value().bytes.len() + 64
}

/// Starts the task of a member without peers, which ends when the last sender is dropped.
pub(crate) fn start(core: Arc<Core>) -> mpsc::Sender<Proposal> {
    let (sender, mut waiting) = mpsc::channel(QUEUE);
    spawn(async move {
        let mut next = None;
        while let Some((batch, bytes)) = gather(&mut waiting, &mut next).await {
            propose(&core, batch, bytes).await;
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
            let Some((batch, _)) = gather(&mut waiting, &mut next).await else { return };
            let core = Arc::clone(&core);
            spawn(async move {
                let (writes, answers): (Vec<_>, Vec<_>) =
                    batch.into_iter().map(|p| (p.write, p.answer)).unzip();
                let outcomes = forward::write(&core, writes).await;
                if let (Err(_), Some(metrics)) = (&outcomes, &core.metrics) {
                    metrics.proposals_failed.inc();
                }
                answer(answers, outcomes.map(|outcomes| outcomes.0));
                drop(permit);
            });
        }
    });
    sender
}

/// Tells all writers of a batch.
fn answer(
    answers: Vec<oneshot::Sender<Result<Entry, StoreError>>>,
    outcomes: Result<Vec<Result<Entry, crate::Refusal>>, StoreError>,
) {
    // Who asked may have gone.
    match outcomes {
        Ok(outcomes) => {
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

/// The writes that wait, as far as they go into one entry, and their size.
async fn gather(
    waiting: &mut mpsc::Receiver<Proposal>,
    next: &mut Option<Proposal>,
) -> Option<(Vec<Proposal>, u64)> {
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
    Some((batch, bytes as u64))
}

/// Makes sure that there is room for a batch. One that only deletes may use the reserve.
pub(crate) async fn reserve(log: &LogStorage, space: &Space, batch: &Batch) -> Result<(), LogError> {
    let bytes = batch.writes.iter().map(size).sum::<usize>() as u64;
    let deletes = batch.writes.iter().all(|write| matches!(write.change, Change::Delete(_)));
    let reserved = log.reserve(bytes + DELETE_RESERVE).await;
    space.reserved(bytes + DELETE_RESERVE, &reserved);
    match reserved {
        Err(_) if deletes => log.reserve(bytes).await,
        result => result,
    }
}

async fn propose(core: &Core, mut batch: Vec<Proposal>, bytes: u64) {
    let log = &core.log;
    let reserved = log.reserve(bytes + DELETE_RESERVE).await;
    core.space.reserved(bytes + DELETE_RESERVE, &reserved);
    if let Err(error) = reserved {
        tracing::warn!(error = &error as &dyn std::error::Error, "the log has no room for writes");
        let (deletes, puts): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|p| matches!(p.write.change, Change::Delete(_)));
        for proposal in puts {
            let _ = proposal.answer.send(Err(if error.is_no_space() {
                StoreError::NoSpace
            } else {
                StoreError::Unavailable { reason: error.to_string() }
            }));
        }
        let bytes: usize = deletes.iter().map(|p| size(&p.write)).sum();
        if deletes.is_empty() {
            return;
        }
        if log.reserve(bytes as u64).await.is_err() {
            for proposal in deletes {
                let _ = proposal.answer.send(Err(StoreError::NoSpace));
            }
            return;
        }
        batch = deletes;
    }
    let (writes, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|p| (p.write, p.answer)).unzip();
    let batch = Batch { writes, origin: None, quota: core.space.quota };
    let outcomes = core.raft.client_write(batch).await;
    answer(
        answers,
        outcomes.map(|response| response.data.0).map_err(|error| match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                StoreError::Unavailable { reason: format!("this member does not lead ({to})") }
            }
            other => StoreError::OutcomeUnknown { reason: other.to_string() },
        }),
    );
}
