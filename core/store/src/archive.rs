//! The whole state as one file that people keep: `magic | frame* | digest`, a frame being `length u32 | checksum u32 |
//! payload`. The first frame says what the file holds, then come the entries in the order of their keys, the last frame
//! counts them; the digest is SHA-256 over all that stands before it. A file that ends early is not an archive.
//!
//! Values are in it as the store holds them: what is sealed there is sealed here. Keys and certificates are not.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use serde::{Deserialize, Serialize};

use crate::{Entry, Key, MemberId, Revision, Snapshot};

mod restore;
#[cfg(test)]
mod tests;

pub use restore::{RestoreError, RestoreOptions, Restored, restore};

const MAGIC: &[u8; 8] = b"KEELARC1";
/// Larger than any entry that is accepted; a length beyond it is damage, not a reason to allocate.
const MAX_FRAME: u32 = 64 << 20;

/// What an archive says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The cluster that it was taken of, if that has a number.
    pub cluster: Option<u64>,
    /// The member that gave it.
    pub member: Option<u64>,
    /// The revision that it shows.
    pub revision: Revision,
    /// When it was taken, in seconds since 1970.
    pub taken: i64,
    /// The version of the program that wrote it.
    pub version: String,
}

impl Head {
    /// The cluster's number as it is shown to people.
    pub fn cluster(&self) -> Option<MemberId> {
        self.cluster.map(MemberId)
    }
}

/// What an archive was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What it says of itself.
    pub head: Head,
    /// How many keys it holds.
    pub keys: u64,
    /// The bytes of all keys and values.
    pub bytes: u64,
    /// SHA-256 of everything but this digest.
    pub digest: [u8; SHA256_OUTPUT_LEN],
}

#[derive(Serialize, Deserialize)]
enum Frame {
    Head(Head),
    Entry(Key, Entry),
    End { keys: u64, bytes: u64 },
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The operating system refused.
    #[error("read {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("{} is not a whole snapshot: {what}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// How it shows.
        what: &'static str,
    },
}

/// Passes bytes on and takes them into the digest.
struct Digesting<T> {
    inner: T,
    digest: Context,
}

impl<T> Digesting<T> {
    fn new(inner: T) -> Self {
        Digesting { inner, digest: Context::new(&SHA256) }
    }
}

impl<T: Write> Write for Digesting<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Digesting<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.digest.update(&bytes[..read]);
        Ok(read)
    }
}

/// Writes a state as an archive. It is written as it is read: no more than an entry is in memory beside the state.
pub fn write(out: impl Write, head: &Head, state: &Snapshot) -> io::Result<()> {
    let mut out = Digesting::new(out);
    out.write_all(MAGIC)?;
    put(&mut out, &Frame::Head(Head { revision: state.revision(), ..head.clone() }))?;
    let (mut keys, mut bytes) = (0, 0);
    for (key, entry) in state.range("/", None) {
        keys += 1;
        bytes += entry.counts(key);
        put(&mut out, &Frame::Entry(key.clone(), entry.clone()))?;
    }
    put(&mut out, &Frame::End { keys, bytes })?;
    let Digesting { mut inner, digest } = out;
    inner.write_all(digest.finish().as_ref())?;
    inner.flush()
}

fn put(out: &mut impl Write, frame: &Frame) -> io::Result<()> {
    let payload = postcard::to_allocvec(frame).map_err(io::Error::other)?;
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&crc32fast::hash(&payload).to_le_bytes())?;
    out.write_all(&payload)
}

enum ReadError {
    Io(io::Error),
    Damaged(&'static str),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => ReadError::Damaged("it ends early"),
            _ => ReadError::Io(error),
        }
    }
}

fn get(from: &mut impl Read) -> Result<Frame, ReadError> {
    let mut head = [0; 8];
    from.read_exact(&mut head)?;
    let [l0, l1, l2, l3, checksum @ ..] = head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if length > MAX_FRAME {
        return Err(ReadError::Damaged("a length is out of range"));
    }
    let mut payload = vec![0; length as usize];
    from.read_exact(&mut payload)?;
    if crc32fast::hash(&payload) != u32::from_le_bytes(checksum) {
        return Err(ReadError::Damaged("a checksum is wrong"));
    }
    postcard::from_bytes(&payload).map_err(|_| ReadError::Damaged("a frame cannot be decoded"))
}

fn read_all(from: impl Read, mut take: impl FnMut(Key, Entry)) -> Result<Summary, ReadError> {
    let mut from = Digesting::new(from);
    let mut magic = [0; 8];
    from.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(ReadError::Damaged("it does not start as one"));
    }
    let Frame::Head(head) = get(&mut from)? else { return Err(ReadError::Damaged("it has no head")) };
    let (mut keys, mut bytes, mut last) = (0, 0, None);
    loop {
        match get(&mut from)? {
            Frame::Head(_) => return Err(ReadError::Damaged("it has two heads")),
            Frame::Entry(key, entry) => {
                if last.as_ref().is_some_and(|last| *last >= key) || entry.modified > head.revision {
                    return Err(ReadError::Damaged("entries are out of order"));
                }
                keys += 1;
                bytes += entry.counts(&key);
                last = Some(key.clone());
                take(key, entry);
            }
            Frame::End { keys: counted, bytes: size } if (counted, size) == (keys, bytes) => break,
            Frame::End { .. } => return Err(ReadError::Damaged("entries are missing")),
        }
    }
    let Digesting { mut inner, digest } = from;
    let mut digest_read = [0; SHA256_OUTPUT_LEN];
    inner.read_exact(&mut digest_read)?;
    if digest.finish().as_ref() != digest_read {
        return Err(ReadError::Damaged("the digest is wrong"));
    }
    if inner.read(&mut [0])? != 0 {
        return Err(ReadError::Damaged("something stands behind its end"));
    }
    Ok(Summary { head, keys, bytes, digest: digest_read })
}

/// Reads an archive to its end and checks all of it; `take` is given the entries as they are found, before it is known
/// that the rest is right.
pub fn read(path: &Path, take: impl FnMut(Key, Entry)) -> Result<Summary, ArchiveError> {
    let failed = |source| ArchiveError::Io { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    read_all(io::BufReader::with_capacity(1 << 18, file), take).map_err(|error| match error {
        ReadError::Io(source) => failed(source),
        ReadError::Damaged(what) => ArchiveError::Damaged { path: path.to_owned(), what },
    })
}

/// Checks an archive, and says what it holds.
pub fn check(path: &Path) -> Result<Summary, ArchiveError> {
    read(path, |_, _| {})
}
