//! What is known of connected pods, one file each.
//!
//! A file is written aside, flushed and renamed, so it is whole or absent; it is written before anything is made in the kernel and
//! removed after everything is gone.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::pod::{Pod, PortMapping};

/// A file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It, or its folder.
    #[error("{action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It cannot be put into JSON.
    #[error("encode {path}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A container id becomes a file's name.
    #[error("container id {0:?} is empty or has other characters than letters, digits, '_', '.' and '-'")]
    ContainerId(String),
}

/// How a pod was connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Attachment {
    /// By us.
    #[serde(rename_all = "camelCase")]
    Bridge {
        address: Ipv4Addr,
        /// The node's end of the veth.
        interface: String,
    },
    /// By other plugins.
    #[serde(rename_all = "camelCase")]
    Plugins {
        /// As it was, so that the same plugins disconnect it.
        configuration: Value,
        /// What they answered; absent while they are at work.
        #[serde(default)]
        result: Option<Value>,
    },
}

/// A connected pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) pod: Pod,
    pub(crate) netns: PathBuf,
    pub(crate) host_ports: Vec<PortMapping>,
    pub(crate) attachment: Attachment,
}

/// The folder of records.
#[derive(Debug)]
pub(crate) struct Records {
    folder: PathBuf,
}

impl Records {
    pub(crate) fn open(state_dir: &Path) -> Result<Self, RecordError> {
        let folder = state_dir.join("pods");
        fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        Ok(Self { folder })
    }

    /// All records. What was half written is thrown away: nothing was made for it. One that cannot be understood is set aside: its
    /// interface, then unknown, is removed, before its address can be given to another pod.
    pub(crate) fn load(&self) -> Result<Vec<Record>, RecordError> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed("list", &self.folder))? {
            let path = entry.map_err(failed("list", &self.folder))?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = fs::read(&path).map_err(failed("read", &path))?;
            match serde_json::from_slice(&text) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::error!(file = %path.display(), error = &error as &dyn std::error::Error, "a pod's network record is damaged and set aside");
                    fs::rename(&path, path.with_extension("damaged")).map_err(failed("set aside", &path))?;
                }
            }
        }
        Ok(records)
    }

    pub(crate) fn write(&self, record: &Record) -> Result<(), RecordError> {
        let path = self.path(&record.pod.container_id)?;
        let aside = path.with_extension("tmp");
        let text = serde_json::to_vec(record)
            .map_err(|source| RecordError::Content { path: path.clone(), source })?;
        // It is not flushed: no pod's network outlives the machine's run.
        fs::write(&aside, &text).map_err(failed("write", &aside))?;
        fs::rename(&aside, &path).map_err(failed("rename", &aside))
    }

    /// Removes a record; it is no error if there is none.
    pub(crate) fn remove(&self, container_id: &str) -> Result<(), RecordError> {
        let path = self.path(container_id)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn path(&self, container_id: &str) -> Result<PathBuf, RecordError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let first = container_id.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if first && container_id.len() <= 200 && container_id.bytes().all(good) {
            Ok(self.folder.join(format!("{container_id}.json")))
        } else {
            Err(RecordError::ContainerId(container_id.to_owned()))
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecordError {
    let path = path.to_owned();
    move |source| RecordError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        Record {
            pod: Pod {
                container_id: id.to_owned(),
                namespace: "default".to_owned(),
                name: "web".to_owned(),
                uid: "u".to_owned(),
            },
            netns: PathBuf::from("/run/netns/x"),
            host_ports: Vec::new(),
            attachment: Attachment::Bridge {
                address: Ipv4Addr::new(10, 42, 0, 2),
                interface: "k1".to_owned(),
            },
        }
    }

    #[test]
    fn records_outlive_their_writer_and_half_written_ones_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        records.write(&record("a")).unwrap();
        records.write(&record("b")).unwrap();
        records.remove("b").unwrap();
        records.remove("b").unwrap();
        fs::write(folder.path().join("pods/c.tmp"), "{\"po").unwrap();
        let again = Records::open(folder.path()).unwrap();
        assert_eq!(again.load().unwrap(), [record("a")]);
        assert!(!folder.path().join("pods/c.tmp").exists());
    }

    #[test]
    fn a_damaged_record_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        fs::write(folder.path().join("pods/a.json"), "{}").unwrap();
        records.write(&record("b")).unwrap();
        assert_eq!(records.load().unwrap(), [record("b")]);
        assert!(folder.path().join("pods/a.damaged").exists());
        assert_eq!(records.load().unwrap(), [record("b")]);
    }

    #[test]
    fn a_container_id_does_not_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        for id in ["", "../a", ".", "a/b"] {
            assert!(matches!(records.write(&record(id)), Err(RecordError::ContainerId(_))), "{id}");
        }
    }
}
