//! Mounts below a pod's folder, and the folder's removal.
//!
//! Guarantee: nothing is removed through a mount. When a mount cannot be taken away, nothing is removed.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::error::{SetUpError, VolumeError, io_error};

/// Makes a folder with its parents; only root may enter the parents' content by listing.
pub(super) fn folder(path: &Path) -> Result<(), SetUpError> {
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(io_error("create", path))
}

/// Whether another file system begins at the folder.
pub(super) fn is_mounted(path: &Path) -> io::Result<bool> {
    let Some(parent) = path.parent() else { return Ok(true) };
    Ok(fs::symlink_metadata(path)?.dev() != fs::symlink_metadata(parent)?.dev())
}

/// Mounts a tmpfs, unless one is there, which never goes to swap where the kernel can promise that.
pub(super) fn tmpfs(path: &Path, bytes: Option<u64>, mode: u32) -> Result<(), SetUpError> {
    if is_mounted(path).map_err(io_error("look at", path))? {
        return Ok(());
    }
    let size = bytes.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
    let options = format!("mode={mode:o}{size}");
    let attempt = |options: &str| mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options));
    match attempt(&format!("{options},noswap")) {
        Err(nix::Error::EINVAL) => attempt(&options),
        other => other,
    }
    .map_err(io_error("mount a tmpfs at", path))
}

/// Mounts huge pages of a size, unless some are there.
pub(super) fn huge_pages(path: &Path, page: u64, bytes: Option<u64>, mode: u32) -> Result<(), SetUpError> {
    if is_mounted(path).map_err(io_error("look at", path))? {
        return Ok(());
    }
    let size = bytes.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
    let options = format!("pagesize={}K,mode={mode:o}{size}", page >> 10);
    let made = mount(Some("nodev"), path, Some("hugetlbfs"), MsFlags::empty(), Some(options.as_str()));
    made.map_err(io_error("mount huge pages at", path))
}

/// `\040` and the like in the kernel's list of mounts.
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let octal = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// The mount points below a folder, the last mounted first.
fn below(mountinfo: &str, folder: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut found: Vec<PathBuf> = points.filter(|point| point.starts_with(folder)).collect();
    found.reverse();
    found
}

fn mounts(folder: &Path) -> Result<Vec<PathBuf>, VolumeError> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    Ok(below(&text, folder))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |reason| VolumeError::TearDown { action, path, reason }
}

/// Takes one mount away; one that is still used leaves the tree now and ends with its last user.
pub(super) fn unmount(path: &Path) -> Result<(), nix::Error> {
    match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
        Err(nix::Error::EBUSY) => umount2(path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH),
        // Not a mount point, or gone already.
        Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        other => other,
    }
}

/// The names in a folder; none if there is no such folder.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, VolumeError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed("list", folder))?.file_name();
        found.extend(name.into_string());
    }
    Ok(found)
}

/// Takes all mounts below a folder away, then the folder with all that is in it.
pub(super) fn remove(folder: &Path) -> Result<(), VolumeError> {
    // The kernel lists mounts by their real paths.
    let folder = match fs::canonicalize(folder) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", folder)(error)),
    };
    // A mount that came twice to one place is listed again.
    for _ in 0..8 {
        let mounts = mounts(&folder)?;
        if mounts.is_empty() {
            return fs::remove_dir_all(&folder).map_err(failed("remove", &folder));
        }
        for point in mounts {
            unmount(&point).map_err(|error| failed("unmount", &point)(error.into()))?;
        }
    }
    Err(failed("unmount all below", &folder)(io::Error::other("mounts keep coming back")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_folder_are_found_in_reverse() {
        let text = "22 1 0:20 / /proc rw - proc proc rw\n\
                    40 22 0:41 / /d/pods/u/volumes/a\\040b rw - tmpfs tmpfs rw\n\
                    41 40 0:42 / /d/pods/u/volumes/a\\040b/c rw - tmpfs tmpfs rw\n\
                    42 22 0:43 / /d/pods/u2/volumes/x rw - tmpfs tmpfs rw\n";
        let found = below(text, Path::new("/d/pods/u"));
        assert_eq!(found, [Path::new("/d/pods/u/volumes/a b/c"), Path::new("/d/pods/u/volumes/a b")]);
    }
}
