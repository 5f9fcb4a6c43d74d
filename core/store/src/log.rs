//! The durable point: checksummed frames in preallocated segment files.
//!
//! # Guarantees
//! - When [`Log::append`] returns, its records are on the disk (`fdatasync`), and so is the file that holds them.
//! - A frame is one group of records: after a crash all of a group is there, or none of it.
//! - A torn tail, which was never acknowledged, is cut. Damage before the tail is refused with the file and the
//!   offset, never skipped.
//!
//! # Assumptions
//! One writer at a time, and a disk that keeps what `fdatasync` acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, RealDisk};
use frame::Frame;
use segment::{Ending, Segment};

mod frame;
mod segment;
#[cfg(test)]
mod tests;

/// Where the log is and how it is cut into files.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder that holds nothing but the log.
    pub dir: PathBuf,
    /// The size of a segment in bytes. A group that is larger gets a segment of its own size.
    pub segment_bytes: u64,
}

impl Config {
    /// The defaults: segments of 16 MiB.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Config { dir: dir.into(), segment_bytes: 16 << 20 }
    }
}

/// A small value that is kept beside the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Slot {
    /// The vote of this member.
    Vote,
    /// The last entry known to be committed.
    Committed,
    /// The last entry that was purged.
    Purged,
    /// How often the member was started.
    Run,
}

/// A change of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// Entries with consecutive indexes.
    Append {
        /// The index of the first.
        first: u64,
        /// The entries.
        entries: Vec<Bytes>,
    },
    /// Entries with this index and above are void.
    Truncate {
        /// The first void index.
        from: u64,
    },
    /// Entries up to this index, inclusive, are no longer needed.
    Purge {
        /// The last purged index.
        upto: u64,
    },
    /// A small value is set.
    Set {
        /// Which.
        slot: Slot,
        /// To what.
        value: Bytes,
    },
}

/// What the log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The entries by index.
    pub entries: BTreeMap<u64, Bytes>,
    /// The small values.
    pub slots: BTreeMap<Slot, Bytes>,
}

impl Contents {
    /// Entries up to `unneeded`, inclusive, are left out.
    fn apply(&mut self, record: Record, unneeded: Option<u64>) {
        match record {
            Record::Append { first, entries } => {
                let needed = |(index, _): &(u64, Bytes)| unneeded.is_none_or(|upto| *index > upto);
                self.entries.extend((first..).zip(entries).filter(needed));
            }
            Record::Truncate { from } => {
                self.entries.split_off(&from);
            }
            Record::Purge { upto } => self.entries = self.entries.split_off(&(upto.saturating_add(1))),
            Record::Set { slot, value } => {
                self.slots.insert(slot, value);
            }
        }
    }
}

/// Why the log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
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
    /// What was acknowledged cannot be read back.
    #[error(
        "the log is damaged in {} at byte {offset}: {what}; run `keelson members rebuild` if there are other members, or `keelson snapshot restore` if there are none",
        path.display()
    )]
    Damaged {
        /// In which file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// How it shows.
        what: &'static str,
    },
    /// An earlier flush failed; what the disk holds since is not known before it is opened again.
    #[error("an earlier flush of the log failed; open it again")]
    Poisoned,
    /// A record could not be encoded.
    #[error("encode a record of the log")]
    Encode(#[source] postcard::Error),
}

impl LogError {
    /// Whether there was no room on the disk.
    pub fn is_no_space(&self) -> bool {
        matches!(self, LogError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
        move |source| LogError::Io { action, path: path.to_owned(), source }
    }
}

/// The log of one member.
#[derive(Debug)]
pub struct Log {
    config: Config,
    disk: Arc<dyn Disk>,
    sealed: VecDeque<Sealed>,
    active: Segment,
    spare: Option<Segment>,
    /// What a new segment starts with, so that older ones can be removed.
    slots: BTreeMap<Slot, Bytes>,
    purged: Option<u64>,
    /// Purged entries up to this index may leave the disk; later ones are kept although they are purged.
    released: Option<u64>,
    active_last: Option<u64>,
    poisoned: bool,
}

/// The records of one frame.
type Group = Vec<Record>;

/// A segment that is no longer written to.
#[derive(Debug)]
struct Sealed {
    path: PathBuf,
    /// The largest index of an entry in it.
    last: Option<u64>,
    bytes: u64,
}

/// The largest index of an entry among records.
fn last_index<'a>(records: impl IntoIterator<Item = &'a Record>) -> Option<u64> {
    records
        .into_iter()
        .filter_map(|record| match record {
            Record::Append { first, entries } => Some(first + (entries.len() as u64).saturating_sub(1)),
            Record::Truncate { .. } | Record::Purge { .. } | Record::Set { .. } => None,
        })
        .max()
}

