//! The disk, as far as the log and the snapshots use it: real files, or what a simulation puts in their place.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folders and files.
pub(crate) trait Disk: Debug + Send + Sync + 'static {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// The files and folders of a folder, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// An empty file, whether there was one or not.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// A file that is there, to read and write.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// A file that is there, to read from its start.
    fn read(&self, path: &Path) -> io::Result<Box<dyn Read + Send>>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes names durable: those of new files, and those that are gone.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// The size of a file in bytes; 0 where there is none.
    fn size(&self, path: &Path) -> u64;

    /// How many bytes a folder has room for.
    fn free(&self, dir: &Path) -> io::Result<u64>;

    /// Whether a simulation stands in its place, with tasks and no threads.
    fn is_simulated(&self) -> bool;
}

/// A file that is written at any place.
pub(crate) trait DiskFile: Debug + Send + Sync {
    fn read_to_end(&mut self) -> io::Result<Vec<u8>>;

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the bytes durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes the bytes and the length durable.
    fn sync_all(&self) -> io::Result<()>;

    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Takes up room, so that writes to it cannot fail for want of it.
    fn allocate(&self, length: u64) -> io::Result<()>;
}

/// The disk of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RealDisk;

impl RealDisk {
    pub(crate) fn shared() -> Arc<dyn Disk> {
        Arc::new(RealDisk)
    }
}

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect()
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn read(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(path)?))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn size(&self, path: &Path) -> u64 {
        fs::metadata(path).map_or(0, |meta| meta.len())
    }

    fn free(&self, dir: &Path) -> io::Result<u64> {
        let of = nix::sys::statvfs::statvfs(dir).map_err(io::Error::from)?;
        Ok(of.blocks_available().saturating_mul(of.fragment_size()))
    }

    fn is_simulated(&self) -> bool {
        false
    }
}

impl DiskFile for File {
    fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        Read::read_to_end(self, &mut bytes)?;
        Ok(bytes)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        File::set_len(self, length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let length = i64::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        nix::fcntl::posix_fallocate(self, 0, length).map_err(io::Error::from)
    }
}

/// Writes a file from its start to its end.
#[derive(Debug)]
pub(crate) struct Sequential {
    file: Box<dyn DiskFile>,
    offset: u64,
}

impl Sequential {
    pub(crate) fn new(file: Box<dyn DiskFile>) -> Self {
        Sequential { file, offset: 0 }
    }

    pub(crate) fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

impl io::Write for Sequential {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
