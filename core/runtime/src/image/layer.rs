//! Unpacks one layer into its own folder, in the form that overlayfs stacks.
//!
//! The archive is not trusted: every name is resolved below the folder (`openat2` with `RESOLVE_IN_ROOT`), files
//! are made new and never written through a link, device nodes are not made, sizes and counts are bounded, and the
//! content must have the digest that the image's configuration promises.

use std::cell::Cell;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, sync_channel};

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use ring::digest::{Context, SHA256};
use tar::{Archive, Entry, EntryType};

/// Bounds on what one layer may hold.
const MAX_BYTES: u64 = 64 << 30;
const MAX_ENTRIES: u64 = 4_000_000;
const MAX_PATH: usize = 4096;
/// What an entry may say of itself, which is read into memory: its header, long names and attributes.
const MAX_HEAD: u64 = 1 << 20;

/// Bytes that are handed on and written at once.
const PIECE: usize = 256 * 1024;
/// Pieces that are unpacked ahead.
const AHEAD: usize = 8;

#[derive(Debug, thiserror::Error)]
pub(super) enum LayerError {
    #[error("read the layer")]
    Read(#[source] io::Error),
    #[error("the layer's content is {actual}, not {expected}")]
    Digest { expected: String, actual: String },
    #[error("refused entry {path:?}: {why}")]
    Refused { path: String, why: &'static str },
    #[error("the layer is too large: {0}")]
    TooLarge(&'static str),
    #[error("write {path:?}")]
    Write {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// Counts and hashes what passes.
pub(super) struct Hashing<R> {
    inner: R,
    context: Context,
    pub(super) bytes: u64,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, context: Context::new(&SHA256), bytes: 0 }
    }

    pub(super) fn digest(self) -> String {
        format!("sha256:{}", hex::encode(self.context.finish()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.context.update(&buffer[..count]);
        self.bytes += count as u64;
        if self.bytes > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the layer is too large"));
        }
        Ok(count)
    }
}

/// Reads as much as its budget allows at a time.
struct Bounded<R> {
    inner: R,
    budget: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let budget = self.budget.get();
        if budget == 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "an entry's head is too large"));
        }
        let length = buffer.len().min(usize::try_from(budget).unwrap_or(usize::MAX));
        let count = self.inner.read(&mut buffer[..length])?;
        self.budget.set(budget - count as u64);
        Ok(count)
    }
}

/// The plain archive behind gzip, zstd or nothing, told apart by its first bytes.
pub(super) fn decompress(reader: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut reader = BufReader::with_capacity(PIECE, reader);
    let magic = io::BufRead::fill_buf(&mut reader)?;
    if magic.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(reader)))
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Ok(Box::new(zstd::stream::read::Decoder::with_buffer(reader)?))
    } else {
        Ok(Box::new(reader))
    }
}

/// What another thread decompresses, so that it does not wait for the disk.
struct Ahead {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
}

