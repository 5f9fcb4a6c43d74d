//! The durable store: a Raft member.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use keelson_metrics::Registry;
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::metrics::WaitError;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::engine::{self, HistoryError};
use crate::log::LogError;
use crate::members::Members;
use crate::raft::LogId;
use crate::raft::core::{Core, REMOVED};
use crate::raft::handover;
use crate::raft::log_storage::chain;
use crate::raft::member::{Identity, InvalidMember};
pub use crate::raft::peer::tls::{MEMBER_DNS_NAME, PeerCertificate, PeerTls, TlsError, certified};
use crate::raft::reader::{self, Ask};
use crate::raft::retention::{self, Kept};
use crate::raft::runtime::spawn;
use crate::raft::sequencer::{self, Proposal};
use crate::raft::snapshot_file::SnapshotError;
use crate::{Alarm, Entry, Failure, Observer, Revision, Snapshot, Store, StoreError, Write};

pub(crate) mod open;
#[cfg(test)]
mod tests;

/// How long a save may take before it is asked for again.
const SAVE_AGAIN: Duration = Duration::from_secs(2);

/// How a store is kept.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder that holds nothing but the store.
    pub dir: PathBuf,
    /// How many recent states stay readable.
    pub history: usize,
    /// After how many bytes of log the changes are saved and the log is cut.
    pub checkpoint_after_bytes: u64,
    /// After how many entries of the log it is done, however small they are.
    pub checkpoint_after_entries: u64,
    /// The least number of bytes of log that are kept behind the last whole snapshot, from which the state can be
    /// made again should the saved changes be damaged. With a state larger than this, as many bytes as that.
    pub snapshot_after_bytes: u64,
    /// The size of a file of the log.
    pub segment_bytes: u64,
    /// How many bytes of the newest entries a member with peers keeps in memory, so that one that was away for a
    /// while is sent what it lacks and not the whole state. For members that follow and lack more, the leader keeps as
    /// much as the whole state is worth, at least `snapshot_after_bytes`.
    pub catch_up_bytes: u64,
    /// How many bytes keys and values may have together; `None` sets no limit. What would make them more is refused,
    /// as [`crate::Quota`] says. Of several members the leader's setting holds.
    pub quota_bytes: Option<u64>,
    /// The largest value that is taken, in bytes.
    pub max_value_bytes: u64,
    /// The other members and the way to them; `None` for a store that has this one member.
    pub peers: Option<Peers>,
    /// How fast a member with peers beats, notices and gives up.
    pub timing: Timing,
    /// Where the store counts, if anywhere.
    pub metrics: Option<Registry>,
}

impl Config {
    /// The defaults for a folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Config {
            dir: dir.into(),
            history: engine::Config::default().history,
            checkpoint_after_bytes: 16 << 20,
            checkpoint_after_entries: 100_000,
            snapshot_after_bytes: 64 << 20,
            segment_bytes: 16 << 20,
            catch_up_bytes: 8 << 20,
            quota_bytes: None,
            max_value_bytes: 16 << 20,
            peers: None,
            timing: Timing::default(),
            metrics: None,
        }
    }
}

/// The way to the other members of a store.
#[derive(Clone, Debug)]
pub struct Peers {
    /// This member's name: a DNS name in lower case that no other member has and that its certificate shows.
    pub name: String,
    /// Where the others reach this member: `HOST:PORT`.
    pub addresses: Vec<String>,
    /// Where this member listens for them.
    pub listen: SocketAddr,
    /// The address from which it connects to them; `None` lets the system choose.
    pub source: Option<IpAddr>,
    /// By what the members know each other.
    pub tls: PeerTls,
    /// Addresses of members of the cluster to join. With none, an empty folder becomes a cluster of its own. A folder
    /// that is part of a cluster already stays so, whatever stands here.
    pub join: Vec<String>,
    /// Whether a member that joins becomes a voter once it has caught up. If not, it stays a learner until somebody
    /// promotes it.
    pub promote: bool,
}

