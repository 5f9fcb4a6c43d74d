//! A disk that forgets what was not synced.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::disk::{Disk, DiskFile};
use crate::raft::runtime::random;

/// What a loss of power leaves whole.
const SECTOR: usize = 512;

/// The disk of one member. It outlives the member's runs.
#[derive(Clone, Debug, Default)]
pub(super) struct SimulatedDisk {
    state: Arc<Mutex<State>>,
    /// Told when the power fails at a write.
    pub(super) failed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<PathBuf, Arc<Mutex<Contents>>>,
    /// What changes of names were not synced, in their order.
    unsynced: Vec<Rename>,
    /// The names that survive.
    durable: BTreeMap<PathBuf, Arc<Mutex<Contents>>>,
    /// After how many writes and syncs the power fails.
    left: Option<u64>,
    dead: bool,
    /// How many bytes all files may have together.
    room: Option<u64>,
    /// After how many writes and syncs one fails.
    flaw: Option<u64>,
    /// Whether one has failed in this run of the member.
    flawed: bool,
}

/// A name that stands for another file than before, or for none.
#[derive(Clone, Debug)]
struct Rename {
    gone: Option<PathBuf>,
    made: Option<(PathBuf, Arc<Mutex<Contents>>)>,
}

#[derive(Debug, Default)]
struct Contents {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Change::Bytes(at, bytes) => {
                let end = at + bytes.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[*at..end].copy_from_slice(bytes);
            }
            Change::Length(length) => to.resize(*length, 0),
        }
    }

    /// What is left of it when the power fails in the middle.
    fn torn(&self) -> Change {
        match self {
            Change::Bytes(at, bytes) => {
                let sectors = bytes.len().div_ceil(SECTOR);
                let kept = (random() as usize % (sectors + 1)) * SECTOR;
                Change::Bytes(*at, bytes[..kept.min(bytes.len())].to_vec())
            }
            Change::Length(length) => Change::Length(*length),
        }
    }
}

impl State {
    fn used(&self) -> u64 {
        self.names.values().map(|contents| contents.lock().bytes.len() as u64).sum()
    }

    fn rename(&mut self, rename: Rename) {
        rename.apply(&mut self.names);
        self.unsynced.push(rename);
    }
}

impl Rename {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Arc<Mutex<Contents>>>) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((path, contents)) = &self.made {
            names.insert(path.clone(), Arc::clone(contents));
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        let of = |path: &PathBuf| path.parent() == Some(dir);
        self.gone.as_ref().is_some_and(of) || self.made.as_ref().is_some_and(|(path, _)| of(path))
    }
}

fn power() -> io::Error {
    io::Error::other("the power has failed")
}

impl SimulatedDisk {
    /// Lets the power fail after so many writes and syncs.
    pub(super) fn fail_after(&self, writes: u64) {
        self.state.lock().left = Some(writes);
    }

    /// The power is gone: of what was not synced, some is there, some is not, and some in part.
    pub(super) fn lose_power(&self) {
        let mut state = self.state.lock();
        // Names change in order, as a journal keeps them.
        let kept = random() as usize % (state.unsynced.len() + 1);
        let State { durable, unsynced, .. } = &mut *state;
        unsynced.drain(..).take(kept).for_each(|rename| rename.apply(durable));
        for contents in durable.values() {
            let mut contents = contents.lock();
            let Contents { synced, unsynced, .. } = &mut *contents;
            for change in unsynced.drain(..) {
                match random() % 4 {
                    0 => {}
                    1 => change.torn().apply(synced),
                    _ => change.apply(synced),
                }
            }
            contents.bytes = contents.synced.clone();
        }
        state.names = state.durable.clone();
        state.left = None;
        state.dead = false;
        state.flaw = None;
        state.flawed = false;
    }

    /// The power will not fail after all.
    pub(super) fn spare(&self) {
        let mut state = self.state.lock();
        if !state.dead {
            state.left = None;
        }
        state.flaw = None;
    }

    /// Lets a write or a sync fail after so many of them.
    pub(super) fn flaw_after(&self, writes: u64) {
        self.state.lock().flaw = Some(writes);
    }

    /// Whether one has failed since the member was started.
    pub(super) fn is_flawed(&self) -> bool {
        self.state.lock().flawed
    }