/// The largest purged index among records.
fn last_purged<'a>(records: impl IntoIterator<Item = &'a Record>) -> Option<u64> {
    records
        .into_iter()
        .filter_map(|record| match record {
            Record::Purge { upto } => Some(*upto),
            Record::Append { .. } | Record::Truncate { .. } | Record::Set { .. } => None,
        })
        .max()
}

impl Log {
    /// Opens the log, or makes an empty one, and reads it whole.
    pub fn open(config: Config) -> Result<(Log, Contents), LogError> {
        Log::open_on(RealDisk::shared(), config)
    }

    /// Opens the log on a disk.
    pub(crate) fn open_on(disk: Arc<dyn Disk>, config: Config) -> Result<(Log, Contents), LogError> {
        disk.create_dir_all(&config.dir).map_err(LogError::io("create the folder", &config.dir))?;
        let paths = segment::list(&*disk, &config.dir)?;
        let mut contents = Contents::default();
        let mut purged = None;
        let mut sealed = VecDeque::new();
        let mut active: Option<(Segment, Option<u64>)> = None;
        // What the newest segment says by itself.
        let mut newest = Contents::default();
        let count = paths.len();
        // The newest segment says what was purged: entries before that need not be gathered.
        let unneeded = match paths.last() {
            Some(newest) => Log::records(&*disk, newest, None, Ending::MayBeTorn)?
                .and_then(|(_, records)| last_purged(records.iter().flatten())),
            None => None,
        };
        for (place, path) in paths.into_iter().enumerate() {
            let ending = if place + 1 == count { Ending::MayBeTorn } else { Ending::Whole };
            let expected = active.as_ref().map(|(segment, _)| segment.next_sequence());
            let Some((segment, groups)) = Log::records(&*disk, &path, expected, ending)? else { continue };
            let last = last_index(groups.iter().flatten());
            purged = purged.max(last_purged(groups.iter().flatten()));
            newest = Contents::default();
            let small = groups.iter().flatten().filter(|record| matches!(record, Record::Set { .. }));
            small.cloned().for_each(|record| newest.apply(record, None));
            for record in groups.into_iter().flatten() {
                contents.apply(record, unneeded);
            }
            if let Some((older, last)) = active.replace((segment, last)) {
                sealed.push_back(Sealed { last, bytes: older.capacity(), path: older.into_path() });
            }
        }
        let (active, active_last) = match active {
            Some(found) => found,
            None => (Segment::create(&*disk, &config.dir, 1, config.segment_bytes)?, None),
        };
        // An earlier run may have ended between a write and its flush. What was read is built on from here, so it has to
        // be there after a loss of power too: frames, and the names of segments.
        active.sync()?;
        disk.sync_dir(&config.dir).map_err(LogError::io("flush the folder", &config.dir))?;
        let slots = contents.slots.clone();
        let mut log = Log {
            config,
            disk,
            sealed,
            active,
            spare: None,
            slots,
            purged,
            released: None,
            active_last,
            poisoned: false,
        };
        // Older segments may be removed at any time, so that what only they say is said again.
        if newest.slots != log.slots {
            let head = log.head()?;
            log.write(&head)?;
        }
        Ok((log, contents))
    }

    /// All entries that are still on the disk, purged ones included.
    pub fn retained(&self) -> Result<BTreeMap<u64, Bytes>, LogError> {
        let mut contents = Contents::default();
        let paths = self.sealed.iter().map(|sealed| sealed.path.as_path()).chain([self.active.path()]);
        for path in paths {
            let Some((_, groups)) = Log::records(&*self.disk, path, None, Ending::MayBeTorn)? else {
                continue;
            };
            for record in groups.into_iter().flatten() {
                if !matches!(record, Record::Purge { .. }) {
                    contents.apply(record, None);
                }
            }
        }
        Ok(contents.entries)
    }

    /// Purged entries up to `upto`, inclusive, may leave the disk.
    pub fn release(&mut self, upto: u64) {
        self.released = self.released.max(Some(upto));
        self.remove_purged();
    }

