//! The applied state in sled, so that starting again needs neither the whole log nor a whole snapshot, and saving
//! costs what has changed.
//!
//! # Guarantees
//! - [`Checkpoint::open`] gives back exactly a state that [`Checkpoint::save`] has completed, or says that it cannot.
//! - A save that does not complete - a crash, a full disk, a panic in sled - changes nothing of the one before.
//!
//! # How
//! sled 0.34 promises less than one needs (its flush does not reach the disk, large values go to files that nobody
//! syncs, it may panic on what a loss of power left), so little is asked of it:
//! - Entries are cut into chunks of at most 8 KiB ([`version`]), so that sled seldom makes a file of a page; what it
//!   makes is synced like all else.
//! - Each save has a generation, and writes versions beside those of the one before. Only when they are flushed,
//!   and every file and folder is synced, a small file of our own ([`current`]) names the new generation; only then
//!   are the older versions removed.
//! - sled gives nothing of what it has taken back to the disk. A database that has grown far beyond what it holds is
//!   therefore written anew, as another beside it, and the same small file names which one counts.
//! - That file also holds the number of entries and a fingerprint of them all, so that a lost one is noticed.
//! - Every call is guarded against panics, and sled is open only while it is used.
//!
//! What it holds can always be made again from the last snapshot and the log behind it, which are kept for that.

mod current;
#[cfg(test)]
mod tests;
mod version;

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;

use crate::raft::SnapshotMeta;
use crate::snapshot::Root;
use crate::{Entry, Key, Revision, Snapshot};
use current::Current;
use version::{Chunk, Version};

/// The folder of sled's files; a number follows but for the first.
const DATABASE: &str = "sled";
/// A database this many times as large as its contents, and this many bytes larger, is written anew.
const BLOAT: (u64, u64) = (3, 64 << 20);
/// What an entry takes beside its bytes, roughly.
const OVERHEAD: u64 = 128;
/// sled's cache, in bytes: it is read once at the start and then only written.
const CACHE: u64 = 4 << 20;
/// Roughly how many bytes are written at once.
const BATCH: usize = 1 << 20;

/// How often, and with which pauses, the lock of a database that is being closed is tried.
const LOCK_ATTEMPTS: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Why a checkpoint cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// sled refused.
    #[error("{action} the database")]
    Database {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: sled::Error,
    },
    /// sled panicked.
    #[error("{action} the database: it panicked: {message}")]
    Panicked {
        /// What was tried.
        action: &'static str,
        /// What it said.
        message: String,
    },
    /// What was saved cannot be read back.
    #[error("the checkpoint is damaged: {what}")]
    Damaged {
        /// How it shows.
        what: &'static str,
    },
}

/// A state that was read back.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) revision: Revision,
    pub(crate) meta: SnapshotMeta,
    pub(crate) entries: Vec<(Key, Entry)>,
}

/// The saved state of one member.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    dir: PathBuf,
    /// What was saved last: what differs from it has to be written.
    saved: Option<(Current, Root)>,
    /// Whether versions may be left over from a save that was not completed.
    unswept: bool,
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    move |source| CheckpointError::Io { action, path: path.to_owned(), source }
}

/// Calls sled. It may panic where others return an error.
fn guarded<T>(
    action: &'static str,
    call: impl FnOnce() -> Result<T, CheckpointError>,
) -> Result<T, CheckpointError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(CheckpointError::Panicked { action, message })
    })
}

fn database(action: &'static str) -> impl FnOnce(sled::Error) -> CheckpointError {
    move |source| CheckpointError::Database { action, source }
}

/// The name of a database's folder.
fn folder(number: u32) -> String {
    if number == 0 { DATABASE.to_owned() } else { format!("{DATABASE}-{number}") }
}

