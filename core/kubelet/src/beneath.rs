//! Opens what a path names below a folder, and nothing elsewhere: not by links either, nor by any that are changed meanwhile.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open as open_path, openat2};
use nix::sys::stat::Mode;

/// Opens a file or folder for reading. A pipe or device that waits for somebody is not waited for. Blocks.
pub(crate) fn open(folder: &Path, path: &str) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let root: OwnedFd =
        open_path(folder, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let path = if path.is_empty() { "." } else { path };
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    Ok(File::from(openat2(root.as_fd(), path, how)?))
}
