//! Parts of volumes: opened without leaving the volume, and bound to a place of the kubelet's own.
//!
//! Containers can write links into a volume, also while the kubelet looks. So the path is resolved, checked, and then
//! opened part by part without following links; what was opened is what is mounted.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, mkdirat};

use super::mount_point;

/// Why a part cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubPathError {
    /// It names something outside of the volume.
    #[error("subPath {path:?} is not within the volume")]
    Outside {
        /// The part.
        path: String,
    },
    /// The kernel refused.
    #[error("{action} {}: {reason}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
}

fn failed<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> SubPathError {
    let path = path.to_owned();
    move |reason| SubPathError::Io { action, path, reason: reason.into() }
}

/// The parts of a path that stays within (pure).
fn parts(path: &str) -> Result<Vec<&str>, SubPathError> {
    let outside = || SubPathError::Outside { path: path.to_owned() };
    let components = Path::new(path).components();
    let part = |component: Component<'_>| match component {
        Component::Normal(_) | Component::CurDir => Ok(()),
        Component::ParentDir | Component::RootDir | Component::Prefix(_) => Err(outside()),
    };
    components.map(part).collect::<Result<Vec<()>, _>>()?;
    Ok(path.split('/').filter(|part| !part.is_empty() && *part != ".").collect())
}

/// The real path of the longest part that exists, below the volume's real path, and what is missing of it.
fn resolve<'a>(
    volume: &Path,
    path: &str,
    parts: &[&'a str],
) -> Result<(PathBuf, Vec<&'a str>), SubPathError> {
    let mut existing = parts.len();
    loop {
        let full: PathBuf = std::iter::once(volume).chain(parts[..existing].iter().map(Path::new)).collect();
        match fs::canonicalize(&full) {
            Ok(real) => {
                let inner = real.strip_prefix(volume);
                let inner = inner.map_err(|_| SubPathError::Outside { path: path.to_owned() })?;
                return Ok((inner.to_owned(), parts[existing..].to_vec()));
            }
            // A dangling link would be made good through the link by others: it is no place for a folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound && existing > 0 => {
                if fs::symlink_metadata(&full).is_ok() {
                    return Err(failed("resolve", &full)(error));
                }
                existing -= 1;
            }
            Err(error) => return Err(failed("resolve", &full)(error)),
        }
    }
}

const STEP: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Opens the part; missing folders are made with the volume's own mode.
fn open_inside(volume: &Path, path: &str) -> Result<OwnedFd, SubPathError> {
    let parts = parts(path)?;
    let volume = fs::canonicalize(volume).map_err(failed("resolve", volume))?;
    let mode = fs::metadata(&volume).map_err(failed("look at", &volume))?.permissions().mode();
    let (inner, missing) = resolve(&volume, path, &parts)?;
    let mut at = open(&volume, STEP, Mode::empty()).map_err(failed("open", &volume))?;
    let mut walked = volume;
    for part in &inner {
        walked.push(part);
        at = openat(&at, part, STEP, Mode::empty()).map_err(failed("open", &walked))?;
        let found = fstat(&at).map_err(failed("look at", &walked))?;
        // Somebody exchanged it since it was resolved.
        if SFlag::from_bits_truncate(found.st_mode).intersection(SFlag::S_IFMT) == SFlag::S_IFLNK {
            return Err(SubPathError::Outside { path: path.to_owned() });
        }
    }
    for part in missing {
        walked.push(part);
        let is_new = match mkdirat(&at, part, Mode::from_bits_truncate(mode & 0o777)) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(error) => return Err(failed("create", &walked)(error)),
        };
        if is_new {
            // This process's umask is no matter of the volume, and what a path alone is opened for takes no mode.
            let readable = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let made = openat(&at, part, readable, Mode::empty()).map_err(failed("open", &walked))?;
            let mode = Mode::from_bits_truncate(mode & 0o7777);
            fchmod(&made, mode).map_err(failed("set the mode of", &walked))?;
        }
        let flags = STEP.union(OFlag::O_DIRECTORY);
        at = openat(&at, part, flags, Mode::empty()).map_err(failed("open", &walked))?;
    }
    Ok(at)
}

