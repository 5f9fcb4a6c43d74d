//! Versions of entries as sled's keys and values.
//!
//! A key is `path | 0 | generation u64 | chunk u32` (a path holds no NUL), so that the versions of an entry stand
//! together, in their order. The value of chunk 0 starts with a head, then come the bytes of the entry, of which
//! further chunks hold the rest.

use serde::{Deserialize, Serialize};

use super::CheckpointError;
use crate::{Entry, Key, Revision};

/// The most bytes of an entry in one value.
const CHUNK: usize = 8 << 10;
/// NUL, generation and chunk.
const SUFFIX: usize = 1 + 8 + 4;

/// The head of a version.
#[derive(Debug, Serialize, Deserialize)]
enum Head {
    /// The entry was deleted.
    Tombstone,
    /// The entry as it was.
    Entry { created: Revision, modified: Revision, length: u64, checksum: u32 },
}

/// A key and a value of sled.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// An entry at a generation.
#[derive(Debug)]
pub(super) struct Version<'a> {
    pub(super) key: &'a Key,
    pub(super) generation: u64,
}

/// A key of sled, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk<'a> {
    pub(super) path: &'a [u8],
    pub(super) generation: u64,
    pub(super) number: u32,
}

const fn damaged(what: &'static str) -> CheckpointError {
    CheckpointError::Damaged { what }
}

/// What all versions of a key start with.
pub(super) fn prefix(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.as_str().len() + SUFFIX);
    bytes.extend_from_slice(key.as_str().as_bytes());
    bytes.push(0);
    bytes
}

impl Version<'_> {
    fn chunk(&self, number: usize) -> Result<Vec<u8>, CheckpointError> {
        let number = u32::try_from(number).map_err(|_| damaged("an entry is too large"))?;
        let mut bytes = prefix(self.key);
        bytes.extend_from_slice(&self.generation.to_be_bytes());
        bytes.extend_from_slice(&number.to_be_bytes());
        Ok(bytes)
    }

    /// sled's keys and values for an entry, or for its absence.
    pub(super) fn chunks(&self, entry: Option<&Entry>) -> Result<Vec<Pair>, CheckpointError> {
        let (head, bytes) = match entry {
            None => (Head::Tombstone, [].as_slice()),
            Some(entry) => {
                let head = Head::Entry {
                    created: entry.created,
                    modified: entry.modified,
                    length: entry.value.len() as u64,
                    checksum: crc32fast::hash(&entry.value),
                };
                (head, &*entry.value)
            }
        };
        let mut first = postcard::to_allocvec(&head).map_err(|_| damaged("a head cannot be encoded"))?;
        let (start, rest) = bytes.split_at(bytes.len().min(CHUNK - first.len().min(CHUNK)));
        first.extend_from_slice(start);
        let mut chunks = vec![(self.chunk(0)?, first)];
        for (number, bytes) in rest.chunks(CHUNK).enumerate() {
            chunks.push((self.chunk(number + 1)?, bytes.to_vec()));
        }
        Ok(chunks)
    }
}

impl<'a> Chunk<'a> {
    /// Takes a key of sled apart.
    pub(super) fn read(key: &'a [u8]) -> Result<Self, CheckpointError> {
        const WRONG: CheckpointError = damaged("a key is not right");
        let (path, suffix) = key.split_last_chunk::<SUFFIX>().ok_or(WRONG)?;
        let [0, g0, g1, g2, g3, g4, g5, g6, g7, number @ ..] = *suffix else { return Err(WRONG) };
        let generation = u64::from_be_bytes([g0, g1, g2, g3, g4, g5, g6, g7]);
        Ok(Chunk { path, generation, number: u32::from_be_bytes(number) })
    }
}

/// Whether the value of a chunk 0 says that the entry was deleted.
pub(super) fn is_tombstone(value: &[u8]) -> Result<bool, CheckpointError> {
    let (head, _) = postcard::take_from_bytes::<Head>(value).map_err(|_| damaged("a head is not right"))?;
    Ok(matches!(head, Head::Tombstone))
}

/// Puts the entries of a generation together from all that sled holds, in the order of its keys.
#[derive(Debug)]
pub(super) struct Assembly {
    generation: u64,
    entries: Vec<(Key, Entry)>,
    path: Vec<u8>,
    newest: Option<Open>,
    others: bool,
}

/// A version that is being put together.
#[derive(Debug)]
struct Open {
    generation: u64,
    head: Head,
    bytes: Vec<u8>,
    next: u32,
}

impl Assembly {
    /// Versions after `generation` are left out.
    pub(super) fn new(generation: u64) -> Self {
        Assembly { generation, entries: Vec::new(), path: Vec::new(), newest: None, others: false }
    }

    /// Takes the next key and value.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), CheckpointError> {
        let chunk = Chunk::read(key)?;
        if chunk.generation > self.generation {
            self.others = true;
            return Ok(());
        }
        if chunk.path != self.path {
            self.close()?;
            self.path = chunk.path.to_vec();
        }
        match &mut self.newest {
            Some(open) if open.generation == chunk.generation => {
                if open.next != chunk.number {
                    return Err(damaged("a chunk is missing"));
                }
                open.next += 1;
                open.bytes.extend_from_slice(value);
            }
            newest => {
                if chunk.number != 0 {
                    return Err(damaged("a first chunk is missing"));
                }
                let (head, bytes) =
                    postcard::take_from_bytes(value).map_err(|_| damaged("a head is not right"))?;
                // Generations come in their order: the one that was open is superseded.
                self.others |= newest.is_some();
                *newest = Some(Open { generation: chunk.generation, head, bytes: bytes.to_vec(), next: 1 });
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), CheckpointError> {
        let Some(open) = self.newest.take() else { return Ok(()) };
        match open.head {
            Head::Tombstone => self.others = true,
            Head::Entry { created, modified, length, checksum } => {
                if open.bytes.len() as u64 != length || crc32fast::hash(&open.bytes) != checksum {
                    return Err(damaged("an entry is not as it was"));
                }
                let path = std::str::from_utf8(&self.path).map_err(|_| damaged("a key is not a text"))?;
                let key = Key::new(path).map_err(|_| damaged("a key is not a path"))?;
                self.entries.push((key, Entry { value: open.bytes.into(), created, modified }));
            }
        }
        Ok(())
    }

    /// The entries, and whether there was anything that does not count.
    pub(super) fn finish(mut self) -> Result<(Vec<(Key, Entry)>, bool), CheckpointError> {
        self.close()?;
        Ok((self.entries, self.others))
    }
}
