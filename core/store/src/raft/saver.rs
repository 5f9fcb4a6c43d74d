//! Saves states.
//!
//! A save writes what has changed to the checkpoint; the log may be cut behind it. The entries stay on the disk until
//! a whole snapshot includes them, which is written when they have come to outweigh it: so each byte of the state is
//! written a bounded number of times, and there are always two ways to make the state.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use parking_lot::Mutex;

use super::log_storage::LogStorage;
use super::recovery::Places;
use super::runtime::blocking;
use super::snapshot_file::{self, SnapshotError};
use super::space::Space;
use super::state_machine::Image;
use super::{LogId, SnapshotMeta};
use crate::Snapshot;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::disk::Disk;
use crate::raft_store::Config;

/// What sled may need beside what has changed.
const SLED: u64 = 8 << 20;
/// How long sled may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Why the changes were not saved.
#[derive(Debug, thiserror::Error)]
enum NotSaved {
    #[error("there is too little room on the disk")]
    NoRoom,
    #[error("it did not come to an end, and is given up until the store is opened again")]
    Stuck,
    #[error("start a thread for it")]
    Thread(#[source] io::Error),
    #[error(transparent)]
    Checkpoint(CheckpointError),
}

/// Saves states, one at a time.
pub(crate) struct Saver {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    snapshot_after_bytes: u64,
    /// `None` on a simulated disk, and once sled has not come back: then there are only whole snapshots.
    checkpoint: Mutex<Option<Checkpoint>>,
    snapshot_is_due: AtomicBool,
    space: Arc<Space>,
    /// The last entry in the whole snapshot of the folder. Who replaces that holds this, and never puts an older one
    /// in its place: the log is cut behind the newest.
    newest: Mutex<Option<LogId>>,
    log: LogStorage,
}

impl Saver {
    /// Takes over where states are saved, and lets go what the last snapshot has made needless.
    pub(crate) async fn start(
        disk: Arc<dyn Disk>,
        config: &Config,
        places: Places,
        log: LogStorage,
        space: Arc<Space>,
    ) -> Arc<Self> {
        release(&log, places.snapshot).await;
        Arc::new(Saver {
            disk,
            dir: config.dir.clone(),
            snapshot_after_bytes: config.snapshot_after_bytes,
            newest: Mutex::new(places.snapshot),
            checkpoint: Mutex::new(places.checkpoint),
            snapshot_is_due: AtomicBool::new(places.snapshot_is_damaged),
            space,
            log,
        })
    }

    /// Saves a state. When it returns, the log may be cut behind it.
    pub(crate) async fn save(self: &Arc<Self>, meta: SnapshotMeta, state: Snapshot) -> Result<(), io::Error> {
        let saver = Arc::clone(self);
        let included = run(move || saver.save_changes(&meta, &state)).await;
        if included.is_err() {
            self.log.save_failed();
        }
        release(&self.log, included?).await;
        Ok(())
    }

    /// Saves a state that does not come from the log. If it came as a file, that becomes the snapshot.
    pub(crate) async fn save_whole(
        self: &Arc<Self>,
        meta: SnapshotMeta,
        image: Image,
    ) -> Result<(), io::Error> {
        let saver = Arc::clone(self);
        let included = run(move || match image.received {
            Some(file) => saver.replace_snapshot(&meta, &file),
            None => saver.save_snapshot(&meta, &image.state),
        })
        .await?;
        release(&self.log, included).await;
        Ok(())
    }

    /// As many bytes of the log as a whole state is worth.
    pub(crate) fn enough(&self) -> u64 {
        self.snapshot_after_bytes.max(snapshot_file::size(&*self.disk, &self.dir))
    }

    /// Says up to where a whole snapshot now reaches, if one was written.
    fn save_changes(&self, meta: &SnapshotMeta, state: &Snapshot) -> Result<Option<LogId>, SnapshotError> {
        let newest = *self.newest.lock();
        if meta.last_log_id < newest {
            return Ok(newest);
        }
        let Some(checkpoint) = self.checkpoint.lock().take() else { return self.save_snapshot(meta, state) };
        let reclaim = self.space.reclaim.swap(false, Ordering::Relaxed);
        let saved = self.save_in_checkpoint(checkpoint, meta, state, reclaim);
        if let Err(error) = &saved {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "the checkpoint could not be written; a whole snapshot is written instead");
        }
        let least = self.enough();
        let due =
            reclaim || self.snapshot_is_due.load(Ordering::Relaxed) || self.log.retained_bytes() >= least;
        let outcome = if saved.is_err() || due { self.save_snapshot(meta, state) } else { Ok(None) };
        if reclaim && saved.is_ok() && outcome.is_ok() {
            self.space.reclaimed.send_modify(|times| *times += 1);
        }
        outcome
    }

