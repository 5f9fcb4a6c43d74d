//! Saves states.
//!
//! A save writes what has changed to the checkpoint; the log may be cut behind it. The entries stay on the disk until
//! a whole snapshot includes them, which is written when they have come to outweigh it: so each byte of the state is
//! written a bounded number of times, and there are always two ways to make the state.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::log_storage::LogStorage;
use super::recovery::Places;
use super::runtime::blocking;
use super::snapshot_file::{self, SnapshotError};
use super::space::Space;
use super::state_machine::Image;
use super::{LogId, SnapshotMeta};
use crate::Snapshot;
use crate::checkpoint::Checkpoint;
use crate::disk::Disk;
use crate::raft_store::Config;

/// Saves states, one at a time.
pub(crate) struct Saver {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    snapshot_after_bytes: u64,
    /// `None` on a simulated disk, on which there are only whole snapshots.
    checkpoint: Option<Mutex<Checkpoint>>,
    snapshot_is_due: AtomicBool,
    space: Arc<Space>,
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
            checkpoint: places.checkpoint.map(Mutex::new),
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
            Some(file) => saver.adopt_snapshot(&meta, &file),
            None => saver.save_snapshot(&meta, &image.state),
        })
        .await?;
        release(&self.log, included).await;
        Ok(())
    }

    /// Says up to where a whole snapshot now reaches, if one was written.
    fn save_changes(&self, meta: &SnapshotMeta, state: &Snapshot) -> Result<Option<LogId>, SnapshotError> {
        let Some(checkpoint) = &self.checkpoint else { return self.save_snapshot(meta, state) };
        let reclaim = self.space.reclaim.swap(false, Ordering::Relaxed);
        let saved = match reclaim {
            true => checkpoint.lock().rebuild(meta, state),
            false => checkpoint.lock().save(meta, state),
        };
        if let Err(error) = &saved {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "the checkpoint could not be written; a whole snapshot is written instead");
        }
        let least = self.snapshot_after_bytes.max(snapshot_file::size(&*self.disk, &self.dir));
        let due =
            reclaim || self.snapshot_is_due.load(Ordering::Relaxed) || self.log.retained_bytes() >= least;
        let outcome = if saved.is_err() || due { self.save_snapshot(meta, state) } else { Ok(None) };
        if reclaim && saved.is_ok() && outcome.is_ok() {
            self.space.reclaimed.send_modify(|times| *times += 1);
        }
        outcome
    }

    fn adopt_snapshot(
        &self,
        meta: &SnapshotMeta,
        file: &snapshot_file::Received,
    ) -> Result<Option<LogId>, SnapshotError> {
        snapshot_file::adopt(&self.dir, file)?;
        self.snapshot_is_due.store(false, Ordering::Relaxed);
        Ok(meta.last_log_id)
    }

    fn save_snapshot(&self, meta: &SnapshotMeta, state: &Snapshot) -> Result<Option<LogId>, SnapshotError> {
        snapshot_file::save(&*self.disk, &self.dir, meta, state)?;
        self.snapshot_is_due.store(false, Ordering::Relaxed);
        Ok(meta.last_log_id)
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