impl Ahead {
    fn of(reader: impl Read + Send + 'static) -> io::Result<Self> {
        let (send, pieces) = sync_channel(AHEAD);
        let work = move || {
            let mut plain = match decompress(reader) {
                Ok(plain) => plain,
                Err(error) => {
                    let _ = send.send(Err(error));
                    return;
                }
            };
            loop {
                let mut piece = Vec::with_capacity(PIECE);
                let taken = plain.by_ref().take(PIECE as u64).read_to_end(&mut piece);
                let is_last = taken.is_err() || piece.is_empty();
                // Who no longer listens has seen enough.
                if send.send(taken.map(|_| piece)).is_err() || is_last {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("decompress".to_owned()).spawn(work)?;
        Ok(Self { pieces, piece: Vec::new(), at: 0 })
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            match self.pieces.recv() {
                Ok(piece) => (self.piece, self.at) = (piece?, 0),
                // It has said before why it ended, or that it was at its end.
                Err(_) => (self.piece, self.at) = (Vec::new(), 0),
            }
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Unpacks the layer into the empty folder `target`; `expected` is the digest of the plain archive.
pub(super) fn unpack(
    reader: impl Read + Send + 'static,
    target: &Path,
    expected: &str,
) -> Result<(), LayerError> {
    let plain = Ahead::of(reader).map_err(LayerError::Read)?;
    let budget = Rc::new(Cell::new(MAX_HEAD));
    let plain = BufReader::with_capacity(PIECE / 4, Hashing::new(plain));
    let mut archive = Archive::new(Bounded { inner: plain, budget: Rc::clone(&budget) });
    let root = File::open(target).map_err(|source| write_error(target, source))?;
    let mut unpacker = Unpacker { root: root.into(), folders: Vec::new(), piece: vec![0; PIECE] };
    let (mut count, mut bytes) = (0, 0_u64);
    for entry in archive.entries().map_err(LayerError::Read)? {
        let mut entry = entry.map_err(LayerError::Read)?;
        count += 1;
        if count > MAX_ENTRIES {
            return Err(LayerError::TooLarge("number of entries"));
        }
        // A sparse file is written larger than what is read for it.
        bytes = bytes.saturating_add(entry.size());
        if bytes > MAX_BYTES {
            return Err(LayerError::TooLarge("size of its files"));
        }
        budget.set(u64::MAX);
        unpacker.unpack(&mut entry)?;
        io::copy(&mut entry, &mut io::sink()).map_err(LayerError::Read)?;
        budget.set(MAX_HEAD);
    }
    unpacker.finish()?;
    // What follows the end of the archive belongs to the digest too.
    let mut rest = archive.into_inner().inner;
    io::copy(&mut rest, &mut io::sink()).map_err(LayerError::Read)?;
    let actual = rest.into_inner().digest();
    if actual == expected {
        Ok(())
    } else {
        Err(LayerError::Digest { expected: expected.to_owned(), actual })
    }
}

fn write_error(path: &Path, source: impl Into<io::Error>) -> LayerError {
    LayerError::Write { path: path.display().to_string(), source: source.into() }
}

/// A name inside of the layer: relative, without dots.
fn clean(path: &Path) -> Result<PathBuf, LayerError> {
    let refuse = |why| LayerError::Refused { path: path.display().to_string(), why };
    if path.as_os_str().len() > MAX_PATH {
        return Err(refuse("the name is too long"));
    }
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(refuse("the name leaves the layer"));
            }
        }
    }
    Ok(out)
}

struct Unpacker {
    root: OwnedFd,
    /// Their times are set at the end, because making files in them changes them.
    folders: Vec<(PathBuf, i64)>,
    /// On its way from the archive into a file.
    piece: Vec<u8>,
}

impl Unpacker {
    fn unpack<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), LayerError> {
        let raw = entry.path().map_err(LayerError::Read)?.into_owned();
        let path = clean(&raw)?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The root itself: its mode and owner count.
            return self.set_attributes(entry, &path);
        };
        let parent_path = path.parent().unwrap_or(Path::new("")).to_owned();
        let parent = self.make_folder(&parent_path)?;
        let failed = |source: nix::Error| write_error(&path, source);
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return whiteout(&parent, hidden, &path);
        }
        match kind {
            EntryType::Directory => {
                match mkdirat(&parent, name.as_os_str(), Mode::from_bits_truncate(0o755)) {
                    Ok(()) => {}
                    Err(nix::Error::EEXIST) => self.replace_unless_folder(&parent, &name, &path)?,
                    Err(error) => return Err(failed(error)),
                }
                self.folders.push((path.clone(), mtime(entry)));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                remove(&parent, &name).map_err(failed)?;
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW;
                let file = openat(
                    &parent,
                    name.as_os_str(),
                    flags | OFlag::O_CLOEXEC,
                    Mode::from_bits_truncate(0o600),
                )
                .map_err(failed)?;
                self.write(entry, &mut File::from(file), &path)?;
            }
            EntryType::Symlink => {
                let target = link_name(entry, &path)?;
                remove(&parent, &name).map_err(failed)?;
                symlinkat(target.as_path(), &parent, name.as_os_str()).map_err(failed)?;
            }
            EntryType::Link => {
                let target = clean(&link_name(entry, &path)?)?;
                let refuse = |why| LayerError::Refused { path: path.display().to_string(), why };
                let file = target.file_name().ok_or_else(|| refuse("a hard link to the root"))?;
                let folder = self.open_folder(target.parent().unwrap_or(Path::new(""))).map_err(failed)?;
                remove(&parent, &name).map_err(failed)?;
                linkat(&folder, file, &parent, name.as_os_str(), AtFlags::empty()).map_err(failed)?;
                return Ok(());
            }
            EntryType::Fifo => {
                remove(&parent, &name).map_err(failed)?;
                mknodat(&parent, name.as_os_str(), SFlag::S_IFIFO, Mode::from_bits_truncate(0o600), 0)
                    .map_err(failed)?;
            }
            EntryType::Char | EntryType::Block if path.starts_with("dev") => return Ok(()),
            EntryType::Char | EntryType::Block => {
                return Err(LayerError::Refused {
                    path: path.display().to_string(),
                    why: "a device node outside of /dev",
                });
            }
            _ => {
                return Err(LayerError::Refused {
                    path: path.display().to_string(),
                    why: "an unknown type of entry",
                });
            }
        }
        self.set_attributes(entry, &path)
    }

    fn write(&mut self, entry: &mut impl Read, file: &mut File, path: &Path) -> Result<(), LayerError> {
        loop {
            match entry.read(&mut self.piece) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    file.write_all(&self.piece[..count]).map_err(|source| write_error(path, source))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::Read(error)),
            }
        }
    }

    fn replace_unless_folder(&self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), LayerError> {
        let failed = |source: nix::Error| write_error(path, source);
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        if openat(parent, name, flags, Mode::empty()).is_ok() {
            return Ok(());
        }
        remove(parent, name).map_err(failed)?;
        mkdirat(parent, name, Mode::from_bits_truncate(0o755)).map_err(failed)
    }

    /// Opens a folder of the layer; links lead nowhere but into the layer.
    fn open_folder(&self, path: &Path) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        openat2(&self.root, path, how)
    }

    fn make_folder(&self, path: &Path) -> Result<OwnedFd, LayerError> {
        match self.open_folder(path) {
            Ok(folder) => return Ok(folder),
            Err(nix::Error::ENOENT) => {}
            Err(error) => return Err(write_error(path, error)),
        }
        let parent = self.make_folder(path.parent().unwrap_or(Path::new("")))?;
        if let Some(name) = path.file_name() {
            match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(nix::Error::EEXIST) => {}
                Err(error) => return Err(write_error(path, error)),
            }
        }
        self.open_folder(path).map_err(|error| write_error(path, error))
    }

    fn set_attributes<R: Read>(&self, entry: &mut Entry<'_, R>, path: &Path) -> Result<(), LayerError> {
        let failed = |source: io::Error| write_error(path, source);
        let header = entry.header();
        let id = |number: io::Result<u64>| -> Result<u32, LayerError> {
            u32::try_from(number.map_err(LayerError::Read)?).map_err(|_| LayerError::Refused {
                path: path.display().to_string(),
                why: "an owner out of range",
            })
        };
        let (uid, gid) = (id(header.uid())?, id(header.gid())?);
        let mode = header.mode().map_err(LayerError::Read)?;
        let is_link = matches!(header.entry_type(), EntryType::Symlink);
        let time = TimeSpec::new(mtime(entry), 0);
        let attributes = attributes(entry)?;

        let parent = self.open_folder(path.parent().unwrap_or(Path::new("")));
        let parent = parent.map_err(|error| failed(error.into()))?;
        let name = path.file_name().unwrap_or(OsStr::new("."));
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchownat(&parent, name, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|error| failed(error.into()))?;
        if !is_link {
            let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let file = openat(&parent, name, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
            for (key, value) in attributes {
                set_attribute(&file, &key, &value).map_err(failed)?;
            }
            fchmod(&file, Mode::from_bits_truncate(mode & 0o7777)).map_err(|error| failed(error.into()))?;
        }
        utimensat(&parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)
            .map_err(|error| failed(error.into()))
    }

    fn finish(&self) -> Result<(), LayerError> {
        for (path, time) in self.folders.iter().rev() {
            // One that a later entry has replaced has its time already.
            if let Ok(folder) = self.open_folder(path) {
                let time = TimeSpec::new(*time, 0);
                utimensat(&folder, ".", &time, &time, UtimensatFlags::NoFollowSymlink)
                    .map_err(|error| write_error(path, error))?;
            }
        }
        Ok(())
    }
}

