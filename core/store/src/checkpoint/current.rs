//! The file that says which save counts: `magic | checksum u32 | payload`, replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{CheckpointError, io_error};
use crate::Revision;
use crate::raft::SnapshotMeta;

const MAGIC: &[u8; 8] = b"KEELCHK1";
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
        let payload = bytes.strip_prefix(MAGIC).and_then(|rest| {
            let (checksum, payload) = rest.split_first_chunk::<4>()?;
            (crc32fast::hash(payload) == u32::from_le_bytes(*checksum)).then_some(payload)
        });
        let current = payload.and_then(|payload| postcard::from_bytes(payload).ok());
        current
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