/// Makes the mount point, of the kind that the part is.
fn target(path: &Path, is_folder: bool) -> io::Result<()> {
    let mut folder = DirBuilder::new();
    folder.recursive(true).mode(0o750);
    if let Ok(found) = fs::symlink_metadata(path) {
        if found.is_dir() == is_folder {
            return Ok(());
        }
        if found.is_dir() { fs::remove_dir(path)? } else { fs::remove_file(path)? }
    }
    if is_folder {
        return folder.create(path);
    }
    if let Some(parent) = path.parent() {
        folder.create(parent)?;
    }
    File::create(path).map(drop)
}

/// Mounts `path` of the volume at `place`, unless just that is mounted there. May be repeated.
pub(super) fn prepare(volume: &Path, path: &str, place: &Path) -> Result<(), SubPathError> {
    let part = open_inside(volume, path)?;
    let wanted = fstat(&part).map_err(failed("look at", volume))?;
    if place.exists() {
        let found = fs::metadata(place).map_err(failed("look at", place))?;
        if (found.dev(), found.ino()) == (wanted.st_dev, wanted.st_ino) {
            return Ok(());
        }
    }
    mount_point::unmount(place).map_err(failed("unmount", place))?;
    let is_folder = SFlag::from_bits_truncate(wanted.st_mode).intersection(SFlag::S_IFMT) == SFlag::S_IFDIR;
    target(place, is_folder).map_err(failed("create", place))?;
    let source = format!("/proc/self/fd/{}", part.as_raw_fd());
    let nothing = None::<&str>;
    mount(Some(source.as_str()), place, nothing, MsFlags::MS_BIND | MsFlags::MS_REC, nothing)
        .map_err(failed("bind to", place))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("keelson-sub-path-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("volume")).unwrap();
        fs::canonicalize(path).unwrap()
    }

    fn inode(fd: &OwnedFd) -> u64 {
        fstat(fd).unwrap().st_ino
    }

    #[test]
    fn a_part_is_found_through_links_within_the_volume_and_made_when_missing() {
        let folder = folder("inside");
        let volume = folder.join("volume");
        fs::create_dir(volume.join("..1")).unwrap();
        fs::write(volume.join("..1/key"), "x").unwrap();
        symlink("..1", volume.join("..data")).unwrap();
        symlink("..data/key", volume.join("key")).unwrap();
        let found = open_inside(&volume, "key").unwrap();
        assert_eq!(inode(&found), fs::metadata(volume.join("..1/key")).unwrap().ino());
        let made = open_inside(&volume, "a/b").unwrap();
        assert_eq!(inode(&made), fs::metadata(volume.join("a/b")).unwrap().ino());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_that_is_made_has_the_mode_of_its_volume_whatever_the_umask() {
        let folder = folder("mode");
        let volume = folder.join("volume");
        let before = nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o3777)).unwrap();
        open_inside(&volume, "a/b").unwrap();
        nix::sys::stat::umask(before);
        for made in ["a", "a/b"] {
            let mode = fs::metadata(volume.join(made)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o3777, "{made}");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn no_part_lies_outside_of_its_volume() {
        let folder = folder("outside");
        let volume = folder.join("volume");
        fs::write(folder.join("secret"), "x").unwrap();
        symlink("../secret", volume.join("link")).unwrap();
        symlink("/etc", volume.join("etc")).unwrap();
        symlink("/nowhere", volume.join("dangling")).unwrap();
        for path in ["link", "etc/passwd", "etc/new-folder", "../secret", "/etc", "dangling/x", "dangling"] {
            assert!(open_inside(&volume, path).is_err(), "{path}");
        }
        assert!(!Path::new("/nowhere").exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
