//! A container's root file system: an overlay of the image's layers and a folder of its own.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("create {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("mount the overlay at {path}: {step}")]
    Mount {
        path: PathBuf,
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("unmount {path}")]
    Unmount {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Where the writable part of a container's files is, inside of the container's folder.
pub(crate) fn upper(container: &Path) -> PathBuf {
    container.join("upper")
}

/// Mounts `layers` (bottom first) and the container's own folder at `container/rootfs`.
pub(crate) fn mount_root(container: &Path, layers: &[PathBuf]) -> Result<PathBuf, SnapshotError> {
    let target = container.join("rootfs");
    let (upper, work) = (upper(container), container.join("work"));
    for folder in [&target, &upper, &work] {
        fs::create_dir_all(folder)
            .map_err(|source| SnapshotError::Folder { path: folder.clone(), source })?;
    }
    if layers.is_empty() {
        mount(Some(&upper), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|error| {
            SnapshotError::Mount { path: target.clone(), step: "bind", source: error.into() }
        })?;
        return Ok(target);
    }
    match overlay(&target, layers, &upper, &work) {
        Ok(()) => Ok(target),
        Err((step, source)) => Err(SnapshotError::Mount { path: target, step, source }),
    }
}

/// Layers one by one through the new mount interface, whose options do not have to fit in one page. Kernels
/// before 6.5 do not know `lowerdir+`; there the old interface serves.
fn overlay(
    target: &Path,
    layers: &[PathBuf],
    upper: &Path,
    work: &Path,
) -> Result<(), (&'static str, io::Error)> {
    let context = fsopen("overlay").map_err(|error| ("fsopen", error))?;
    for (number, layer) in layers.iter().rev().enumerate() {
        match set(&context, "lowerdir+", layer) {
            Ok(()) => {}
            Err(error) if number == 0 && error.raw_os_error() == Some(libc::EINVAL) => {
                return overlay_in_one_call(target, layers, upper, work).map_err(|error| ("mount", error));
            }
            Err(error) => return Err(("lowerdir+", error)),
        }
    }
    set(&context, "upperdir", upper).map_err(|error| ("upperdir", error))?;
    set(&context, "workdir", work).map_err(|error| ("workdir", error))?;
    // After a crash of the machine the container is not started again, so that its files need no flushing.
    if let Err(error) = flag(&context, "volatile") {
        tracing::debug!(%error, "overlay without volatile");
    }
    let mounted = create(&context).map_err(|error| ("create", error))?;
    attach(&mounted, target).map_err(|error| ("move_mount", error))
}

fn overlay_in_one_call(target: &Path, layers: &[PathBuf], upper: &Path, work: &Path) -> io::Result<()> {
    let lower: Vec<String> = layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
    mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    Ok(())
}

fn zero_byte(_: std::ffi::NulError) -> io::Error {
    io::ErrorKind::InvalidInput.into()
}

#[allow(unsafe_code)]
fn fsopen(kind: &str) -> io::Result<OwnedFd> {
    let kind = CString::new(kind).map_err(zero_byte)?;
    // SAFETY: the name lives through the call; 1 is FSOPEN_CLOEXEC.
    let file = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1_u32) };
    owned(file)
}

#[allow(unsafe_code)]
fn owned(file: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(file) {
        // SAFETY: the kernel has just made this descriptor; nothing else owns it.
        Ok(file) if file >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(file) }),
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}

#[allow(unsafe_code)]
fn fsconfig(context: &OwnedFd, command: u32, key: Option<&str>, value: Option<&Path>) -> io::Result<()> {
    let key = key.map(CString::new).transpose().map_err(zero_byte)?;
    let value = value
        .map(|value| CString::new(value.as_os_str().as_encoded_bytes()))
        .transpose()
        .map_err(zero_byte)?;
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
    // SAFETY: both strings live through the call.
    let result = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, pointer(&key), pointer(&value), 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn flag(context: &OwnedFd, key: &str) -> io::Result<()> {
    fsconfig(context, 0, Some(key), None)
}

fn set(context: &OwnedFd, key: &str, value: &Path) -> io::Result<()> {
    fsconfig(context, 1, Some(key), Some(value))
}

#[allow(unsafe_code)]
fn create(context: &OwnedFd) -> io::Result<OwnedFd> {
    const CREATE: u32 = 6;
    fsconfig(context, CREATE, None, None)?;
    // SAFETY: takes integers only; 1 is FSMOUNT_CLOEXEC.
    let file = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1_u32, 0_u32) };
    owned(file)
}

#[allow(unsafe_code)]
fn attach(mounted: &OwnedFd, target: &Path) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_encoded_bytes()).map_err(zero_byte)?;
    const EMPTY_SOURCE: u32 = 4;
    // SAFETY: both names live through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mounted.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            EMPTY_SOURCE,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Unmounts what is mounted at `path`, however often; nothing there is no error.
pub(crate) fn unmount(path: &Path) -> Result<(), SnapshotError> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
            Err(error) => {
                return Err(SnapshotError::Unmount { path: path.to_owned(), source: error.into() });
            }
        }
    }
}
