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
}

impl Record {
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

/// Whether another pod than `except` has the volume.
pub(super) fn is_shared(data_dir: &Path, except: &str, record: &Record) -> Result<bool, CsiError> {
    for pod in list(&data_dir.join("pods"))? {
        if pod.file_name().is_some_and(|uid| uid == except) {
            continue;
        }
        for folder in list(&pod.join(VOLUMES))? {
            let other = Record::read(&folder)?;
            let same = |it: &Record| {
                it.driver_name == record.driver_name && it.volume_handle == record.volume_handle
            };
            if other.as_ref().is_some_and(same) {
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
        let other = Record { volume_handle: "h/2".into(), ..record };
        assert!(!is_shared(&data, "a", &other).unwrap());
        assert!(!staging_folder(&data, "d", "h/1").ends_with("h/1"));
        fs::remove_dir_all(data).unwrap();
    }
}
