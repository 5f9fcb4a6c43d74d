//! What was staged and published, on disk beside the mounts, in upstream's files (`vol_data.json`).

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::attachment::volume_name;
use super::driver::CsiError;

const FILE: &str = "vol_data.json";
/// The folder of a pod's volumes of drivers, below the pod's folder.
const VOLUMES: &str = "volumes/kubernetes.io~csi";

/// One volume of a driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) driver_name: String,
    pub(super) volume_handle: String,
    /// `Persistent` or `Ephemeral`.
    #[serde(default)]
    pub(super) volume_lifecycle_mode: String,
    #[serde(default, rename = "specVolID")]
    pub(super) spec_vol_id: String,
    #[serde(default)]
    pub(super) node_name: String,
    /// Empty where the volume was not attached.
    #[serde(default, rename = "attachmentID")]
    pub(super) attachment_id: String,
    /// `Block` for a block device.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) volume_mode: String,
}

/// `volume_mode` of a block device.
pub(super) const BLOCK: &str = "Block";

/// Names of PersistentVolumes that cannot be block devices: what is recorded of them would be where a volume `data` is staged or published.
pub(super) const RESERVED: [&str; 2] = ["staging", "publish"];

/// Where a volume is staged for the node and published to a pod, as upstream's kubelet has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// The folder of what is recorded of the staged volume.
    pub(super) record: PathBuf,
    /// The folder that the driver stages in.
    pub(super) staged: PathBuf,
    /// What the driver makes for the pod: a mount, or a file that is a block device.
    pub(super) target: PathBuf,
}

impl Layout {
    pub(super) fn of_file_system(data_dir: &Path, uid: &str, driver: &str, handle: &str, name: &str) -> Self {
        let record = staging_folder(data_dir, driver, handle);
        let target = pod_folder(data_dir, uid, name).join("mount");
        Layout { staged: record.join("globalmount"), record, target }
    }

    pub(super) fn of_device(data_dir: &Path, uid: &str, name: &str) -> Self {
        let devices = data_dir.join("plugins/kubernetes.io/csi/volumeDevices");
        Layout {
            record: devices.join(name).join("data"),
            staged: devices.join("staging").join(name),
            target: devices.join("publish").join(name).join(uid),
        }
    }
}

impl Record {
    pub(super) fn is_block(&self) -> bool {
        self.volume_mode == BLOCK
    }

    /// Where the volume is for a pod.
    pub(super) fn layout(&self, data_dir: &Path, uid: &str) -> Layout {
        if self.is_block() {
            Layout::of_device(data_dir, uid, &self.spec_vol_id)
        } else {
            Layout::of_file_system(data_dir, uid, &self.driver_name, &self.volume_handle, &self.spec_vol_id)
        }
    }

    /// Whether both are staged in one place.
    pub(super) fn is_staged_with(&self, other: &Record) -> bool {
        self.driver_name == other.driver_name
            && self.volume_handle == other.volume_handle
            && self.is_block() == other.is_block()
            && (!self.is_block() || self.spec_vol_id == other.spec_vol_id)
    }