fn mtime<R: Read>(entry: &Entry<'_, R>) -> i64 {
    entry.header().mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0)
}

fn link_name<R: Read>(entry: &Entry<'_, R>, path: &Path) -> Result<PathBuf, LayerError> {
    let name = entry.link_name().map_err(LayerError::Read)?;
    name.map(std::borrow::Cow::into_owned)
        .ok_or_else(|| LayerError::Refused { path: path.display().to_string(), why: "a link to nothing" })
}

fn remove(parent: &OwnedFd, name: &OsStr) -> nix::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
        Err(nix::Error::EISDIR) => unlinkat(parent, name, UnlinkatFlags::RemoveDir),
        Err(error) => Err(error),
    }
}

/// `.wh.NAME` hides NAME of the layers below; `.wh..wh..opq` all of the folder's.
fn whiteout(parent: &OwnedFd, hidden: &[u8], path: &Path) -> Result<(), LayerError> {
    if hidden == b".wh..opq" {
        return set_attribute(parent, "trusted.overlay.opaque", b"y")
            .map_err(|source| write_error(path, source));
    }
    if hidden.is_empty() || hidden == b"." || hidden == b".." {
        return Err(LayerError::Refused { path: path.display().to_string(), why: "hides no name" });
    }
    let name = OsStr::from_bytes(hidden);
    remove(parent, name).map_err(|error| write_error(path, error))?;
    mknodat(parent, name, SFlag::S_IFCHR, Mode::empty(), 0).map_err(|error| write_error(path, error))
}

