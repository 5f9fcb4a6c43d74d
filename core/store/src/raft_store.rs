//! The durable store: a Raft member.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use openraft::impls::BasicNode;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::engine::{self, HistoryError};
use crate::log::{self, Log, LogError};
use crate::raft::Raft;
use crate::raft::log_storage::LogStorage;
use crate::raft::network::NoPeers;
use crate::raft::recovery;
use crate::raft::saver::Saver;
use crate::raft::sequencer::{self, Proposal};
use crate::raft::snapshot_file::SnapshotError;
use crate::raft::state_machine::StateMachine;
use crate::{Engine, Entry, Observer, Revision, Snapshot, Store, StoreError, Write};

/// How a store is kept.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder that holds nothing but the store.
    pub dir: PathBuf,
    /// How many recent states stay readable.
    pub history: usize,
    /// After how many bytes of log the changes are saved and the log is cut.
    pub checkpoint_after_bytes: u64,
    /// The least number of bytes of log that are kept behind the last whole snapshot, from which the state can be
    /// made again should the saved changes be damaged. With a state larger than this, as many bytes as that.
    pub snapshot_after_bytes: u64,
    /// The size of a file of the log.
    pub segment_bytes: u64,
}

impl Config {
    /// The defaults for a folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Config {
            dir: dir.into(),
            history: engine::Config::default().history,
            checkpoint_after_bytes: 16 << 20,
            snapshot_after_bytes: 64 << 20,
            segment_bytes: 16 << 20,
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its log cannot be read.
    #[error("open the log of the store")]
    Log(#[from] LogError),
    /// Its snapshot cannot be read.
    #[error("open the snapshot of the store")]
    Snapshot(#[from] SnapshotError),
    /// A damaged checkpoint cannot be moved away.
    #[error("move the damaged checkpoint of the store away")]
    Checkpoint(#[from] crate::CheckpointError),
    /// No saved state can be read, and what is left of the log does not make it again.
    #[error(
        "the store has neither a saved state nor the log from entry {from} on; restore a snapshot, or remove this member's data and let it join again"
    )]
    Lost {
        /// The index of the first entry that is missing.
        from: u64,
    },
    /// The log's thread cannot be started, or an entry cannot be decoded.
    #[error("start the log of the store")]
    Start(#[source] std::io::Error),
    /// Another process has it open.
    #[error("lock the store in {}: another process has it open", dir.display())]
    Locked {
        /// Its folder.
        dir: PathBuf,
        /// Why the lock was refused.
        source: std::io::Error,
    },
    /// Raft did not come up.
    #[error("start the Raft member: {reason}")]
    Raft {
        /// What it said.
        reason: String,
    },
}

/// A store whose writes survive a crash and a loss of power once they are acknowledged.
pub struct RaftStore {
    engine: Arc<RwLock<Engine>>,
    raft: Raft,
    proposals: Mutex<Option<mpsc::Sender<Proposal>>>,
    ended: CancellationToken,
    _lock: nix::fcntl::Flock<std::fs::File>,
}

const MEMBER: u64 = 1;

fn raft_error(error: impl std::fmt::Display) -> OpenError {
    OpenError::Raft { reason: error.to_string() }
}

/// A lone member has nobody to hear from or to reassure, so its clock may be slow; it does not wait for it to lead.
fn raft_config() -> Result<openraft::Config, OpenError> {
    openraft::Config {
        cluster_name: "keelson".to_owned(),
        heartbeat_interval: 2_000,
        election_timeout_min: 8_000,
        election_timeout_max: 12_000,
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        ..openraft::Config::default()
    }
    .validate()
    .map_err(raft_error)
}

fn lock(config: &Config) -> Result<nix::fcntl::Flock<std::fs::File>, OpenError> {
    let locked = |source| OpenError::Locked { dir: config.dir.clone(), source };
    std::fs::create_dir_all(&config.dir).map_err(locked)?;
    // All Secrets are in it.
    std::fs::set_permissions(&config.dir, std::fs::Permissions::from_mode(0o700)).map_err(locked)?;
    let file = std::fs::File::create(config.dir.join("lock")).map_err(locked)?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock)
        .map_err(|(_, errno)| locked(errno.into()))
}

impl RaftStore {
    /// Opens the store, or makes an empty one, and returns when all that was acknowledged is applied.
    pub async fn open(config: Config, observer: Arc<dyn Observer>) -> Result<Arc<RaftStore>, OpenError> {
        let lock = lock(&config)?;
        let (log, contents) =
            Log::open(log::Config { dir: config.dir.join("log"), segment_bytes: config.segment_bytes })?;
        let history = engine::Config { history: config.history };
        let (recovered, places) = recovery::recover(&config.dir, history, &log, &contents)?;
        let storage = LogStorage::start(log, contents).map_err(OpenError::Start)?;
        let saver = Saver::start(&config, places, storage.clone()).await;
        let machine = StateMachine::new(recovered, history, saver, observer);
        let engine = machine.engine();
        let raft = Raft::new(MEMBER, Arc::new(raft_config()?), NoPeers, storage.clone(), machine)
            .await
            .map_err(raft_error)?;
        lead(&raft, &storage).await?;
        let proposals = sequencer::start(raft.clone(), storage.clone());
        let ended = CancellationToken::new();
        tokio::spawn(keep_log_short(raft.clone(), storage, config.checkpoint_after_bytes, ended.clone()));
        Ok(Arc::new(RaftStore { engine, raft, proposals: Mutex::new(Some(proposals)), ended, _lock: lock }))
    }

