//! Ranges of user and group ids for pods with a user namespace of their own (`hostUsers: false`).
//!
//! A pod has 65536 ids that no other pod of the node has. They are kept in the pod's folder and go with it: what the folders say is all
//! that is known, so that no restart loses or doubles a range.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use keelson_cri::v1;
use serde::{Deserialize, Serialize};

/// Ids of a pod.
const LENGTH: u32 = 65536;
/// The name of the record in a pod's folder, as other kubelets have it.
const RECORD: &str = "userns";

/// Why a pod has no range.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RangeError {
    #[error("{action} {}: {source}", path.display())]
    Disk { action: &'static str, path: PathBuf, source: io::Error },
    #[error("the record of user ids in {} is damaged: {source}", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("could not find an empty slot to allocate a user namespace")]
    Exhausted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Range {
    host_id: u32,
    container_id: u32,
    length: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    uid_mappings: Vec<Range>,
    gid_mappings: Vec<Range>,
}

impl Record {
    fn of(slot: u32) -> Self {
        let range = Range { host_id: slot * LENGTH, container_id: 0, length: LENGTH };
        Record { uid_mappings: vec![range.clone()], gid_mappings: vec![range] }
    }

    fn message(&self) -> v1::UserNamespace {
        let of = |ranges: &[Range]| {
            let one = |range: &Range| v1::IdMapping {
                host_id: range.host_id,
                container_id: range.container_id,
                length: range.length,
            };
            ranges.iter().map(one).collect()
        };
        v1::UserNamespace {
            mode: v1::NamespaceMode::Pod as i32,
            uids: of(&self.uid_mappings),
            gids: of(&self.gid_mappings),
        }
    }
}

fn read(folder: &Path) -> Result<Option<Record>, RangeError> {
    let path = folder.join(RECORD);
    match fs::read(&path) {
        Ok(text) => {
            serde_json::from_slice(&text).map(Some).map_err(|source| RangeError::Damaged { path, source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RangeError::Disk { action: "read", path, source }),
    }
}

/// Puts the ids where the runtime is told of namespaces.
pub(crate) fn tell(options: Option<&mut v1::NamespaceOption>, users: Option<&v1::UserNamespace>) {
    if let (Some(options), Some(users)) = (options, users) {
        options.userns_options = Some(users.clone());
    }
}

/// Whether a runtime says that a handler of its can give pods user namespaces.
pub(crate) fn is_supported(status: &v1::StatusResponse, handler: &str) -> bool {
    let found = status.runtime_handlers.iter().find(|one| one.name == handler);
    found.and_then(|one| one.features.as_ref()).is_some_and(|features| features.user_namespaces)
}

/// Who holds it gives ranges.
static TURN: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

/// The ids of a pod: those that it has, or the first that nobody has, of as many as there are pods. The first 65536 are the
/// node's own.
pub(crate) fn of_pod(data_dir: &Path, uid: &str, max_pods: u32) -> Result<v1::UserNamespace, RangeError> {
    let _turn = TURN.lock();
    let pods = data_dir.join("pods");
    let own = pods.join(uid);
    if let Some(known) = read(&own)? {
        return Ok(known.message());
    }
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| RangeError::Disk { action, path, source }
    };
    fs::create_dir_all(&own).map_err(failed("create", &own))?;
    let mut taken = BTreeSet::new();
    for entry in fs::read_dir(&pods).map_err(failed("list", &pods))? {
        let folder = entry.map_err(failed("list", &pods))?.path();
        // What cannot be read may be anything: nothing is given before that is settled.
        if let Some(record) = read(&folder)? {
            taken.extend(record.uid_mappings.iter().map(|range| range.host_id / LENGTH));
        }
    }
    let slot = (1..=max_pods.min(u32::MAX / LENGTH - 1)).find(|slot| !taken.contains(slot));
    let record = Record::of(slot.ok_or(RangeError::Exhausted)?);
    let (path, aside) = (own.join(RECORD), own.join(".userns"));
    // The pod's files are owned by these ids: they must not be another's after a crash of the machine.
    let flushed = || -> io::Result<()> {
        let text = serde_json::to_vec(&record)?;
        let mut file = File::create(&aside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        File::open(&own)?.sync_all()
    };
    flushed().map_err(failed("write", &path))?;
    Ok(record.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_has_its_own_ids_which_it_keeps_and_gives_back_with_its_folder() {
        let data = std::env::temp_dir().join(format!("keelson-userns-{}", uuid::Uuid::new_v4()));
        let first = |uid: &str| of_pod(&data, uid, 2).map(|users| users.uids[0].host_id);
        assert_eq!((first("a").unwrap(), first("b").unwrap(), first("a").unwrap()), (65536, 131_072, 65536));
        assert!(matches!(first("c"), Err(RangeError::Exhausted)));
        fs::remove_dir_all(data.join("pods/a")).unwrap();
        assert_eq!(first("c").unwrap(), 65536);
        fs::write(data.join("pods/b/userns"), "{").unwrap();
        assert!(matches!(first("d"), Err(RangeError::Damaged { .. })));
        fs::remove_dir_all(&data).unwrap();
    }
}
