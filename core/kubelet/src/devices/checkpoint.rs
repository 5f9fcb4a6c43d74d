//! What devices were given to whom, on disk: upstream's file and shape, so that those who read it there read it here. Its checksum
//! is another.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use keelson_devices::v1beta1::ContainerAllocateResponse;
use prost::Message as _;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::inventory::{Entry, Grant, Inventory};

const FILE: &str = "kubelet_internal_checkpoint";
/// The number for devices that are at no memory node.
const NOWHERE: i64 = -1;

/// Why it is not known who has what.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("{action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is damaged: drain the node, and remove it", path.display())]
    Damaged { path: PathBuf },
    #[error("make the text of the state")]
    Text(#[source] serde_json::Error),
}

impl CheckpointError {
    pub(super) fn broken(error: tokio::task::JoinError) -> Self {
        CheckpointError::File { action: "write", path: FILE.into(), source: io::Error::other(error) }
    }
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    #[serde(rename = "ContainerName")]
    container_name: String,
    #[serde(rename = "ResourceName")]
    resource_name: String,
    /// By memory node.
    #[serde(rename = "DeviceIDs")]
    device_ids: BTreeMap<i64, BTreeSet<String>>,
    /// The plugin's answer, encoded.
    #[serde(rename = "AllocResp")]
    alloc_resp: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Data {
    #[serde(rename = "PodDeviceEntries", default)]
    entries: Vec<Line>,
    #[serde(rename = "RegisteredDevices", default)]
    registered: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Whole {
    #[serde(rename = "Data")]
    data: Data,
    #[serde(rename = "Checksum")]
    checksum: String,
}

fn line(entry: Entry) -> Line {
    let mut device_ids: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
    for (id, nodes) in entry.grant.devices {
        if nodes.is_empty() {
            device_ids.entry(NOWHERE).or_default().insert(id);
        } else {
            nodes.iter().for_each(|node| {
                device_ids.entry(i64::from(*node)).or_default().insert(id.clone());
            });
        }
    }
    let response = entry.grant.response.unwrap_or_default().encode_to_vec();
    Line {
        pod_uid: entry.uid,
        container_name: entry.container,
        resource_name: entry.resource,
        device_ids,
        alloc_resp: BASE64_STANDARD.encode(response),
    }
}

fn entry(line: Line) -> Option<Entry> {
    let response = BASE64_STANDARD.decode(line.alloc_resp).ok()?;
    let response = ContainerAllocateResponse::decode(response.as_slice()).ok()?;
    let mut grant = Grant { response: Some(response), ..Grant::default() };
    for (node, ids) in line.device_ids {
        for id in ids {
            let nodes = grant.devices.entry(id).or_default();
            nodes.extend(u32::try_from(node).ok());
        }
    }
    Some(Entry { uid: line.pod_uid, container: line.container_name, resource: line.resource_name, grant })
}

fn checksum(data: &str) -> String {
    hex::encode(digest(&SHA256, data.as_bytes()))
}

/// The file.
#[derive(Debug, Clone)]
pub(super) struct Checkpoint(PathBuf);

impl Checkpoint {
    /// The file in a folder.
    pub(super) fn new(folder: &Path) -> Self {
        Checkpoint(folder.join(FILE))
    }

    /// What is to be written (pure).
    pub(super) fn text(&self, inventory: &Inventory) -> Result<String, CheckpointError> {
        let entries = inventory.entries().into_iter().map(line).collect();
        let data = serde_json::to_string(&Data { entries, registered: inventory.registered() });
        let data = data.map_err(CheckpointError::Text)?;
        Ok(format!("{{\"Data\":{data},\"Checksum\":\"{}\"}}", checksum(&data)))
    }

    fn file(&self, action: &'static str) -> impl FnOnce(io::Error) -> CheckpointError {
        let path = self.0.clone();
        move |source| CheckpointError::File { action, path, source }
    }

    /// Writes it, so that after a crash the one or the other is there. Blocks.
    pub(super) fn write(&self, text: &str) -> Result<(), CheckpointError> {
        let aside = self.0.with_extension("tmp");
        let work = || {
            let folder = self.0.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(folder)?;
            let mut file = fs::File::create(&aside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, &self.0)?;
            fs::File::open(folder)?.sync_all()
        };
        work().map_err(self.file("write"))
    }

    /// Reads it; nothing where there is none. Blocks.
    pub(super) fn read(&self, now: Timestamp) -> Result<Inventory, CheckpointError> {
        let text = match fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Inventory::default()),
            Err(error) => return Err(self.file("read")(error)),
        };
        let damaged = || CheckpointError::Damaged { path: self.0.clone() };
        let whole: Whole = serde_json::from_str(&text).map_err(|_| damaged())?;
        let data = serde_json::to_string(&whole.data).map_err(CheckpointError::Text)?;
        if checksum(&data) != whole.checksum {
            return Err(damaged());
        }
        let entries: Option<Vec<Entry>> = whole.data.entries.into_iter().map(entry).collect();
        Ok(Inventory::restore(entries.ok_or_else(damaged)?, whole.data.registered.into_keys(), now))
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn what_was_given_is_read_back_and_a_damaged_file_is_told() {
        let folder = std::env::temp_dir().join(format!("keelson-devices-{}", uuid::Uuid::new_v4()));
        let checkpoint = Checkpoint::new(&folder);
        let now = Timestamp::UNIX_EPOCH;
        assert!(checkpoint.read(now).unwrap().entries().is_empty());
        let response = ContainerAllocateResponse {
            envs: [("A".to_owned(), "b".to_owned())].into(),
            ..ContainerAllocateResponse::default()
        };
        let devices = [("a", vec![0, 1]), ("b", vec![])];
        let devices = devices.map(|(id, nodes)| (id.to_owned(), nodes.into_iter().collect())).into();
        let given = Entry {
            uid: "u".to_owned(),
            container: "c".to_owned(),
            resource: "example.com/gpu".to_owned(),
            grant: Grant { devices, response: Some(response) },
        };
        let before = Inventory::restore(vec![given.clone()], ["example.com/gpu".to_owned()], now);
        checkpoint.write(&checkpoint.text(&before).unwrap()).unwrap();
        assert_eq!(checkpoint.read(now).unwrap().entries(), [given]);
        let text = fs::read_to_string(&checkpoint.0).unwrap();
        assert!(text.contains(r#""DeviceIDs":{"-1":["b"],"0":["a"],"1":["a"]}"#), "{text}");
        for wrong in [text.replace("\"u\"", "\"v\""), text.replace("Data", "data"), String::new()] {
            fs::write(&checkpoint.0, wrong).unwrap();
            let told = checkpoint.read(now).unwrap_err().to_string();
            assert!(told.ends_with("is damaged: drain the node, and remove it"), "{told}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
