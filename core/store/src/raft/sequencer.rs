//! Makes one log entry, and so one flush, of the writes that wait while the one before is under way.

use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, oneshot};

use super::log_storage::LogStorage;
use super::{Batch, Raft};
use crate::{Change, Entry, StoreError, Write};

/// Writes that may wait; a caller beyond that waits to be taken.
const QUEUE: usize = 1024;
/// The most writes in one log entry.
const BATCH: usize = 256;
/// The most bytes in one log entry; one write may be larger.
const BATCH_BYTES: usize = 4 << 20;
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

/// Starts the task, which ends when the last sender is dropped.
pub(crate) fn start(raft: Raft, log: LogStorage) -> mpsc::Sender<Proposal> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(run(raft, log, receiver));
    sender
}

async fn run(raft: Raft, log: LogStorage, mut waiting: mpsc::Receiver<Proposal>) {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(first) => first,
            None => match waiting.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        let mut bytes = size(&first.write);
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(proposal) = waiting.try_recv()
        {
            let more = size(&proposal.write);
            if bytes + more > BATCH_BYTES {
                next = Some(proposal);
                break;
            }
            bytes += more;
            batch.push(proposal);
        }
        propose(&raft, &log, batch, bytes as u64).await;
    }
}

async fn propose(raft: &Raft, log: &LogStorage, mut batch: Vec<Proposal>, bytes: u64) {
    if let Err(error) = log.reserve(bytes + DELETE_RESERVE).await {
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
    match raft.client_write(Batch(writes)).await {
        Ok(response) => {
            for (answer, outcome) in answers.into_iter().zip(response.data.0) {
                let _ = answer.send(outcome.map_err(StoreError::from));
            }
        }
        Err(error) => {
            let reason = match &error {
                RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                    format!("this member does not lead ({to})")
                }
                other => other.to_string(),
            };
            for answer in answers {
                let _ = answer.send(Err(StoreError::Unavailable { reason: reason.clone() }));
            }
        }
    }
}
