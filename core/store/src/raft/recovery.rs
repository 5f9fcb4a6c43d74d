//! Finds the newest saved state at the start, or makes it again.
//!
//! There are two: the checkpoint, and the last whole snapshot, which is older. All entries behind the snapshot are on
//! the disk, those included that were cut off behind the checkpoint; so if the checkpoint is damaged or behind, the
//! snapshot and those entries make the same state.

use std::path::Path;

use openraft::EntryPayload;

use super::log_storage::{decode, purged};
use super::snapshot_file;
use super::{LogEntry, LogId, SnapshotMeta, StoredMembership};
use crate::Engine;
use crate::checkpoint::{Checkpoint, Loaded};
use crate::disk::Disk;
use crate::engine::Config;
use crate::log::{Contents, Log};
use crate::raft_store::OpenError;

/// A state, and its place in the log.
pub(crate) struct Recovered {
    pub(crate) engine: Engine,
    pub(crate) meta: SnapshotMeta,
}

/// Where later states are saved.
pub(crate) struct Places {
    /// `None` on a simulated disk.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// The last entry that the whole snapshot includes.
    pub(crate) snapshot: Option<LogId>,
    /// Whether the snapshot cannot be read, so that another one is due.
    pub(crate) snapshot_is_damaged: bool,
}

/// The folder of the checkpoint.
pub(crate) const CHECKPOINT: &str = "state";

/// Finds the newest state in a folder that goes with the log.
pub(crate) fn recover(
    disk: &dyn Disk,
    dir: &Path,
    config: Config,
    log: &Log,
    contents: &Contents,
) -> Result<(Recovered, Places), OpenError> {
    let cut = purged(contents).map_err(OpenError::Start)?;
    let snapshot = snapshot_file::meta(disk, dir);
    if let Err(error) = &snapshot {
        tracing::error!(error = error as &dyn std::error::Error, "the snapshot of the store cannot be read");
    }
    let snapshot_is_damaged = snapshot.is_err();
    let snapshot = snapshot.ok().flatten().and_then(|meta| meta.last_log_id);
    if disk.is_simulated() {
        let recovered = rebuild(disk, dir, config, cut, log)?;
        return Ok((recovered, Places { checkpoint: None, snapshot, snapshot_is_damaged }));
    }
    let place = dir.join(CHECKPOINT);
    let checkpoint = Checkpoint::open(place.clone());
    if let Err(error) = &checkpoint {
        let error = error as &dyn std::error::Error;
        tracing::error!(error, "the checkpoint of the store cannot be read; it is made again from the log");
    }
    let damaged = checkpoint.is_err();
    if let Ok((mut checkpoint, Some(loaded))) = checkpoint
        && loaded.meta.last_log_id >= cut.max(snapshot)
    {
        let recovered = restore(config, loaded);
        checkpoint.adopt(&recovered.engine.snapshot());
        let checkpoint = Some(checkpoint);
        return Ok((recovered, Places { checkpoint, snapshot, snapshot_is_damaged }));
    }
    let recovered = rebuild(disk, dir, config, cut, log)?;
    if damaged {
        Checkpoint::set_aside(&place)?;
    }
    let checkpoint = Some(Checkpoint::fresh(place));
    Ok((recovered, Places { checkpoint, snapshot, snapshot_is_damaged }))
}

fn restore(config: Config, loaded: Loaded) -> Recovered {
    Recovered { engine: Engine::restore(config, loaded.revision, loaded.entries), meta: loaded.meta }
}

/// Applies to the whole snapshot the entries that were cut off behind it.
fn rebuild(
    disk: &dyn Disk,
    dir: &Path,
    config: Config,
    cut: Option<LogId>,
    log: &Log,
) -> Result<Recovered, OpenError> {
    let mut recovered = match snapshot_file::load(disk, dir)? {
        Some(loaded) => restore(config, loaded),
        None => Recovered { engine: Engine::new(config), meta: SnapshotMeta::default() },
    };
    let from = recovered.meta.last_log_id.map_or(0, |id| id.index + 1);
    let Some(cut) = cut.filter(|cut| cut.index >= from) else { return Ok(recovered) };
    let retained = log.retained()?;
    for index in from..=cut.index {
        let bytes = retained.get(&index).ok_or(OpenError::Lost { from: index })?;
        let entry: LogEntry = decode(bytes).map_err(OpenError::Start)?;
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(batch) => drop(recovered.engine.apply_within(batch.quota, &batch.writes)),
            EntryPayload::Membership(membership) => {
                recovered.meta.last_membership = StoredMembership::new(Some(entry.log_id), membership);
            }
        }
        recovered.meta.last_log_id = Some(entry.log_id);
    }
    Ok(recovered)
}