    /// Saves the state and cuts the log behind it.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        snapshot(&self.raft).await
    }
}

/// Makes the lone member lead, and waits until it has applied its whole log.
async fn lead(raft: &Raft, storage: &LogStorage) -> Result<(), OpenError> {
    let last = storage.last_index();
    if raft.is_initialized().await.map_err(raft_error)? {
        raft.trigger().elect(false).await.map_err(raft_error)?;
    } else {
        let members = std::collections::BTreeMap::from([(MEMBER, BasicNode::default())]);
        raft.initialize(members).await.map_err(raft_error)?;
    }
    let wait = raft.wait(Some(Duration::from_secs(60)));
    wait.current_leader(MEMBER, "the lone member leads").await.map_err(raft_error)?;
    wait.applied_index_at_least(last, "the log is applied").await.map_err(raft_error)?;
    raft.ensure_linearizable(ReadPolicy::ReadIndex).await.map_err(raft_error)?;
    Ok(())
}

async fn snapshot(raft: &Raft) -> Result<(), StoreError> {
    let unavailable = |reason: String| StoreError::Unavailable { reason };
    let Some(applied) = raft.metrics().borrow_watched().last_applied else { return Ok(()) };
    raft.trigger().snapshot().await.map_err(|error| unavailable(error.to_string()))?;
    raft.wait(Some(Duration::from_secs(600)))
        .metrics(|m| m.snapshot >= Some(applied), "the state is saved")
        .await
        .map_err(|error| unavailable(error.to_string()))?;
    raft.trigger().purge_log(applied.index).await.map_err(|error| unavailable(error.to_string()))
}

/// Saves the state and cuts the log each time that it has grown by `after` bytes. If that fails, it is tried again
/// when the log has grown by as much once more.
async fn keep_log_short(raft: Raft, log: LogStorage, after: u64, ended: CancellationToken) {
    let mut progress = raft.metrics();
    let mut next = after;
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            changed = progress.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        let grown = log.bytes_since_purge();
        if grown < next {
            continue;
        }
        match snapshot(&raft).await {
            Ok(()) => next = after,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the state could not be saved");
                next = grown.saturating_add(after);
            }
        }
    }
}

#[async_trait]
impl Store for RaftStore {
    async fn write(&self, write: Write) -> Result<Entry, StoreError> {
        let proposals = self.proposals.lock().clone().ok_or(StoreError::Closed)?;
        let (answer, outcome) = oneshot::channel();
        proposals.send(Proposal { write, answer }).await.map_err(|_| StoreError::Closed)?;
        outcome.await.map_err(|_| StoreError::Closed)?
    }

    async fn barrier(&self) -> Result<Revision, StoreError> {
        self.raft
            .ensure_linearizable(ReadPolicy::LeaseRead)
            .await
            .map_err(|error| StoreError::Unavailable { reason: error.to_string() })?;
        Ok(self.engine.read().revision())
    }

    fn snapshot(&self) -> Snapshot {
        self.engine.read().snapshot()
    }

    fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, HistoryError> {
        self.engine.read().snapshot_at(revision)
    }

    async fn close(&self) {
        self.proposals.lock().take();
        self.ended.cancel();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the Raft member did not end cleanly");
        }
    }
}
