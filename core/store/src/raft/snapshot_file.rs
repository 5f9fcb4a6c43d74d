//! The whole state in one file: `magic | frame*`, a frame being `length u32 | checksum u32 | payload`. The first
//! frame is the head, the last one the count of entries; a file without its last frame is not a snapshot.

use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::SnapshotMeta;
use super::runtime::random;
use crate::checkpoint::Loaded;
use crate::disk::{Disk, Sequential};
use crate::{Entry, Key, Revision, Snapshot};

const MAGIC: &[u8; 8] = b"KEELSNP1";
const NAME: &str = "state.snapshot";
/// The extension of files aside.
const INCOMING: &str = "incoming";
/// Larger than any entry that is accepted; a length beyond it is damage, not a reason to allocate.
const MAX_FRAME: u32 = 64 << 20;

/// Why a snapshot cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
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
    /// What was written cannot be read back.
    #[error("the snapshot {} is damaged: {what}; run `keelson members rebuild` if there are other members, or `keelson snapshot restore` if there are none", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// How it shows.
        what: &'static str,
    },
}

impl SnapshotError {
    /// Whether there was no room on the disk.
    pub(crate) fn is_no_space(&self) -> bool {
        matches!(self, SnapshotError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

#[derive(Serialize, Deserialize)]
struct Head {
    revision: Revision,
    meta: SnapshotMeta,
}

#[derive(Serialize, Deserialize)]
enum Frame {
    Head(Box<Head>),
    Entry(Key, Entry),
    End { count: u64 },
}

/// Writes a state to a file aside; when this returns, it is durable.
pub(crate) fn write(
    disk: Arc<dyn Disk>,
    dir: &Path,
    meta: &SnapshotMeta,
    state: &Snapshot,
) -> Result<Aside, SnapshotError> {
    let mut receiving = Receiving::start(disk, dir, random())?;
    encode(&mut receiving.file, meta, state)
        .map_err(|source| receiving.aside.failed("write the snapshot", source))?;
    receiving.flush()
}

/// Writes a state so that the folder holds either the old snapshot or the whole new one, and the new one once this
/// returns.
pub(crate) fn save(
    disk: Arc<dyn Disk>,
    dir: &Path,
    meta: &SnapshotMeta,
    state: &Snapshot,
) -> Result<(), SnapshotError> {
    adopt(dir, &write(disk, dir, meta, state)?)
}

/// The bytes of a snapshot: what is in the file, and what members send each other.
pub(crate) fn encode(out: &mut impl io::Write, meta: &SnapshotMeta, state: &Snapshot) -> io::Result<()> {
    out.write_all(MAGIC)?;
    put(out, &Frame::Head(Box::new(Head { revision: state.revision(), meta: meta.clone() })))?;
    for (key, entry) in state.range("/", None) {
        put(out, &Frame::Entry(key.clone(), entry.clone()))?;
    }
    put(out, &Frame::End { count: state.len() as u64 })
}

/// A whole snapshot in a file aside. If it is not adopted, it is removed.
#[derive(Debug)]
pub(crate) struct Aside {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Drop for Aside {
    fn drop(&mut self) {
        // One that was adopted has another name.
        let _ = self.disk.remove(&self.path);
    }
}

/// Takes the bytes of a snapshot as they come.
pub(crate) struct Receiving {
    file: BufWriter<Sequential>,
    aside: Aside,
}

impl Receiving {
    /// Starts a file of the given number.
    pub(crate) fn start(disk: Arc<dyn Disk>, dir: &Path, number: u64) -> Result<Self, SnapshotError> {
        let path = dir.join(format!("{NAME}.{number:016x}.{INCOMING}"));
        let created = disk.create(&path);
        let file = created.map_err(|source| SnapshotError::Io {
            action: "create a snapshot in",
            path: path.clone(),
            source,
        })?;
        let file = BufWriter::with_capacity(1 << 18, Sequential::new(file));
        Ok(Receiving { file, aside: Aside { disk, path } })
    }

    /// Takes more bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.file.write_all(bytes).map_err(|source| self.aside.failed("receive the snapshot", source))
    }

    /// Makes the file durable and reads it back, checksums and all.
    pub(crate) fn finish(self) -> Result<(Loaded, Aside), SnapshotError> {
        let aside = self.flush()?;
        let loaded = open_path(&*aside.disk, aside.path.clone(), read)?;
        let missing = io::ErrorKind::NotFound.into();
        let loaded = loaded.ok_or_else(|| aside.failed("read the snapshot", missing))?;
        Ok((loaded, aside))
    }

    fn flush(self) -> Result<Aside, SnapshotError> {
        let Receiving { file, aside } = self;
        let written =
            file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all());
        written.map_err(|source| aside.failed("flush the snapshot", source))?;
        Ok(aside)
    }
}

impl Aside {
    fn failed(&self, action: &'static str, source: io::Error) -> SnapshotError {
        SnapshotError::Io { action, path: self.path.clone(), source }
    }
}

/// Makes a file aside the snapshot of a folder, in the place of the one that is there.
pub(crate) fn adopt(dir: &Path, file: &Aside) -> Result<(), SnapshotError> {
    let path = dir.join(NAME);
    file.disk
        .rename(&file.path, &path)
        .and_then(|()| file.disk.sync_dir(dir))
        .map_err(|source| SnapshotError::Io { action: "take over the snapshot", path, source })
}

/// Removes files aside that the last run has left over.
pub(crate) fn sweep(disk: &dyn Disk, dir: &Path) -> Result<(), SnapshotError> {
    let failed =
        |source| SnapshotError::Io { action: "remove what was left over in", path: dir.to_owned(), source };
    for path in disk.list(dir).map_err(failed)? {
        // Those that were written here once had one name.
        let old = path.file_name().is_some_and(|name| name == "state.snapshot.tmp");
        if old || path.extension().is_some_and(|extension| extension == INCOMING) {
            disk.remove(&path).map_err(failed)?;
        }
    }
    Ok(())
}

fn put(out: &mut impl io::Write, frame: &Frame) -> io::Result<()> {
    let payload = postcard::to_allocvec(frame).map_err(io::Error::other)?;
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&crc32fast::hash(&payload).to_le_bytes())?;
    out.write_all(&payload)
}

/// Its size in bytes; 0 where there is none.
pub(crate) fn size(disk: &dyn Disk, dir: &Path) -> u64 {
    disk.size(&dir.join(NAME))
}

/// Reads the snapshot of a folder, if there is one.
pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Loaded>, SnapshotError> {
    open_path(disk, dir.join(NAME), read)
}

/// Reads only what the snapshot of a folder says of itself.
pub(crate) fn meta(disk: &dyn Disk, dir: &Path) -> Result<Option<SnapshotMeta>, SnapshotError> {
    open_path(disk, dir.join(NAME), |mut file| read_head(&mut file).map(|head| head.meta))
}

fn open_path<T>(
    disk: &dyn Disk,
    path: PathBuf,
    read: impl FnOnce(BufReader<Box<dyn Read + Send>>) -> Result<T, ReadError>,
) -> Result<Option<T>, SnapshotError> {
    let file = match disk.read(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SnapshotError::Io { action: "open the snapshot", path, source }),
    };
    read(BufReader::with_capacity(1 << 18, file)).map(Some).map_err(|error| match error {
        ReadError::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
            SnapshotError::Damaged { path, what: "it ends early" }
        }
        ReadError::Io(source) => SnapshotError::Io { action: "read the snapshot", path, source },
        ReadError::Damaged(what) => SnapshotError::Damaged { path, what },
    })
}

