//! A blob that is coming: what is here of it lies in a file that outlives a kill, and may be read while it grows.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use parking_lot::{Condvar, Mutex};
use ring::digest::{Context, SHA256};

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

#[derive(Debug, Default)]
struct Extent {
    length: u64,
    /// Once nothing more comes: whether all has come.
    whole: Option<bool>,
}

/// How much of a blob is here.
#[derive(Debug, Default)]
pub(super) struct Growth {
    extent: Mutex<Extent>,
    changed: Condvar,
}

impl Growth {
    /// Bytes.
    pub(super) fn length(&self) -> u64 {
        self.extent.lock().length
    }

    fn set(&self, length: u64) {
        self.extent.lock().length = length;
        self.changed.notify_all();
    }

    /// Nothing more comes. The first word counts.
    pub(super) fn end(&self, whole: bool) {
        self.extent.lock().whole.get_or_insert(whole);
        self.changed.notify_all();
    }

    /// It was here before.
    pub(super) fn is_here(&self, size: u64) {
        self.set(size);
        self.end(true);
    }

    fn is_whole(&self) -> bool {
        self.extent.lock().whole == Some(true)
    }

    /// Waits for bytes beyond `at`; answers how many there are, none at the end.
    fn beyond(&self, at: u64) -> io::Result<u64> {
        let mut extent = self.extent.lock();
        loop {
            match extent.whole {
                Some(false) => return Err(io::Error::other("the rest of the blob did not come")),
                _ if extent.length > at => return Ok(extent.length - at),
                Some(true) => return Ok(0),
                None => self.changed.wait(&mut extent),
            }
        }
    }
}

/// Ends the growth when it goes out of sight, so that no reader waits for what nobody brings.
pub(super) struct Growing(pub(super) Arc<Growth>);

impl Drop for Growing {
    fn drop(&mut self) {
        self.0.end(false);
    }
}

/// The file of a blob, for the one who writes it.
pub(super) struct Partial {
    path: PathBuf,
    file: Flock<File>,
    hash: Context,
    growth: Arc<Growth>,
}

/// Whether a file is still the one of this name.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Partial {
    /// Opens it, and reads what is there already; more than `size` is none of it. Waits for another writer.
    pub(super) fn open(path: &Path, size: u64, growth: Arc<Growth>) -> io::Result<Self> {
        let mut file = loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
            // Who had it before may have brought it to its place, where it is whole and nobody's to write into.
            if is_named(&file, path)? {
                break file;
            }
        };
        if file.metadata()?.len() > size {
            file.set_len(0)?;
        }
        let (mut hash, mut length, mut piece) = (Context::new(&SHA256), 0, vec![0; PIECE]);
        loop {
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => {
                    hash.update(&piece[..count]);
                    length += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        growth.set(length);
        Ok(Self { path: path.to_owned(), file, hash, growth })
    }

    pub(super) fn length(&self) -> u64 {
        self.growth.length()
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.growth.set(self.length() + bytes.len() as u64);
        Ok(())
    }

    /// From the beginning.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        // Told first: a reader finds nothing only where it knows of nothing.
        self.growth.set(0);
        self.file.set_len(0)?;
        io::Seek::rewind(&mut *self.file)?;
        self.hash = Context::new(&SHA256);
        Ok(())
    }

    /// `sha256:HEX` of what is here.
    pub(super) fn digest(&self) -> String {
        format!("sha256:{}", hex::encode(self.hash.clone().finish()))
    }

    /// Removes it.
    pub(super) fn discard(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Reads a blob while it comes.
pub(super) struct Follower {
    file: File,
    at: u64,
    growth: Arc<Growth>,
}

impl Follower {
    /// From the beginning.
    pub(super) fn open(path: &Path, growth: Arc<Growth>) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file, at: 0, growth })
    }
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let there = self.growth.beyond(self.at)?;
            if there == 0 {
                return Ok(0);
            }
            let most = buffer.len().min(usize::try_from(there).unwrap_or(usize::MAX));
            match self.file.read_at(&mut buffer[..most], self.at) {
                // What came lies elsewhere: this was opened when it had its place already.
                Ok(0) if self.growth.is_whole() => return Err(io::ErrorKind::UnexpectedEof.into()),
                // It begins anew.
                Ok(0) => {}
                Ok(count) => {
                    self.at += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_here_of_a_blob_is_continued_and_read_while_it_grows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        fs::write(&path, "abc").unwrap();
        let growth = Arc::new(Growth::default());
        let mut follower = Follower::open(&path, Arc::clone(&growth)).unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            follower.read_to_string(&mut text).map(|_| text)
        });
        let mut partial = Partial::open(&path, 6, Arc::clone(&growth)).unwrap();
        assert_eq!(partial.length(), 3);
        partial.append(b"def").unwrap();
        growth.end(true);
        assert_eq!(reader.join().unwrap().unwrap(), "abcdef");
        let expected = ring::digest::digest(&SHA256, b"abcdef");
        assert_eq!(partial.digest(), format!("sha256:{}", hex::encode(expected)));
        partial.restart().unwrap();
        assert_eq!((partial.length(), fs::read(&path).unwrap().len()), (0, 0));
    }

    #[test]
    fn more_than_was_announced_is_none_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        fs::write(&path, "abcdefg").unwrap();
        let partial = Partial::open(&path, 6, Arc::default()).unwrap();
        assert_eq!(partial.length(), 0);
        partial.discard().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_blob_that_has_got_its_place_meanwhile_is_not_written_into() {
        let folder = tempfile::tempdir().unwrap();
        let (path, place) = (folder.path().join("partial"), folder.path().join("blob"));
        fs::write(&path, "abc").unwrap();
        let first = Partial::open(&path, 3, Arc::default()).unwrap();
        std::thread::scope(|scope| {
            // It waits, or comes after all of it; either way it finds another file.
            let second = scope.spawn(|| Partial::open(&path, 1, Arc::default()).map(|it| it.length()));
            fs::rename(&path, &place).unwrap();
            drop(first);
            assert_eq!(second.join().unwrap().unwrap(), 0);
        });
        assert_eq!(fs::read(&place).unwrap(), b"abc");
    }

    #[test]
    fn who_comes_too_late_to_follow_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let growth = Arc::new(Growth::default());
        growth.is_here(3);
        let mut follower = Follower::open(&folder.path().join("blob"), growth).unwrap();
        assert_eq!(follower.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn nobody_waits_for_what_does_not_come() {
        let folder = tempfile::tempdir().unwrap();
        let growth = Arc::new(Growth::default());
        let mut follower = Follower::open(&folder.path().join("blob"), Arc::clone(&growth)).unwrap();
        drop(Growing(growth));
        assert!(follower.read(&mut [0]).is_err());
    }
}
