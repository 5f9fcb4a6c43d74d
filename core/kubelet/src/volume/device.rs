//! Block devices that pods have by claims: a link in the pod's folder, and the device held open.
//!
//! While a device is held nothing else comes to have its number: what containers may use stays what they were given. What was given
//! is recorded, so that a later run of this kubelet sees when it was replaced while nobody held it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::libc;
use serde::{Deserialize, Serialize};

/// The name of the record, beside what else is known of a pod's volume.
pub(super) const RECORD: &str = "device.json";
/// The folder of links to devices, below the pod's folder.
const LINKS: &str = "volumeDevices";

/// Why a pod cannot have a device.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("{} is not a block device", path.display())]
    Kind { path: PathBuf },
    #[error("{action} {}: {reason}", path.display())]
    Io { action: &'static str, path: PathBuf, reason: io::Error },
    #[error(
        "the device {major}:{minor} at {} is another one than the pod was given: it has been replaced", path.display()
    )]
    Replaced { path: PathBuf, major: u64, minor: u64 },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DeviceError {
    let path = path.to_owned();
    move |reason| DeviceError::Io { action, path, reason }
}

/// What tells a device from others that come to have its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    /// The kernel's run.
    boot: String,
    major: u64,
    minor: u64,
    /// Counted up by the kernel with each disk; older ones do not.
    sequence: Option<u64>,
}

impl Identity {
    /// (pure) Whether another device has the number now.
    fn is_replaced_by(&self, now: &Identity) -> bool {
        let sequences = self.sequence.zip(now.sequence);
        (&self.boot, self.major, self.minor) == (&now.boot, now.major, now.minor)
            && sequences.is_some_and(|(before, now)| before != now)
    }
}

/// A device that is held open.
#[derive(Debug)]
pub(super) struct Held {
    _file: File,
}

/// Where the link to a device of a pod is.
pub(super) fn link(data_dir: &Path, uid: &str, plugin: &str, volume: &str) -> PathBuf {
    data_dir.join("pods").join(uid).join(LINKS).join(plugin).join(volume)
}

fn sequence(major: u64, minor: u64) -> Option<u64> {
    let folder = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // Of a part of a disk it is the disk's.
    let text = fs::read_to_string(folder.join("diskseq"));
    let text = text.or_else(|_| fs::read_to_string(folder.join("../diskseq"))).ok()?;
    text.trim().parse().ok()
}

fn open(path: &Path) -> Result<(File, Identity), DeviceError> {
    let is_device = |found: &fs::Metadata| found.file_type().is_block_device();
    let not = || DeviceError::Kind { path: path.to_owned() };
    if !is_device(&fs::metadata(path).map_err(failed("look at", path))?) {
        return Err(not());
    }
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(failed("open", path))?;
    let found = file.metadata().map_err(failed("look at", path))?;
    if !is_device(&found) {
        return Err(not());
    }
    let (major, minor) = (u64::from(libc::major(found.rdev())), u64::from(libc::minor(found.rdev())));
    let boot = Path::new("/proc/sys/kernel/random/boot_id");
    let boot = fs::read_to_string(boot).map_err(failed("read", boot))?.trim().to_owned();
    Ok((file, Identity { boot, major, minor, sequence: sequence(major, minor) }))
}

fn read(path: &Path) -> Result<Option<Identity>, DeviceError> {
    match fs::read(path) {
        Ok(text) => {
            serde_json::from_slice(&text).map(Some).map_err(|error| failed("read", path)(error.into()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn write(path: &Path, identity: &Identity) -> Result<(), DeviceError> {
    let text = serde_json::to_vec(identity).map_err(|error| failed("write", path)(error.into()))?;
    let aside = path.with_extension("tmp");
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(&text)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&aside, path)).map_err(failed("write", path))
}

/// Gives a device to a pod: holds it, records what it is, and makes the link. May be repeated. Blocks.
pub(super) fn map(device: &Path, link: &Path, record: &Path) -> Result<Held, DeviceError> {
    let (file, now) = open(device)?;
    let before = read(record)?;
    if before.as_ref().is_some_and(|before| before.is_replaced_by(&now)) {
        return Err(DeviceError::Replaced { path: device.to_owned(), major: now.major, minor: now.minor });
    }
    if before.as_ref() != Some(&now) {
        write(record, &now)?;
    }
    if fs::read_link(link).ok().as_deref() != Some(device) {
        if let Some(folder) = link.parent() {
            fs::create_dir_all(folder).map_err(failed("create", folder))?;
        }
        match fs::remove_file(link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", link)(error));
            }
            Ok(()) | Err(_) => symlink(device, link).map_err(failed("link", link))?,
        }
    }
    Ok(Held { _file: file })
}

/// Takes the links to a pod's devices away. Blocks.
pub(super) fn unlink_all(data_dir: &Path, uid: &str) -> io::Result<()> {
    match fs::remove_dir_all(data_dir.join("pods").join(uid).join(LINKS)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_replaced_when_another_disk_has_its_number_in_the_same_run_of_the_kernel() {
        let of = |boot: &str, minor, sequence| Identity { boot: boot.to_owned(), major: 7, minor, sequence };
        let before = of("a", 0, Some(3));
        assert!(before.is_replaced_by(&of("a", 0, Some(4))));
        assert!(!before.is_replaced_by(&before));
        // The driver has given the pod another device itself, the machine was started anew, or nobody knows.
        assert!(!before.is_replaced_by(&of("a", 1, Some(4))));
        assert!(!before.is_replaced_by(&of("b", 0, Some(4))));
        assert!(!before.is_replaced_by(&of("a", 0, None)));
    }

    #[test]
    fn what_is_no_block_device_is_not_given_to_a_pod() {
        let data = std::env::temp_dir().join(format!("keelson-device-{}", std::process::id()));
        fs::create_dir_all(&data).unwrap();
        let (link, record) = (link(&data, "u", "kubernetes.io~csi", "pv"), data.join(RECORD));
        for path in ["/dev/null", "/proc"] {
            let error = map(Path::new(path), &link, &record).unwrap_err().to_string();
            assert_eq!(error, format!("{path} is not a block device"));
        }
        assert!(!fs::exists(&record).unwrap() && fs::symlink_metadata(&link).is_err());
        fs::remove_dir_all(data).unwrap();
    }
}