    /// Makes sure that a group of `bytes` will find room, whatever happens to the disk. When this fails, nothing
    /// has changed and what is there stays readable.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), LogError> {
        let needed = bytes.saturating_add(frame::OVERHEAD);
        if self.active.room() >= needed {
            return Ok(());
        }
        let head = self.head_bytes()?;
        let wanted = needed.saturating_add(head).saturating_add(segment::HEADER_BYTES);
        let size = self.config.segment_bytes.max(wanted);
        match &mut self.spare {
            Some(spare) if spare.capacity() >= wanted => {}
            // What it holds already may be counted on.
            Some(spare) => spare.extend(size)?,
            None => self.spare = Some(Segment::prepare(&*self.disk, &self.config.dir, size)?),
        }
        Ok(())
    }

    /// For how many bytes of groups, their overhead included, there is room, whatever happens to the disk.
    pub fn room(&self) -> u64 {
        let spare = self.spare.as_ref().map_or(0, Segment::capacity);
        let head = self.head_bytes().unwrap_or(u64::MAX).saturating_add(segment::HEADER_BYTES);
        self.active.room().max(spare.saturating_sub(head)).saturating_sub(frame::OVERHEAD)
    }

    /// The size of a segment.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.config.segment_bytes
    }

    /// Appends a group of records and makes it durable.
    pub fn append(&mut self, records: &[Record]) -> Result<(), LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        let payload = postcard::to_allocvec(records).map_err(LogError::Encode)?;
        self.reserve(payload.len() as u64)?;
        if self.active.room() < payload.len() as u64 + frame::OVERHEAD {
            self.rotate()?;
        }
        self.write(&payload)?;
        self.note(records);
        Ok(())
    }

    /// Bytes written that are still on the disk.
    pub fn retained_bytes(&self) -> u64 {
        self.sealed.iter().map(|sealed| sealed.bytes).sum::<u64>() + self.active.offset
    }

    fn write(&mut self, payload: &[u8]) -> Result<(), LogError> {
        self.active.append(payload).inspect_err(|_| self.poisoned = true)
    }

    /// Takes up what the records mean for the files.
    fn note(&mut self, records: &[Record]) {
        self.active_last = self.active_last.max(last_index(records));
        for record in records {
            match record {
                Record::Append { .. } | Record::Truncate { .. } => {}
                Record::Purge { upto } => {
                    self.purged = self.purged.max(Some(*upto));
                    self.remove_purged();
                }
                Record::Set { slot, value } => {
                    self.slots.insert(*slot, value.clone());
                }
            }
        }
    }

    /// Removes leading segments that hold no needed entry. Their small values stand in the active one's head.
    fn remove_purged(&mut self) {
        while let Some(oldest) = self.sealed.front() {
            let free = self.purged.min(self.released);
            let needed = oldest.last.is_some_and(|last| free.is_none_or(|free| last > free));
            if needed {
                break;
            }
            // A file that cannot be removed is tried again; none behind it may go before, for that would leave a gap,
            // also if the power fails: so each has gone for good before the next does.
            let removed = match self.disk.remove(&oldest.path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            };
            if let Err(error) = removed.and_then(|()| self.disk.sync_dir(&self.config.dir)) {
                tracing::warn!(path = %oldest.path.display(), %error, "a purged segment could not be removed");
                break;
            }
            self.sealed.pop_front();
        }
    }

    fn rotate(&mut self) -> Result<(), LogError> {
        let head = self.head()?;
        let prepared = match self.spare.take() {
            Some(spare) => spare,
            None => Segment::prepare(&*self.disk, &self.config.dir, self.config.segment_bytes)?,
        };
        let sequence = self.active.next_sequence();
        // If this fails in the middle, the disk may hold a segment of this name.
        self.poisoned = true;
        let next = prepared.start(&*self.disk, &self.config.dir, sequence, Some(&head))?;
        self.disk.sync_dir(&self.config.dir).map_err(LogError::io("flush the folder", &self.config.dir))?;
        self.poisoned = false;
        let older = std::mem::replace(&mut self.active, next);
        let last = self.active_last.take();
        self.sealed.push_back(Sealed { last, bytes: older.offset, path: older.into_path() });
        Ok(())
    }

    fn head(&self) -> Result<Vec<u8>, LogError> {
        let mut records: Vec<Record> = self
            .slots
            .iter()
            .map(|(slot, value)| Record::Set { slot: *slot, value: value.clone() })
            .collect();
        records.extend(self.purged.map(|upto| Record::Purge { upto }));
        postcard::to_allocvec(&records).map_err(LogError::Encode)
    }

    fn head_bytes(&self) -> Result<u64, LogError> {
        Ok(self.head()?.len() as u64 + frame::OVERHEAD)
    }

    /// Reads a segment; its records group by group.
    fn records(
        disk: &dyn Disk,
        path: &Path,
        expected: Option<u64>,
        ending: Ending,
    ) -> Result<Option<(Segment, Vec<Group>)>, LogError> {
        let Some((segment, frames)) = Segment::open(disk, path, expected, ending)? else { return Ok(None) };
        let groups = frames.iter().map(|frame| Log::decode(path, frame)).collect::<Result<_, _>>()?;
        Ok(Some((segment, groups)))
    }

    fn decode(path: &Path, frame: &Frame) -> Result<Vec<Record>, LogError> {
        postcard::from_bytes(&frame.payload).map_err(|_| LogError::Damaged {
            path: path.to_owned(),
            offset: frame.offset,
            what: "a frame with a right checksum holds no records",
        })
    }
}
