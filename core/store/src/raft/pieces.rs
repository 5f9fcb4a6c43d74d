//! A whole state in pieces, as it crosses the network: how it is cut, and how it is put together again.
//!
//! The first piece says whose state it is; each carries a checksum of all bytes up to its end. They go into a file aside,
//! which is read back when the last one has come.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::log_storage::{chain, decode, encode};
use super::message::Refused;
use super::peer::proto::Piece;
use super::runtime::random;
use super::snapshot_file::{self, Receiving, SnapshotError};
use super::state_machine::Image;
use super::{SnapshotMeta, Vote};
use crate::disk::Disk;
use crate::engine::Config;
use crate::{Engine, Snapshot};

/// Cuts a state, and hands on each piece of about `bytes`.
pub(crate) fn cut(
    vote: Vote,
    meta: &SnapshotMeta,
    state: &Snapshot,
    bytes: usize,
    send: impl FnMut(Piece) -> io::Result<()>,
) -> io::Result<()> {
    let head = encode(&(vote, meta))?;
    let mut cutter = Cutter { bytes, send, head, data: Vec::new(), hasher: crc32fast::Hasher::new() };
    snapshot_file::encode(&mut cutter, meta, state)?;
    cutter.piece(true)
}

struct Cutter<F> {
    bytes: usize,
    send: F,
    head: Bytes,
    data: Vec<u8>,
    hasher: crc32fast::Hasher,
}

impl<F: FnMut(Piece) -> io::Result<()>> Cutter<F> {
    fn piece(&mut self, last: bool) -> io::Result<()> {
        let data = Bytes::from(std::mem::take(&mut self.data));
        self.hasher.update(&data);
        let checksum = self.hasher.clone().finalize();
        (self.send)(Piece { head: std::mem::take(&mut self.head), data, checksum, last })
    }
}

impl<F: FnMut(Piece) -> io::Result<()>> io::Write for Cutter<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.data.extend_from_slice(bytes);
        if self.data.len() >= self.bytes {
            self.piece(false)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why pieces do not make a state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PiecesError {
    #[error("the head of a snapshot cannot be read")]
    Head(#[source] io::Error),
    #[error("the checksum of a piece is wrong")]
    Checksum,
    #[error("the snapshot is not the one that was announced")]
    Other,
    #[error("the pieces cannot be kept")]
    File(#[from] SnapshotError),
}

impl PiecesError {
    /// What the one who sends is told.
    pub(crate) fn refused(&self) -> Refused {
        match self {
            PiecesError::File(error) if error.is_no_space() => Refused::NoSpace,
            PiecesError::File(_) | PiecesError::Head(_) | PiecesError::Checksum | PiecesError::Other => {
                Refused::Unavailable { reason: chain(self) }
            }
        }
    }
}

/// Where pieces are put together.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
}

/// Pieces that have come.
pub(crate) struct Pieces {
    vote: Vote,
    meta: SnapshotMeta,
    file: Receiving,
    hasher: crc32fast::Hasher,
}

/// What has come so far.
pub(crate) enum Come {
    /// More is to come.
    Some(Box<Pieces>),
    /// All of it.
    All(Box<(Vote, SnapshotMeta, Image)>),
}

impl Pieces {
    /// Takes the first piece. Waits for the disk.
    pub(crate) fn start(place: Place, first: Piece) -> Result<Come, PiecesError> {
        let (vote, meta) = decode(&first.head).map_err(PiecesError::Head)?;
        let file = Receiving::start(place.disk, &place.dir, random())?;
        Pieces { vote, meta, file, hasher: crc32fast::Hasher::new() }.take(first)
    }

    /// Takes the next piece. Waits for the disk; the last one is as much work as opening a store.
    pub(crate) fn take(mut self, piece: Piece) -> Result<Come, PiecesError> {
        self.hasher.update(&piece.data);
        if self.hasher.clone().finalize() != piece.checksum {
            return Err(PiecesError::Checksum);
        }
        self.file.write(&piece.data)?;
        if !piece.last {
            return Ok(Come::Some(Box::new(self)));
        }
        let (loaded, aside) = self.file.finish()?;
        if loaded.meta != self.meta {
            return Err(PiecesError::Other);
        }
        let state = Engine::restore(Config { history: 0, history_bytes: 0 }, loaded.revision, loaded.entries)
            .snapshot();
        let image = Image { state, received: Some(Arc::new(aside)) };
        Ok(Come::All(Box::new((self.vote, self.meta, image))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::{Change, Key, Precondition, Value, Write};

    fn state() -> Snapshot {
        let mut engine = Engine::new(Config::default());
        for number in 0..50 {
            engine.apply(&[Write {
                key: Key::new(format!("/{number}")).unwrap(),
                precondition: Precondition::Any,
                change: Change::Put(Value::plain(vec![b'x'; number])),
            }]);
        }
        engine.snapshot()
    }

    fn put_together(dir: &std::path::Path, pieces: Vec<Piece>) -> Result<Snapshot, PiecesError> {
        let place = Place { disk: RealDisk::shared(), dir: dir.to_owned() };
        let mut pieces = pieces.into_iter();
        let mut come = Pieces::start(place, pieces.next().unwrap())?;
        loop {
            come = match come {
                Come::Some(some) => some.take(pieces.next().unwrap())?,
                Come::All(all) => return Ok(all.2.state),
            };
        }
    }

    #[test]
    fn what_was_cut_is_put_together_and_a_changed_or_missing_piece_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (state, mut pieces) = (state(), Vec::new());
        let collect = |piece| {
            pieces.push(piece);
            Ok(())
        };
        cut(Vote::new(1, 1), &SnapshotMeta::default(), &state, 100, collect).unwrap();
        assert!(pieces.len() > 10);
        let whole = put_together(dir.path(), pieces.clone()).unwrap();
        assert_eq!(whole.revision(), state.revision());
        assert!(whole.range("/", None).eq(state.range("/", None)));
        let mut missing = pieces.clone();
        missing.remove(3);
        assert!(matches!(put_together(dir.path(), missing), Err(PiecesError::Checksum)));
        let mut changed = pieces;
        changed[4].data = Bytes::from(vec![0; changed[4].data.len()]);
        assert!(matches!(put_together(dir.path(), changed), Err(PiecesError::Checksum)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left over");
    }
}