    /// Writes it into a folder, which is made.
    pub(super) fn write(&self, folder: &Path) -> Result<(), CsiError> {
        fs::create_dir_all(folder).map_err(CsiError::disk("create", folder))?;
        let (path, aside) = (folder.join(FILE), folder.join("vol_data.tmp"));
        let text = serde_json::to_vec(self).map_err(|error| CsiError::disk("write", &path)(error.into()))?;
        let written = fs::File::create(&aside).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        });
        written.and_then(|()| fs::rename(&aside, &path)).map_err(CsiError::disk("write", &path))
    }

    /// Writes it into the folder of a staged block device, which is named as the PersistentVolume is, unless that is another volume's.
    pub(super) fn write_first(&self, folder: &Path) -> Result<(), CsiError> {
        match Record::read(folder)? {
            Some(found) if !found.is_staged_with(self) => Err(CsiError::Refused(format!(
                "volume {} of driver {} is still staged as {:?}",
                found.volume_handle, found.driver_name, self.spec_vol_id
            ))),
            Some(_) | None => self.write(folder),
        }
    }

    /// Removes it from a folder, which goes with the one it is in when both are empty.
    pub(super) fn remove(folder: &Path) -> Result<(), CsiError> {
        match fs::remove_file(folder.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CsiError::disk("remove", folder)(error));
            }
            Ok(()) | Err(_) => {}
        }
        for empty in [Some(folder), folder.parent()].into_iter().flatten() {
            if fs::remove_dir(empty).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Reads it from a folder; `None` if there is none.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, CsiError> {
        let path = folder.join(FILE);
        match fs::read(&path) {
            Ok(text) => {
                let found = serde_json::from_slice(&text);
                found.map(Some).map_err(|error| CsiError::disk("read", &path)(error.into()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CsiError::disk("read", &path)(error)),
        }
    }
}

/// The folder of a volume of a pod.
pub(super) fn pod_folder(data_dir: &Path, uid: &str, name: &str) -> PathBuf {
    data_dir.join("pods").join(uid).join(VOLUMES).join(name)
}

/// The folder of a volume that is staged, with a mount `globalmount` in it.
pub(super) fn staging_folder(data_dir: &Path, driver: &str, handle: &str) -> PathBuf {
    let hash = hex::encode(digest(&SHA256, handle.as_bytes()));
    data_dir.join("plugins/kubernetes.io/csi").join(driver).join(hash)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, CsiError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(CsiError::disk("list", folder)(error)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    paths.map_err(CsiError::disk("list", folder))
}

/// The folders of a pod's volumes with what is recorded of them.
pub(super) fn of_pod(data_dir: &Path, uid: &str) -> Result<Vec<(PathBuf, Option<Record>)>, CsiError> {
    let folders = list(&data_dir.join("pods").join(uid).join(VOLUMES))?;
    folders.into_iter().map(|folder| Record::read(&folder).map(|record| (folder, record))).collect()
}

/// The volumes that were attached for pods: UIDs and names.
pub(super) fn attached(data_dir: &Path) -> Result<Vec<(String, String)>, CsiError> {
    let mut found = Vec::new();
    for pod in list(&data_dir.join("pods"))? {
        let Some(uid) = pod.file_name().and_then(|name| name.to_str()) else { continue };
        for (_, record) in of_pod(data_dir, uid)? {
            let Some(record) = record.filter(|record| !record.attachment_id.is_empty()) else { continue };
            found.push((uid.to_owned(), volume_name(&record.driver_name, &record.volume_handle)));
        }
    }
    Ok(found)
}

/// Whether another pod than `except` has the volume from where it is staged.
pub(super) fn is_shared(data_dir: &Path, except: &str, record: &Record) -> Result<bool, CsiError> {
    for pod in list(&data_dir.join("pods"))? {
        if pod.file_name().is_some_and(|uid| uid == except) {
            continue;
        }
        for folder in list(&pod.join(VOLUMES))? {
            if Record::read(&folder)?.is_some_and(|other| other.is_staged_with(record)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_found_by_whoever_comes_later() {
        let data = std::env::temp_dir().join(format!("keelson-csi-record-{}", std::process::id()));
        let record = Record {
            driver_name: "d".into(),
            volume_handle: "h/1".into(),
            volume_lifecycle_mode: "Persistent".into(),
            spec_vol_id: "pv".into(),
            node_name: "n".into(),
            attachment_id: "csi-1".into(),
            volume_mode: String::new(),
        };
        record.write(&pod_folder(&data, "a", "pv")).unwrap();
        assert_eq!(of_pod(&data, "a").unwrap(), [(pod_folder(&data, "a", "pv"), Some(record.clone()))]);
        assert!(of_pod(&data, "b").unwrap().is_empty());
        assert!(!is_shared(&data, "a", &record).unwrap());
        record.write(&pod_folder(&data, "b", "pv")).unwrap();
        assert!(is_shared(&data, "a", &record).unwrap());
        let mut known = attached(&data).unwrap();
        known.sort();
        let volume = "kubernetes.io/csi/d^h/1";
        assert_eq!(known, ["a", "b"].map(|uid| (uid.to_owned(), volume.to_owned())));
        let other = Record { volume_handle: "h/2".into(), ..record.clone() };
        assert!(!is_shared(&data, "a", &other).unwrap());
        // As a block device it is staged elsewhere.
        let device = Record { volume_mode: BLOCK.into(), ..record };
        assert!(!is_shared(&data, "a", &device).unwrap());
        device.write(&pod_folder(&data, "b", "device")).unwrap();
        assert!(is_shared(&data, "a", &device).unwrap());
        let layout = device.layout(Path::new("/k"), "u");
        let below = |path: &str| Path::new("/k/plugins/kubernetes.io/csi/volumeDevices").join(path);
        assert_eq!(layout.staged, below("staging/pv"));
        assert_eq!((layout.record, layout.target), (below("pv/data"), below("publish/pv/u")));
        let of = |name: &str| Layout::of_device(Path::new("/k"), "u", name);
        let data_layout = of("data");
        assert_eq!(of(RESERVED[0]).record, data_layout.staged);
        assert_eq!(Some(of(RESERVED[1]).record.as_path()), data_layout.target.parent());
        assert!(!staging_folder(&data, "d", "h/1").ends_with("h/1"));
        fs::remove_dir_all(data).unwrap();
    }
}
