//! One file of the log.

use std::io;
use std::path::{Path, PathBuf};

use super::LogError;
use super::frame::{self, Found, Frame};
use crate::disk::{Disk, DiskFile};
use crate::raft::runtime::random;

/// `magic | salt u32 | checksum u32 | first sequence u64`.
pub(super) const HEADER_BYTES: u64 = 24;
const MAGIC: &[u8; 8] = b"KEELLOG1";
const SUFFIX: &str = "log";
const PREPARED: &str = "prepared.tmp";

/// What the end of a segment may look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Another segment follows: all that was written is whole.
    Whole,
    /// It is the last: a crash may have torn its last frame.
    MayBeTorn,
}

/// A file that frames are appended to.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    salt: u32,
    sequence: u64,
    pub(super) offset: u64,
    capacity: u64,
}

/// The segments of a folder in their order. What a crash left half-made is removed.
pub(super) fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, LogError> {
    let mut paths = Vec::new();
    for path in disk.list(dir).map_err(LogError::io("list the folder", dir))? {
        if path.file_name().is_some_and(|name| name == PREPARED) {
            disk.remove(&path).map_err(LogError::io("remove", &path))?;
        } else if path.extension().is_some_and(|extension| extension == SUFFIX) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

impl Segment {
    /// A file with all of its room allocated, not yet part of the log.
    pub(super) fn prepare(disk: &dyn Disk, dir: &Path, capacity: u64) -> Result<Segment, LogError> {
        let path = dir.join(PREPARED);
        let file = disk.create(&path).map_err(LogError::io("create", &path))?;
        if let Err(source) = file.allocate(capacity) {
            // Give back what was got: a disk that is full must not be kept full by this.
            let _ = disk.remove(&path);
            return Err(LogError::Io { action: "allocate room for", path, source });
        }
        Ok(Segment { path, file, salt: rand_salt(), sequence: 0, offset: 0, capacity })
    }

    /// Makes more room in a file that is not yet part of the log. If that fails it keeps the room that it has.
    pub(super) fn extend(&mut self, capacity: u64) -> Result<(), LogError> {
        if let Err(source) = self.file.allocate(capacity) {
            self.file.set_len(self.capacity).map_err(LogError::io("shorten", &self.path))?;
            let path = self.path.clone();
            return Err(LogError::Io { action: "allocate room for", path, source });
        }
        self.capacity = capacity;
        Ok(())
    }

    /// Makes a prepared file the segment whose first frame has number `sequence` and holds `head`, if there is one.
    /// It gets its name when all of that is durable, so a segment never lacks its head.
    pub(super) fn start(
        mut self,
        disk: &dyn Disk,
        dir: &Path,
        sequence: u64,
        head: Option<&[u8]>,
    ) -> Result<Segment, LogError> {
        self.file.write_all_at(&header(self.salt, sequence), 0).map_err(LogError::io("write", &self.path))?;
        self.sequence = sequence;
        self.offset = HEADER_BYTES;
        if let Some(head) = head {
            self.append(head)?;
        }
        self.file.sync_all().map_err(LogError::io("flush", &self.path))?;
        let path = dir.join(format!("{sequence:020}.{SUFFIX}"));
        disk.rename(&self.path, &path).map_err(LogError::io("name", &path))?;
        self.path = path;
        Ok(self)
    }

    /// Makes the first segment of a log.
    pub(super) fn create(
        disk: &dyn Disk,
        dir: &Path,
        sequence: u64,
        capacity: u64,
    ) -> Result<Segment, LogError> {
        let segment = Segment::prepare(disk, dir, capacity)?.start(disk, dir, sequence, None)?;
        disk.sync_dir(dir).map_err(LogError::io("flush the folder", dir))?;
        Ok(segment)
    }

    /// Reads a segment back. `expected` is the number that its first frame must have where an older segment says so.
    /// `None`: nothing in it was ever acknowledged, and it has been removed.
    pub(super) fn open(
        disk: &dyn Disk,
        path: &Path,
        expected: Option<u64>,
        ending: Ending,
    ) -> Result<Option<(Segment, Vec<Frame>)>, LogError> {
        let mut file = disk.open(path).map_err(LogError::io("open", path))?;
        let bytes = file.read_to_end().map_err(LogError::io("read", path))?;
        let damaged =
            |offset: usize, what| LogError::Damaged { path: path.to_owned(), offset: offset as u64, what };
        let Some((salt, first)) = read_header(&bytes) else {
            return Err(damaged(0, "the header is not right"));
        };
        if expected.is_some_and(|expected| expected != first) {
            return Err(damaged(0, "the segment does not follow the one before it"));
        }
        let mut frames = Vec::new();
        let mut offset = HEADER_BYTES as usize;
        let mut sequence = first;
        let torn = loop {
            match frame::read(salt, &bytes[offset..]) {
                Found::Frame { sequence: found, payload, size } if found == sequence => {
                    let payload = bytes[offset + payload.start..offset + payload.end].to_vec();
                    frames.push(Frame { offset: offset as u64, sequence, payload });
                    sequence += 1;
                    offset += size;
                }
                Found::Frame { .. } => return Err(damaged(offset, "a frame is out of sequence")),
                Found::Nothing => break bytes[offset..].iter().any(|byte| *byte != 0),
                Found::Broken => break true,
            }
        };
        if torn {
            if ending == Ending::Whole || later_frame(salt, &bytes, offset, sequence) {
                return Err(damaged(offset, "a checksum is wrong and acknowledged records follow"));
            }
            tracing::warn!(path = %path.display(), offset, "an unacknowledged tail of the log is cut");
            cut(file.as_ref(), offset as u64, bytes.len() as u64)
                .map_err(LogError::io("cut the tail of", path))?;
        }
        let segment = Segment {
            path: path.to_owned(),
            file,
            salt,
            sequence,
            offset: offset as u64,
            capacity: bytes.len() as u64,
        };
        Ok(Some((segment, frames)))
    }

    /// Makes durable whatever can be read of it.
    pub(super) fn sync(&self) -> Result<(), LogError> {
        self.file.sync_all().map_err(LogError::io("flush", &self.path))
    }

    /// Writes one frame and flushes it.
    pub(super) fn append(&mut self, payload: &[u8]) -> Result<(), LogError> {
        let bytes = frame::encode(self.salt, self.sequence, payload).ok_or_else(|| LogError::Io {
            action: "write a group of this size to",
            path: self.path.clone(),
            source: io::ErrorKind::InvalidInput.into(),
        })?;
        self.file
            .write_all_at(&bytes, self.offset)
            .and_then(|()| self.file.sync_data())
            .map_err(LogError::io("append to", &self.path))?;
        self.sequence += 1;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.offset)
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn into_path(self) -> PathBuf {
        self.path
    }
}

/// Whether a frame that was written after the broken one stands behind it: then the break is no torn tail.
fn later_frame(salt: u32, bytes: &[u8], from: usize, sequence: u64) -> bool {
    (from + 8..bytes.len()).step_by(8).any(|at| match frame::read(salt, &bytes[at..]) {
        Found::Frame { sequence: found, .. } => found > sequence,
        Found::Nothing | Found::Broken => false,
    })
}

fn cut(file: &dyn DiskFile, offset: u64, capacity: u64) -> io::Result<()> {
    file.set_len(offset)?;
    file.allocate(capacity)?;
    file.sync_all()
}

fn rand_salt() -> u32 {
    let number = random();
    (number ^ (number >> 32)) as u32
}

fn header(salt: u32, sequence: u64) -> [u8; HEADER_BYTES as usize] {
    let mut bytes = [0; HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&salt.to_le_bytes());
    bytes[12..16].copy_from_slice(&header_checksum(salt, sequence).to_le_bytes());
    bytes[16..].copy_from_slice(&sequence.to_le_bytes());
    bytes
}

fn read_header(bytes: &[u8]) -> Option<(u32, u64)> {
    let (head, _) = bytes.split_first_chunk::<{ HEADER_BYTES as usize }>()?;
    let salt = u32::from_le_bytes(head[8..12].try_into().ok()?);
    let sequence = u64::from_le_bytes(head[16..].try_into().ok()?);
    (*head == header(salt, sequence)).then_some((salt, sequence))
}

fn header_checksum(salt: u32, sequence: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&sequence.to_le_bytes());
    hasher.finalize()
}