enum ReadError {
    Io(io::Error),
    Damaged(&'static str),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        ReadError::Io(error)
    }
}

fn read_head(file: &mut impl Read) -> Result<Head, ReadError> {
    let mut magic = [0; 8];
    file.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(ReadError::Damaged("it does not start as a snapshot"));
    }
    match get(file)? {
        Frame::Head(head) => Ok(*head),
        Frame::Entry(..) | Frame::End { .. } => Err(ReadError::Damaged("it has no head")),
    }
}

fn read(mut file: impl Read) -> Result<Loaded, ReadError> {
    let head = read_head(&mut file)?;
    let mut entries = Vec::new();
    loop {
        match get(&mut file)? {
            Frame::Head(_) => return Err(ReadError::Damaged("it has two heads")),
            Frame::Entry(key, entry) => entries.push((key, entry)),
            Frame::End { count } if count == entries.len() as u64 => {
                return Ok(Loaded { revision: head.revision, meta: head.meta, entries });
            }
            Frame::End { .. } => return Err(ReadError::Damaged("entries are missing")),
        }
    }
}

fn get(file: &mut impl Read) -> Result<Frame, ReadError> {
    let mut head = [0; 8];
    file.read_exact(&mut head)?;
    let [l0, l1, l2, l3, checksum @ ..] = head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if length > MAX_FRAME {
        return Err(ReadError::Damaged("a length is out of range"));
    }
    let mut payload = vec![0; length as usize];
    file.read_exact(&mut payload)?;
    if crc32fast::hash(&payload) != u32::from_le_bytes(checksum) {
        return Err(ReadError::Damaged("a checksum is wrong"));
    }
    postcard::from_bytes(&payload).map_err(|_| ReadError::Damaged("a frame cannot be decoded"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk::RealDisk;
    use crate::engine::Config;
    use crate::{Change, Engine, Precondition, Value, Write};

    fn saved(dir: &Path) -> Snapshot {
        let mut engine = Engine::new(Config::default());
        for name in ["/a", "/b"] {
            engine.apply(&[Write {
                key: Key::new(name).unwrap(),
                precondition: Precondition::Any,
                change: Change::Put(Value::plain("some value")),
            }]);
        }
        save(RealDisk::shared(), dir, &SnapshotMeta::default(), &engine.snapshot()).unwrap();
        engine.snapshot()
    }

    #[test]
    fn a_snapshot_is_read_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(&RealDisk, dir.path()).unwrap().is_none());
        let state = saved(dir.path());
        let loaded = load(&RealDisk, dir.path()).unwrap().unwrap();
        assert_eq!(loaded.revision, state.revision());
        let expected: Vec<_> = state.range("/", None).map(|(k, e)| (k.clone(), e.clone())).collect();
        assert_eq!(loaded.entries, expected);
    }

    #[test]
    fn a_snapshot_with_any_byte_changed_or_missing_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        saved(dir.path());
        let path = dir.path().join(NAME);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            fs::write(&path, &bytes).unwrap();
            assert!(load(&RealDisk, dir.path()).is_err(), "byte {at} changed");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(load(&RealDisk, dir.path()).is_err(), "cut at {at}");
        }
    }
}