/// How fast a member with peers beats, notices and gives up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often the leader shows that it is there.
    pub heartbeat: Duration,
    /// The longest that a member waits after the leader's last sign of life before it stands for election: a random
    /// time between three quarters of this and this. At least five heartbeats. The API answers again a few
    /// milliseconds after an election.
    pub election_timeout: Duration,
    /// How long a write or a read may look for a leader before it fails.
    pub request_timeout: Duration,
    /// How the leader makes sure that it still leads when somebody reads.
    pub reads: Reads,
}

/// How the leader makes sure that it still leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// It asks a majority. Those who read at the same time share the question.
    #[default]
    Index,
    /// A majority has promised not to elect another for a while. This assumes that the members' clocks run equally
    /// fast; a virtual machine that is suspended for longer than the promise shows old values when it resumes.
    /// One that is started again elects nobody for as long as such a promise may last.
    Lease,
}

impl Default for Timing {
    /// 100 ms, 700 ms and 5 s.
    fn default() -> Self {
        Timing {
            heartbeat: Duration::from_millis(100),
            election_timeout: Duration::from_millis(700),
            request_timeout: Duration::from_secs(5),
            reads: Reads::Index,
        }
    }
}

impl Timing {
    pub(crate) fn read_policy(&self) -> ReadPolicy {
        match self.reads {
            Reads::Index => ReadPolicy::ReadIndex,
            Reads::Lease => ReadPolicy::LeaseRead,
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
        "the store has neither a saved state nor the log from entry {from} on; run `keelson members rebuild` if there are other members, or `keelson snapshot restore` if there are none"
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
    /// The file that says which member this is cannot be read or written.
    #[error("read or write which member of the store this is")]
    Identity(#[source] std::io::Error),
    /// Name or addresses are not right.
    #[error("the settings of this member")]
    Member(#[from] InvalidMember),
    /// The times do not go together.
    #[error(
        "the heartbeat is at least 10 ms, the election timeout at least five heartbeats and at most a minute"
    )]
    Timing,
    /// The certificates are not right.
    #[error("the certificates of the members")]
    Tls(#[from] TlsError),
    /// The address for other members cannot be bound.
    #[error("listen for other members at {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No member took this one in.
    #[error("join the store: {reason}")]
    Join {
        /// What they said.
        reason: String,
    },
    /// The folder belongs to a cluster with more members than this one, and no settings for peers were given.
    #[error("the store has other members, and no settings for peers were given")]
    NotAlone,
    /// What it counts has been counted already.
    #[error("register the metrics of the store")]
    Metrics(#[from] keelson_metrics::RegistryError),
    /// Raft did not come up.
    #[error("start the Raft member: {reason}")]
    Raft {
        /// What it said.
        reason: String,
    },
}

/// Whether a folder has a store that is part of a cluster, be it one of its own.
pub fn is_member(dir: &Path) -> std::io::Result<bool> {
    Ok(Identity::read(dir)?.is_some_and(|identity| identity.cluster.is_some()))
}

/// A store whose writes survive a crash and a loss of power once they are acknowledged: one member, or one of several.
pub struct RaftStore {
    core: Arc<Core>,
    proposals: Mutex<Option<mpsc::Sender<Proposal>>>,
    /// Those of a member with peers ask here before they read.
    reads: Option<mpsc::Sender<Ask>>,
    kept: KeptAlways,
    max_value_bytes: u64,
    ended: CancellationToken,
    _lock: Option<nix::fcntl::Flock<std::fs::File>>,
}

impl RaftStore {
    /// Opens the store, or makes an empty one. A lone member returns when all that was acknowledged is applied; one
    /// of several returns when it is ready to take part, and [`Store::barrier`] waits for the rest.
    pub async fn open(config: Config, observer: Arc<dyn Observer>) -> Result<Arc<RaftStore>, OpenError> {
        open::open(config, observer).await
    }

    /// Takes over a member that has been started.
    pub(crate) fn run(
        core: Arc<Core>,
        config: &Config,
        ended: CancellationToken,
        lock: Option<nix::fcntl::Flock<std::fs::File>>,
    ) -> Arc<RaftStore> {
        let (proposals, reads) = if config.peers.is_some() {
            let reads = reader::start(Arc::clone(&core));
            spawn(handover::watch(Arc::clone(&core), ended.clone()));
            (sequencer::start_with_peers(Arc::clone(&core)), Some(reads))
        } else {
            (sequencer::start(Arc::clone(&core)), None)
        };
        let kept = KeptAlways(if config.peers.is_some() { config.catch_up_bytes } else { 0 });
        let proposals = Mutex::new(Some(proposals));
        let after = (config.checkpoint_after_bytes, config.checkpoint_after_entries);
        spawn(keep_log_short(Arc::clone(&core), kept, after, ended.clone()));
        let max_value_bytes = config.max_value_bytes;
        Arc::new(RaftStore { core, proposals, reads, kept, max_value_bytes, ended, _lock: lock })
    }

    /// Saves the state and cuts the log behind it.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        snapshot(&self.core, self.kept).await
    }

    /// Writes the saved state anew and cuts the log, so that what was deleted gives its room back to the disk.
    async fn reclaim(&self) -> Result<(), StoreError> {
        let space = &self.core.space;
        let mut reclaimed = space.reclaimed.subscribe();
        let mut failures = self.core.log.failed_saves();
        space.reclaim.store(true, Ordering::Relaxed);
        snapshot(&self.core, self.kept).await?;
        // If there was nothing new to save, it is still under way.
        let unavailable = |reason: &str| StoreError::Unavailable { reason: reason.to_owned() };
        tokio::select! {
            done = reclaimed.changed() => done.map_err(|_| StoreError::Closed),
            _ = failures.changed() => Err(unavailable("the state could not be saved")),
            () = tokio::time::sleep(SAVE) => Err(unavailable("the state is still being saved")),
        }
    }

    /// The members of this store.
    pub fn members(&self) -> Members {
        Members::new(Arc::clone(&self.core))
    }
}

impl Drop for RaftStore {
    fn drop(&mut self) {
        self.ended.cancel();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let raft = self.core.raft.clone();
            runtime.spawn(async move {
                // One that was closed has ended already.
                let _ = raft.shutdown().await;
            });
        }
    }
}

/// The longest that a state may take to be saved.
const SAVE: Duration = Duration::from_secs(600);

/// How many bytes of the newest entries are kept whatever happens; none without peers.
#[derive(Clone, Copy, Debug)]
struct KeptAlways(u64);

/// Saves the state and cuts the log behind it.
async fn snapshot(core: &Core, kept: KeptAlways) -> Result<(), StoreError> {
    let unavailable = |reason: String| StoreError::Unavailable { reason };
    // openraft passes over the wish for a save while one is under way.
    let _saving = core.saving.lock().await;
    let raft = &core.raft;
    let Some(applied) = raft.metrics().borrow_watched().last_applied else { return Ok(()) };
    let began = std::time::Instant::now();
    let mut failures = core.log.failed_saves();
    loop {
        raft.trigger().snapshot().await.map_err(|error| unavailable(error.to_string()))?;
        let wait = raft.wait(Some(SAVE_AGAIN));
        tokio::select! {
            saved = wait.metrics(|m| m.snapshot >= Some(applied), "the state is saved") => match saved {
                Ok(_) => break,
                // One that was begun by somebody who did not wait for its end may have been under way.
                Err(WaitError::Timeout(..)) => {}
                Err(error @ WaitError::ShuttingDown) => return Err(unavailable(error.to_string())),
            },
            _ = failures.changed() => return Err(unavailable("the state could not be saved".to_owned())),
        }
    }
    if let Some(metrics) = &core.metrics {
        metrics.save.observe(began.elapsed().as_secs_f64());
    }
    core.log.saved();
    let kept = Kept { always: kept.0, at_most: core.saver.enough() };
    let Some(upto) = retention::cut(core, applied.index, kept) else { return Ok(()) };
    raft.trigger().purge_log(upto).await.map_err(|error| unavailable(error.to_string()))
}

/// Saves the state and cuts the log each time that it has grown by `after` bytes or entries. If that fails, it is
/// tried again when the log has grown by as much once more.
async fn keep_log_short(core: Arc<Core>, kept: KeptAlways, after: (u64, u64), ended: CancellationToken) {
    let mut progress = core.raft.metrics();
    let mut next = after;
    loop {
        tokio::select! {
            biased;
            () = ended.cancelled() => return,
            changed = progress.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        let entries = {
            let metrics = progress.borrow_watched();
            let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
            index(metrics.last_applied).saturating_sub(index(metrics.snapshot))
        };
        let grown = (core.log.bytes_since_purge(), entries);
        if grown.0 < next.0 && grown.1 < next.1 {
            continue;
        }
        match snapshot(&core, kept).await {
            Ok(()) => next = after,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the state could not be saved");
                next = (grown.0.saturating_add(after.0), grown.1.saturating_add(after.1));
            }
        }
    }
}

#[async_trait]
impl Store for RaftStore {
    async fn write(&self, write: Write) -> Result<Entry, StoreError> {
        let bytes = write.change.value().bytes.len() as u64;
        if bytes > self.max_value_bytes {
            let reason = format!("it has {bytes} bytes, and the limit is {}", self.max_value_bytes);
            return Err(StoreError::TooLarge { reason });
        }
        let proposals = self.proposals.lock().clone().ok_or(StoreError::Closed)?;
        if self.reads.is_some()
            && let Some(removed) = self.core.removed()
        {
            return Err(removed);
        }
        let (answer, outcome) = oneshot::channel();
        proposals.send(Proposal { write, answer }).await.map_err(|_| StoreError::Closed)?;
        let ended = |_| StoreError::OutcomeUnknown { reason: "the store has ended meanwhile".to_owned() };
        outcome.await.map_err(ended)?
    }

    async fn barrier(&self) -> Result<Revision, StoreError> {
        // One that follows could still learn what is current.
        if self.proposals.lock().is_none() {
            return Err(StoreError::Closed);
        }
        if let Some(reads) = &self.reads {
            let (ask, answer) = oneshot::channel();
            let asked = async {
                reads.send(ask).await.map_err(|_| StoreError::Closed)?;
                answer.await.map_err(|_| StoreError::Closed)?.map_err(|error| StoreError::clone(&error))
            };
            // The question before this one may have taken its whole time.
            let late = |_| StoreError::Unavailable {
                reason: "this member has not caught up with the leader in time".to_owned(),
            };
            return tokio::time::timeout(self.core.timing.request_timeout, asked).await.map_err(late)?;
        }
        self.core
            .raft
            .ensure_linearizable(ReadPolicy::LeaseRead)
            .await
            .map_err(|error| StoreError::Unavailable { reason: error.to_string() })?;
        Ok(self.core.engine.read().revision())
    }

    fn is_sole(&self) -> bool {
        self.reads.is_none()
    }

    fn snapshot(&self) -> Snapshot {
        self.core.engine.read().snapshot()
    }

    fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, HistoryError> {
        self.core.engine.read().snapshot_at(revision)
    }

    async fn alarms(&self) -> Vec<Alarm> {
        self.core.alarms().await
    }

    async fn defragment(&self) -> Result<(), StoreError> {
        self.reclaim().await
    }

    async fn failed(&self) -> Failure {
        let mut metrics = self.core.raft.metrics();
        loop {
            let state = metrics.borrow_watched().running_state.clone();
            match state {
                Ok(()) => {}
                Err(Fatal::Stopped) => return std::future::pending().await,
                Err(error) => return Failure { reason: chain(&error) },
            }
            let changed = tokio::select! {
                () = self.core.gone.cancelled() => {
                    return Failure { reason: REMOVED.to_owned() };
                }
                changed = metrics.changed() => changed,
            };
            if changed.is_err() {
                if self.ended.is_cancelled() {
                    return std::future::pending().await;
                }
                return Failure { reason: "the Raft member has ended without a word".to_owned() };
            }
        }
    }

    async fn close(&self) {
        self.proposals.lock().take();
        self.ended.cancel();
        if let Err(error) = self.core.raft.shutdown().await {
            tracing::warn!(%error, "the Raft member did not end cleanly");
        }
    }
}