    /// sled waits for ever once a write or a flush of it has failed, so that it is not asked if there is little room,
    /// and is not waited for for ever.
    fn save_in_checkpoint(
        &self,
        mut checkpoint: Checkpoint,
        meta: &SnapshotMeta,
        state: &Snapshot,
        reclaim: bool,
    ) -> Result<(), NotSaved> {
        let whole = if reclaim { state.bytes() } else { 0 };
        let needed = self.log.bytes_since_purge().max(whole).saturating_mul(2).saturating_add(SLED);
        if self.disk.free(&self.dir).is_ok_and(|free| free < needed) {
            *self.checkpoint.lock() = Some(checkpoint);
            return Err(NotSaved::NoRoom);
        }
        let (done, saved) = mpsc::sync_channel(1);
        let (meta, state) = (meta.clone(), state.clone());
        let work = move || {
            let outcome =
                if reclaim { checkpoint.rebuild(&meta, &state) } else { checkpoint.save(&meta, &state) };
            // Nobody waits any more if it took too long.
            let _ = done.send((checkpoint, outcome));
        };
        std::thread::Builder::new()
            .name("store-checkpoint".to_owned())
            .spawn(work)
            .map_err(NotSaved::Thread)?;
        let (checkpoint, outcome) = saved.recv_timeout(PATIENCE).map_err(|_| NotSaved::Stuck)?;
        *self.checkpoint.lock() = Some(checkpoint);
        outcome.map_err(NotSaved::Checkpoint)
    }

    fn replace_snapshot(
        &self,
        meta: &SnapshotMeta,
        file: &snapshot_file::Aside,
    ) -> Result<Option<LogId>, SnapshotError> {
        let mut newest = self.newest.lock();
        if meta.last_log_id < *newest {
            return Ok(*newest);
        }
        snapshot_file::adopt(&self.dir, file)?;
        *newest = meta.last_log_id;
        self.snapshot_is_due.store(false, Ordering::Relaxed);
        Ok(meta.last_log_id)
    }

    fn save_snapshot(&self, meta: &SnapshotMeta, state: &Snapshot) -> Result<Option<LogId>, SnapshotError> {
        let file = snapshot_file::write(Arc::clone(&self.disk), &self.dir, meta, state)?;
        self.replace_snapshot(meta, &file)
    }
}

async fn release(log: &LogStorage, upto: Option<LogId>) {
    if let Some(id) = upto {
        log.release(id.index).await;
    }
}

async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, io::Error> {
    blocking(work).await?.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::engine;
    use crate::log::{self, Log};
    use crate::raft::StoredMembership;
    use crate::{Change, Engine, Key, Precondition, Value, Write};

    async fn saver(dir: &std::path::Path) -> Arc<Saver> {
        let disk = RealDisk::shared();
        let (log, contents) = Log::open(log::Config::new(dir.join("log"))).unwrap();
        let log = LogStorage::start(&*disk, log, contents, None).unwrap();
        let places = Places { checkpoint: None, snapshot: None, snapshot_is_damaged: false };
        Saver::start(disk, &Config::new(dir), places, log, Arc::default()).await
    }

    fn state(writes: u64) -> (SnapshotMeta, Snapshot) {
        let mut engine = Engine::new(engine::Config::default());
        for number in 0..writes {
            engine.apply(&[Write {
                key: Key::new(format!("/{number}")).unwrap(),
                precondition: Precondition::Any,
                change: Change::Put(Value::plain("x")),
            }]);
        }
        let leader = openraft::vote::leader_id_adv::LeaderId { term: 1, node_id: 1 };
        let last = openraft::LogId::new(leader, writes);
        let meta = SnapshotMeta { last_log_id: Some(last), last_membership: StoredMembership::default() };
        (meta, engine.snapshot())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_older_state_never_takes_the_place_of_a_newer_one() {
        let dir = tempfile::tempdir().unwrap();
        let saver = saver(dir.path()).await;
        let index = || {
            let meta = snapshot_file::meta(&RealDisk, dir.path()).unwrap().unwrap();
            meta.last_log_id.unwrap().index
        };
        let (meta, image) = state(10);
        saver.save_whole(meta, image.into()).await.unwrap();
        // It was begun before the newer one came.
        let (meta, older) = state(5);
        saver.save(meta.clone(), older.clone()).await.unwrap();
        assert_eq!(index(), 10);
        let file = snapshot_file::write(RealDisk::shared(), dir.path(), &meta, &older).unwrap();
        assert_eq!(saver.replace_snapshot(&meta, &file).unwrap().unwrap().index, 10);
        assert_eq!(index(), 10);
        drop(file);
        let (meta, newer) = state(20);
        saver.save(meta, newer).await.unwrap();
        assert_eq!(index(), 20);
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