    /// From here on there is room for so many bytes more; with `None` for all.
    pub(super) fn limit(&self, more: Option<u64>) {
        let mut state = self.state.lock();
        let used = state.used();
        state.room = more.map(|more| used + more);
    }

    pub(super) fn is_limited(&self) -> bool {
        self.state.lock().room.is_some()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// The process is gone, and the disk still has all.
    pub(super) fn end_process(&self) {
        let mut state = self.state.lock();
        state.left = None;
        state.dead = false;
        state.flaw = None;
        state.flawed = false;
    }

    /// Nothing is left.
    pub(super) fn wipe(&self) {
        *self.state.lock() = State::default();
    }

    /// Counts a write; says whether there is power for it.
    fn spend(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if let Some(left) = &mut state.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                state.dead = true;
                self.failed.notify_one();
            }
        }
        if state.dead {
            return Err(power());
        }
        if let Some(flaw) = &mut state.flaw {
            *flaw = flaw.saturating_sub(1);
            if *flaw == 0 {
                state.flaw = None;
                state.flawed = true;
                return Err(io::Error::other("the disk has failed"));
            }
        }
        Ok(())
    }

    /// Whether a file may grow by so many bytes.
    fn grow(&self, bytes: usize) -> io::Result<()> {
        let state = self.state.lock();
        match state.room {
            Some(room) if bytes > 0 && state.used() + bytes as u64 > room => {
                Err(io::ErrorKind::StorageFull.into())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn find(&self, path: &Path) -> io::Result<Arc<Mutex<Contents>>> {
        self.state.lock().names.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file(&self, contents: Arc<Mutex<Contents>>) -> Box<dyn DiskFile> {
        Box::new(SimulatedFile { disk: self.clone(), contents })
    }
}

impl Disk for SimulatedDisk {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.state.lock();
        Ok(state.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.spend()?;
        let contents = Arc::new(Mutex::new(Contents::default()));
        self.state.lock().rename(Rename { gone: None, made: Some((path.to_owned(), Arc::clone(&contents))) });
        Ok(self.file(contents))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.find(path)?))
    }

    fn read(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.find(path)?.lock().bytes.clone())))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.spend()?;
        self.find(path)?;
        self.state.lock().rename(Rename { gone: Some(path.to_owned()), made: None });
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.spend()?;
        let contents = self.find(from)?;
        self.state
            .lock()
            .rename(Rename { gone: Some(from.to_owned()), made: Some((to.to_owned(), contents)) });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.spend()?;
        let mut state = self.state.lock();
        let State { durable, unsynced, .. } = &mut *state;
        unsynced.retain(|rename| {
            let here = rename.is_in(dir);
            if here {
                rename.apply(durable);
            }
            !here
        });
        Ok(())
    }

    fn size(&self, path: &Path) -> u64 {
        self.find(path).map_or(0, |contents| contents.lock().bytes.len() as u64)
    }

    fn free(&self, _: &Path) -> io::Result<u64> {
        let state = self.state.lock();
        Ok(state.room.map_or(u64::MAX, |room| room.saturating_sub(state.used())))
    }

    fn is_simulated(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    contents: Arc<Mutex<Contents>>,
}

impl SimulatedFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let length = self.contents.lock().bytes.len();
        let grown = match &change {
            Change::Bytes(at, bytes) => (at + bytes.len()).saturating_sub(length),
            Change::Length(to) => to.saturating_sub(length),
        };
        self.disk.grow(grown)?;
        let spent = self.disk.spend();
        let mut contents = self.contents.lock();
        // The write at which the power fails may have reached the disk.
        change.apply(&mut contents.bytes);
        contents.unsynced.push(change);
        spent
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.spend()?;
        let mut contents = self.contents.lock();
        let Contents { synced, unsynced, .. } = &mut *contents;
        unsynced.drain(..).for_each(|change| change.apply(synced));
        Ok(())
    }
}

impl DiskFile for SimulatedFile {
    fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.contents.lock().bytes.clone())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Bytes(offset as usize, bytes.to_vec()))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(Change::Length(length as usize))
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let held = self.contents.lock().bytes.len();
        self.change(Change::Length(held.max(length as usize)))
    }
}
