//! Mounts that show their files with other owners (id-mapped mounts, mount_setattr(2)): how a pod with a user namespace
//! sees volumes and layers that know nothing of it.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// How much of what is mounted below a folder goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// The folder's own file system.
    One,
    /// All.
    All,
}

/// What a mapped mount hears of mounts that are made at its source later. The source never hears of it: as one of its peers it
/// would take the source's own mounts away when it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// Nothing.
    Private,
    /// All.
    FromSource,
}

impl Propagation {
    fn flag(self) -> u64 {
        match self {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::FromSource => libc::MS_SLAVE,
        }
    }
}

const RECURSIVE: libc::c_uint = 0x8000;
const EMPTY_PATH: libc::c_uint = 0x1000;
const CLONE: libc::c_uint = 1;
const CLOSE_ON_EXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const ID_MAP: u64 = 0x0010_0000;
const EMPTY_SOURCE: libc::c_uint = 4;

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Mounts `source` at `target`, with the owners that `users`, a user namespace, gives the files' ids.
#[allow(unsafe_code)]
pub(crate) fn mount(
    source: &Path,
    target: &Path,
    users: &File,
    depth: Depth,
    propagation: Propagation,
) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        users: u64,
    }
    let below = if depth == Depth::All { RECURSIVE } else { 0 };
    let (source, target) = (text(source)?, text(target)?);
    // SAFETY: the path lives through the call.
    let tree = unsafe {
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), CLONE | CLOSE_ON_EXEC | below)
    };
    let tree = match i32::try_from(tree) {
        // SAFETY: the kernel has just made this descriptor; nothing else owns it.
        Ok(tree) if tree >= 0 => unsafe { OwnedFd::from_raw_fd(tree) },
        Ok(_) | Err(_) => return Err(io::Error::last_os_error()),
    };
    let users = u64::try_from(users.as_raw_fd()).unwrap_or_default();
    let attributes = Attributes { set: ID_MAP, clear: 0, propagation: propagation.flag(), users };
    // SAFETY: the attributes have the kernel's layout and live through the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            EMPTY_PATH | below,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both names live through the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            EMPTY_SOURCE,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether this kernel can show all that pods have so: overlays since 5.19, files in memory since 6.3.
pub(crate) fn is_possible() -> bool {
    let release = nix::sys::utsname::uname().ok();
    let release = release.as_ref().and_then(|name| name.release().to_str()).unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or_default());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    version >= (6, 3) && Path::new("/proc/self/ns/user").exists()
}
