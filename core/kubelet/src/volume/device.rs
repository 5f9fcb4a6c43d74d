//! Block devices that pods have by claims: a link in the pod's folder, and the device held open.
//!
//! While a device is held nothing else comes to have its number: what containers may use stays what they were given. What was given
//! is recorded, so that a later run of this kubelet sees when it was replaced while nobody held it: the pod's end then begins, for its
//! containers go on with the number that they were given.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::libc;
use serde::{Deserialize, Serialize};

/// The name of the record, beside what else is known of a pod's volume.
pub(crate) const RECORD: &str = "device.json";
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
        "the device {major}:{minor} that the pod was given at {} is another one now: it has been replaced", path.display()
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
    fn has_number_of(&self, other: &Identity) -> bool {
        (self.major, self.minor) == (other.major, other.minor)
    }

    /// (pure) Whether the number is another device's by now. The pod is about to be given `now`; `present` says which disk has a number.
    fn is_replaced(&self, now: &Identity, present: impl Fn(u64, u64) -> Option<u64>) -> bool {
        if self.has_number_of(now) {
            let sequences = self.sequence.zip(now.sequence);
            return self.boot == now.boot && sequences.is_some_and(|(before, now)| before != now);
        }
        self.is_gone(&now.boot, present)
    }

    /// (pure) Whether the disk does not have its number any more. Containers that run still have that: there may be nothing by now, and
    /// something else later.
    fn is_gone(&self, boot: &str, present: impl Fn(u64, u64) -> Option<u64>) -> bool {
        self.boot == boot && self.sequence.is_some() && present(self.major, self.minor) != self.sequence
    }
}

/// A device that is held open.
#[derive(Debug)]
pub(super) struct Held {
    _file: File,
    identity: Identity,
}

/// The devices that are held for a volume of a pod: more than one when its path has come to lead elsewhere.
#[derive(Debug, Default)]
pub(super) struct Holding(Vec<Held>);

impl Holding {
    /// Containers that run may still have the one from before.
    pub(super) fn add(&mut self, held: Held) {
        self.0.retain(|known| !known.identity.has_number_of(&held.identity));
        self.0.push(held);
    }
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
    Ok((file, Identity { boot: boot()?, major, minor, sequence: sequence(major, minor) }))
}

/// The kernel's run.
fn boot() -> Result<String, DeviceError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(fs::read_to_string(path).map_err(failed("read", path))?.trim().to_owned())
}

/// (pure) Whether what is recorded may still be there: nothing of a device outlives the kernel's run but names.
fn is_current(record: Option<&Identity>, boot: &str) -> bool {
    record.is_none_or(|record| record.boot == boot)
}

/// Whether a device was given to a pod in an earlier run of the kernel. Blocks.
pub(crate) fn is_of_earlier_boot(record: &Path) -> Result<bool, DeviceError> {
    Ok(!is_current(read(record)?.as_ref(), &boot()?))
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
    let before = read(record)?;
    let replaced = |before: &Identity| {
        let (major, minor) = (before.major, before.minor);
        DeviceError::Replaced { path: device.to_owned(), major, minor }
    };
    let (file, now) = match (open(device), &before) {
        (Err(_), Some(before)) if before.is_gone(&boot()?, sequence) => return Err(replaced(before)),
        (opened, _) => opened?,
    };
    if let Some(before) = before.as_ref().filter(|before| before.is_replaced(&now, sequence)) {
        return Err(replaced(before));
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
    Ok(Held { _file: file, identity: now })
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
        let nobody = |_, _| -> Option<u64> { panic!("the device's own number says it") };
        assert!(before.is_replaced(&of("a", 0, Some(4)), nobody));
        assert!(!before.is_replaced(&before, nobody));
        // The machine was started anew, or nobody knows.
        assert!(!before.is_replaced(&of("b", 0, Some(4)), nobody));
        assert!(!before.is_replaced(&of("a", 0, None), nobody));
        assert!(!of("a", 0, None).is_replaced(&of("a", 1, Some(4)), nobody));
    }

    #[test]
    fn a_path_may_lead_to_another_number_while_the_one_from_before_is_still_the_same_disk() {
        let of = |minor, sequence| Identity { boot: "a".into(), major: 7, minor, sequence: Some(sequence) };
        let (before, now) = (of(0, 3), of(1, 4));
        let has = |sequence: Option<u64>| {
            move |major, minor| {
                assert_eq!((major, minor), (7, 0));
                sequence
            }
        };
        assert!(!before.is_replaced(&now, has(Some(3))));
        assert!(before.is_replaced(&now, has(Some(5))));
        assert!(before.is_replaced(&now, has(None)), "what comes to have the number next is another one");
        // Nothing is at the path.
        assert!(!before.is_gone("a", has(Some(3))) && before.is_gone("a", has(None)));
        assert!(!before.is_gone("b", has(None)));
    }

    #[test]
    fn what_is_held_of_a_volume_is_one_device_of_each_number() {
        let held = |minor, sequence| Held {
            _file: File::open("/dev/null").unwrap(),
            identity: Identity { boot: "a".into(), major: 7, minor, sequence: Some(sequence) },
        };
        let mut holding = Holding::default();
        [held(0, 1), held(0, 1), held(1, 2)].into_iter().for_each(|held| holding.add(held));
        assert_eq!(holding.0.iter().map(|held| held.identity.minor).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn what_was_given_in_an_earlier_run_of_the_kernel_is_not_there_any_more() {
        let record = Identity { boot: "a".to_owned(), major: 7, minor: 0, sequence: None };
        assert!(is_current(Some(&record), "a") && !is_current(Some(&record), "b"));
        // It was published and not given yet.
        assert!(is_current(None, "b"));
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