/// The extended attributes worth keeping: file capabilities and the user's own.
fn attributes<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<(String, Vec<u8>)>, LayerError> {
    let Some(extensions) = entry.pax_extensions().map_err(LayerError::Read)? else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for extension in extensions {
        let extension = extension.map_err(LayerError::Read)?;
        if let Some(key) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr."))
            && (key == "security.capability" || key.starts_with("user."))
        {
            out.push((key.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    Ok(out)
}

#[allow(unsafe_code)]
fn set_attribute(file: &impl AsFd, key: &str, value: &[u8]) -> io::Result<()> {
    let key = CString::new(key).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: key and value live through the call and value's length is given.
    let result = unsafe {
        libc::fsetxattr(file.as_fd().as_raw_fd(), key.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> (Vec<u8>, String) {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        let bytes = builder.into_inner().unwrap();
        let digest = ring::digest::digest(&SHA256, &bytes);
        (bytes, format!("sha256:{}", hex::encode(digest)))
    }

    fn entry(builder: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, content: &[u8]) {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_ustar_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(0o644);
        header.set_uid(nix::unistd::getuid().as_raw().into());
        header.set_gid(nix::unistd::getgid().as_raw().into());
        header.set_size(content.len() as u64);
        header.set_mtime(1);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("keelson-layer-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_name_that_leaves_the_layer_is_refused() {
        let target = folder("dots");
        let (bytes, digest) = archive(|tar| entry(tar, EntryType::Regular, "a/../../x", "", b"x"));
        let result = unpack(io::Cursor::new(bytes), &target, &digest);
        assert!(matches!(result, Err(LayerError::Refused { .. })), "{result:?}");
        std::fs::remove_dir_all(target).unwrap();
    }

    #[test]
    fn an_entry_with_an_endless_name_is_refused_before_it_fills_the_memory() {
        let target = folder("name");
        let name = vec![b'a'; 3 << 20];
        let (bytes, digest) = archive(|tar| entry(tar, EntryType::GNULongName, "long", "", &name));
        let result = unpack(io::Cursor::new(bytes), &target, &digest);
        assert!(matches!(result, Err(LayerError::Read(_))), "{result:?}");
        std::fs::remove_dir_all(target).unwrap();
    }

    #[test]
    fn a_sparse_file_counts_as_large_as_it_is_written() {
        let target = folder("sparse");
        let (bytes, digest) = archive(|tar| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(EntryType::GNUSparse);
            header.set_path("hole").unwrap();
            header.set_size(0);
            let gnu = header.as_gnu_mut().unwrap();
            // In base 256: 2^56 bytes.
            gnu.realsize = [0x80, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
            gnu.sparse[0].offset = gnu.realsize;
            gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
            header.set_cksum();
            tar.append(&header, io::empty()).unwrap();
        });
        let result = unpack(io::Cursor::new(bytes), &target, &digest);
        assert!(matches!(result, Err(LayerError::TooLarge(_))), "{result:?}");
        std::fs::remove_dir_all(target).unwrap();
    }

    #[test]
    fn a_link_to_the_outside_leads_into_the_layer() {
        let outside = folder("outside");
        let target = folder("link");
        let (bytes, digest) = archive(|tar| {
            entry(tar, EntryType::Symlink, "door", outside.to_str().unwrap(), b"");
            entry(tar, EntryType::Regular, "door/file", "", b"x");
        });
        let _ = unpack(io::Cursor::new(bytes), &target, &digest);
        assert!(!outside.join("file").exists());
        std::fs::remove_dir_all(target).unwrap();
        std::fs::remove_dir_all(outside).unwrap();
    }

    #[test]
    fn content_of_another_digest_is_refused() {
        let target = folder("digest");
        let (bytes, _) = archive(|tar| entry(tar, EntryType::Regular, "a", "", b"x"));
        let result = unpack(io::Cursor::new(bytes), &target, "sha256:00");
        assert!(matches!(result, Err(LayerError::Digest { .. })));
        std::fs::remove_dir_all(target).unwrap();
    }
}