/// The bytes that a folder's files take on the disk.
fn allocated(dir: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { allocated(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(sum)
}

fn remove_folder(dir: &Path) -> Result<(), CheckpointError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", dir)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What the save that counts says of its place in the log, if there is one.
pub(crate) fn meta(dir: &Path) -> Result<Option<SnapshotMeta>, CheckpointError> {
    Ok(Current::read(dir)?.map(|current| current.meta))
}

/// Opens sled. Of a database that was closed, its threads may hold the lock for a moment longer; nobody else can,
/// because the folder of the store has a lock of its own.
fn open_database(dir: &Path, number: u32) -> Result<sled::Db, CheckpointError> {
    let config = sled::Config::new()
        .path(dir.join(folder(number)))
        .cache_capacity(CACHE)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(None);
    let mut attempts = LOCK_ATTEMPTS;
    loop {
        match config.open() {
            Err(sled::Error::Io(error)) if attempts > 0 && error.to_string().contains("acquire lock") => {
                attempts -= 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            result => return result.map_err(database("open")),
        }
    }
}

impl Checkpoint {
    /// Nothing has been saved; what is in the folder does not count.
    pub(crate) fn fresh(dir: PathBuf) -> Self {
        Checkpoint { dir, saved: None, unswept: false }
    }

    /// Reads back what was saved, if anything was.
    pub(crate) fn open(dir: PathBuf) -> Result<(Self, Option<Loaded>), CheckpointError> {
        let Some(current) = Current::read(&dir)? else { return Ok((Checkpoint::fresh(dir), None)) };
        let (entries, unswept) = guarded("read", || read(&open_database(&dir, current.database)?, &current))?;
        remove_other_databases(&dir, current.database);
        let root: Root = entries.iter().map(|(key, entry)| (key.clone(), Arc::new(entry.clone()))).collect();
        let loaded = Loaded { revision: current.revision, meta: current.meta.clone(), entries };
        Ok((Checkpoint { dir, saved: Some((current, root)), unswept }, Some(loaded)))
    }

    /// Says that the state that was read back is this one, which shares its memory with the engine.
    pub(crate) fn adopt(&mut self, state: &Snapshot) {
        if let Some((_, root)) = &mut self.saved {
            *root = state.root().clone();
        }
    }

    /// Moves a damaged checkpoint away, for whoever wants to look at it. The one moved away before is removed.
    pub(crate) fn set_aside(dir: &Path) -> Result<(), CheckpointError> {
        let aside = dir.with_extension("damaged");
        remove_folder(&aside)?;
        match fs::rename(dir, &aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("move away", dir)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The bytes that the database takes on the disk.
    pub(crate) fn allocated(&self) -> u64 {
        let number = self.saved.as_ref().map_or(0, |(current, _)| current.database);
        allocated(&self.dir.join(folder(number))).unwrap_or_default()
    }

    /// Saves a state: when this returns, it survives a loss of power. May take long; call it where that is fine.
    pub(crate) fn save(&mut self, meta: &SnapshotMeta, state: &Snapshot) -> Result<(), CheckpointError> {
        let content = state.bytes() + OVERHEAD * state.len() as u64;
        if self.saved.is_some() && self.allocated() > content * BLOAT.0 + BLOAT.1 {
            return self.rebuild(meta, state);
        }
        let unswept = std::mem::replace(&mut self.unswept, true);
        guarded("write", || self.save_in_database(meta, state, unswept))?;
        self.unswept = false;
        Ok(())
    }

    /// Saves a state in a database of its own, and removes the one before, which gives its room back to the disk.
    pub(crate) fn rebuild(&mut self, meta: &SnapshotMeta, state: &Snapshot) -> Result<(), CheckpointError> {
        let Some((before, _)) = self.saved.clone() else { return self.save(meta, state) };
        guarded("write", || self.save_anew(&before, meta, state))?;
        self.unswept = false;
        remove_folder(&self.dir.join(folder(before.database)))
    }

    fn save_anew(
        &mut self,
        before: &Current,
        meta: &SnapshotMeta,
        state: &Snapshot,
    ) -> Result<(), CheckpointError> {
        let mut next = Current {
            generation: before.generation + 1,
            database: before.database.wrapping_add(1),
            revision: state.revision(),
            meta: meta.clone(),
            ..Current::default()
        };
        remove_folder(&self.dir.join(folder(next.database)))?;
        let db = open_database(&self.dir, next.database)?;
        write_changes(&db, &Root::new(), state.root(), &mut next)?;
        sync(&db, &self.dir)?;
        next.write(&self.dir)?;
        self.saved = Some((next, state.root().clone()));
        Ok(())
    }

    fn save_in_database(
        &mut self,
        meta: &SnapshotMeta,
        state: &Snapshot,
        unswept: bool,
    ) -> Result<(), CheckpointError> {
        let nothing = Root::new();
        let (before, root) = match &self.saved {
            Some((current, root)) => (current.clone(), root),
            None => {
                self.start_over()?;
                (Current::default(), &nothing)
            }
        };
        let db = open_database(&self.dir, before.database)?;
        if unswept && self.saved.is_some() {
            sweep(&db, before.generation)?;
            sync(&db, &self.dir)?;
        }
        let mut next = Current {
            generation: before.generation + 1,
            revision: state.revision(),
            meta: meta.clone(),
            ..before
        };
        let changed = write_changes(&db, root, state.root(), &mut next)?;
        sync(&db, &self.dir)?;
        next.write(&self.dir)?;
        // From here on the new state is saved; what follows only gives room back.
        let generation = next.generation;
        self.saved = Some((next, state.root().clone()));
        let tombstones = remove_superseded(&db, &changed, generation)?;
        sync(&db, &self.dir)?;
        // A tombstone may go only when no older version can come back.
        tombstones.into_iter().try_for_each(|key| db.remove(key).map(drop)).map_err(database("write to"))?;
        db.flush().map(drop).map_err(database("flush"))
    }

    fn start_over(&self) -> Result<(), CheckpointError> {
        remove_folder(&self.dir)?;
        fs::create_dir_all(&self.dir).map_err(io_error("create the folder", &self.dir))
    }
}

/// Removes what a crash has left of databases that do not count.
fn remove_other_databases(dir: &Path, number: u32) {
    let counts = folder(number);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_database = name.to_str().is_some_and(|name| name.starts_with(DATABASE) && name != counts);
        if is_database && let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "an old database could not be removed");
        }
    }
}

/// Reads the versions that count. The flag says whether there are others.
fn read(db: &sled::Db, current: &Current) -> Result<(Vec<(Key, Entry)>, bool), CheckpointError> {
    let mut assembly = version::Assembly::new(current.generation);
    for item in db.iter() {
        let (key, value) = item.map_err(database("read"))?;
        assembly.add(&key, &value)?;
    }
    let (entries, others) = assembly.finish()?;
    let fingerprint =
        entries.iter().fold(0_u64, |sum, (key, entry)| sum.wrapping_add(fingerprint(key, entry)));
    if entries.len() as u64 != current.entries || fingerprint != current.fingerprint {
        return Err(CheckpointError::Damaged { what: "entries are missing or too many" });
    }
    Ok((entries, others))
}

/// A number that stands for an entry; their sum stands for a state.
fn fingerprint(key: &Key, entry: &Entry) -> u64 {
    let half = |seed: u32| {
        let mut hasher = crc32fast::Hasher::new_with_initial(seed);
        hasher.update(&entry.modified.get().to_le_bytes());
        hasher.update(key.as_str().as_bytes());
        u64::from(hasher.finalize())
    };
    half(0x6b65_656c) << 32 | half(0x736f_6e21)
}

/// Writes what differs between two states as versions of a new generation, and counts along.
fn write_changes(
    db: &sled::Db,
    before: &Root,
    after: &Root,
    next: &mut Current,
) -> Result<Vec<Key>, CheckpointError> {
    let mut writer = Writer { db, batch: sled::Batch::default(), bytes: 0 };
    let mut changed = Vec::new();
    for difference in before.diff(after) {
        let (key, old, new) = match difference {
            DiffItem::Add(key, new) => (key, None, Some(new)),
            DiffItem::Update { old: (_, old), new: (key, new) } => (key, Some(old), Some(new)),
            DiffItem::Remove(key, old) => (key, Some(old), None),
        };
        if let Some(old) = old {
            next.entries -= 1;
            next.fingerprint = next.fingerprint.wrapping_sub(fingerprint(key, old));
            changed.push(key.clone());
        }
        if let Some(new) = new {
            next.entries += 1;
            next.fingerprint = next.fingerprint.wrapping_add(fingerprint(key, new));
        }
        let version = Version { key, generation: next.generation };
        for (key, value) in version.chunks(new.map(Arc::as_ref))? {
            writer.insert(key, value)?;
        }
    }
    writer.write()?;
    Ok(changed)
}

/// Gathers writes.
struct Writer<'a> {
    db: &'a sled::Db,
    batch: sled::Batch,
    bytes: usize,
}

impl Writer<'_> {
    fn insert(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), CheckpointError> {
        self.bytes += key.len() + value.len();
        self.batch.insert(key, value);
        if self.bytes >= BATCH { self.write() } else { Ok(()) }
    }

    fn remove(&mut self, key: sled::IVec) -> Result<(), CheckpointError> {
        self.bytes += key.len();
        self.batch.remove(key);
        if self.bytes >= BATCH { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), CheckpointError> {
        self.bytes = 0;
        self.db.apply_batch(std::mem::take(&mut self.batch)).map_err(database("write to"))
    }
}

/// Removes the versions before `generation` of keys that have one of it. Returns the tombstones that are left.
fn remove_superseded(
    db: &sled::Db,
    changed: &[Key],
    generation: u64,
) -> Result<Vec<sled::IVec>, CheckpointError> {
    let mut writer = Writer { db, batch: sled::Batch::default(), bytes: 0 };
    let mut tombstones = Vec::new();
    for key in changed {
        for item in db.scan_prefix(version::prefix(key)) {
            let (key, value) = item.map_err(database("read"))?;
            let chunk = Chunk::read(&key)?;
            if chunk.generation < generation {
                writer.remove(key)?;
            } else if chunk.number == 0 && version::is_tombstone(&value)? {
                tombstones.push(key);
            }
        }
    }
    writer.write()?;
    Ok(tombstones)
}

/// Removes all versions that do not count: those of saves that were not completed, and superseded ones.
fn sweep(db: &sled::Db, generation: u64) -> Result<(), CheckpointError> {
    let mut writer = Writer { db, batch: sled::Batch::default(), bytes: 0 };
    let mut same_key: Vec<(sled::IVec, u64)> = Vec::new();
    let mut path: Vec<u8> = Vec::new();
    for item in db.iter() {
        let (key, _) = item.map_err(database("read"))?;
        let chunk = Chunk::read(&key)?;
        if chunk.path != path {
            drop_all_but_newest(&mut writer, &mut same_key)?;
            path = chunk.path.to_vec();
        }
        let of = chunk.generation;
        if of > generation {
            writer.remove(key)?;
        } else {
            same_key.push((key, of));
        }
    }
    drop_all_but_newest(&mut writer, &mut same_key)?;
    writer.write()
}

fn drop_all_but_newest(
    writer: &mut Writer<'_>,
    chunks: &mut Vec<(sled::IVec, u64)>,
) -> Result<(), CheckpointError> {
    let newest = chunks.iter().map(|(_, generation)| *generation).max();
    let old = chunks.drain(..).filter(|(_, generation)| Some(*generation) != newest);
    old.map(|(key, _)| key).try_for_each(|key| writer.remove(key))
}

/// Flushes sled, and then does what its flush leaves out: syncs every file and folder.
fn sync(db: &sled::Db, dir: &Path) -> Result<(), CheckpointError> {
    db.flush().map_err(database("flush"))?;
    sync_all(dir)?;
    let parent = dir.parent().unwrap_or(dir);
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(io_error("flush the folder", parent))
}

fn sync_all(dir: &Path) -> Result<(), CheckpointError> {
    for entry in fs::read_dir(dir).map_err(io_error("list the folder", dir))? {
        let path = entry.map_err(io_error("list the folder", dir))?.path();
        if path.is_dir() {
            sync_all(&path)?;
        } else {
            match File::open(&path).and_then(|file| file.sync_all()) {
                // sled removes files of its own accord.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.map_err(io_error("flush", &path))?,
            }
        }
    }
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(io_error("flush the folder", dir))
}
