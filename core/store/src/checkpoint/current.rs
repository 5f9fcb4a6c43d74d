//! The file that says which save counts, and in which database it is: `magic | checksum u32 | payload`, replaced as a
//! whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{CheckpointError, io_error};
use crate::Revision;
use crate::raft::SnapshotMeta;

const MAGIC: &[u8; 8] = b"KEELCHK2";
/// Of a file that does not name the database, because there was but one.
const MAGIC_1: &[u8; 8] = b"KEELCHK1";
const NAME: &str = "current";

/// The save that counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Current {
    /// Versions of later generations do not count.
    pub(super) generation: u64,
    pub(super) revision: Revision,
    pub(super) meta: SnapshotMeta,
    /// How many entries there are.
    pub(super) entries: u64,
    /// The sum of their fingerprints.
    pub(super) fingerprint: u64,
    /// The number of the database.
    pub(super) database: u32,
}

/// What a file says that does not name the database.
#[derive(Deserialize)]
struct Current1 {
    generation: u64,
    revision: Revision,
    meta: SnapshotMeta,
    entries: u64,
    fingerprint: u64,
}

impl From<Current1> for Current {
    fn from(old: Current1) -> Self {
        let Current1 { generation, revision, meta, entries, fingerprint } = old;
        Current { generation, revision, meta, entries, fingerprint, database: 0 }
    }
}

/// The payload behind a magic, if its checksum is right.
fn payload<'a>(bytes: &'a [u8], magic: &[u8]) -> Option<&'a [u8]> {
    let (checksum, payload) = bytes.strip_prefix(magic)?.split_first_chunk::<4>()?;
    (crc32fast::hash(payload) == u32::from_le_bytes(*checksum)).then_some(payload)
}

impl Current {
    /// Reads the file; `None` where there is none.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, CheckpointError> {
        let path = dir.join(NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let current = payload(&bytes, MAGIC).and_then(|payload| postcard::from_bytes(payload).ok());
        let older = || -> Option<Current1> { postcard::from_bytes(payload(&bytes, MAGIC_1)?).ok() };
        current
            .or_else(|| older().map(Current::from))
            .map(Some)
            .ok_or(CheckpointError::Damaged { what: "the file that names the save is not right" })
    }

    /// Replaces the file; when this returns, the new one is durable.
    pub(super) fn write(&self, dir: &Path) -> Result<(), CheckpointError> {
        let path = dir.join(NAME);
        let partial = dir.join("current.tmp");
        let payload = postcard::to_allocvec(self)
            .map_err(|error| io_error("encode", &path)(io::Error::other(error)))?;
        let write = || -> io::Result<()> {
            let mut file = File::create(&partial)?;
            file.write_all(MAGIC)?;
            file.write_all(&crc32fast::hash(&payload).to_le_bytes())?;
            file.write_all(&payload)?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(io_error("write", &path))
    }
}
