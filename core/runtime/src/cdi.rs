//! Devices of the Container Device Interface: what vendors say a container needs for a device, in files of two folders.
//!
//! - [`file`](mod@file): one such file, read and checked (pure).
//! - [`registry`]: which device is meant by a name, and where two files contradict each other (pure).
//! - [`edits`]: what becomes of a container's configuration (pure, but for looking at device nodes).

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::pod_process::protocol::Identity;

mod edits;
mod file;
mod registry;

use registry::{Found, Registry};

/// Where files are; those of a later folder come before those of an earlier one.
const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// A file is no longer than this.
const MAX_FILE: u64 = 4 << 20;

/// Why a container cannot have its devices.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CdiError {
    /// No file, or more than one, says what they are.
    #[error("CDI device injection failed: unresolvable CDI devices {}", .0.join(", "))]
    Unresolvable(Vec<String>),
    /// A node of a device is not there.
    #[error("CDI device injection failed: failed to inject devices: failed to stat CDI host device {path:?}")]
    Node {
        /// The node.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is another thing than the file says.
    #[error(
        "CDI device injection failed: failed to inject devices: CDI device ({path:?}, {wanted:?}), host type mismatch ({found:?})"
    )]
    Kind {
        /// The node.
        path: PathBuf,
        /// What the file says.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// Something that this runtime does not do.
    #[error("CDI device injection failed: {what} of CDI device {device}: not supported by this runtime")]
    Unsupported {
        /// The device.
        device: String,
        /// What.
        what: &'static str,
    },
}

fn read(path: &Path) -> Result<file::File, String> {
    let mut text = String::new();
    let opened = fs::File::open(path).map_err(|error| error.to_string())?;
    opened.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("longer than {MAX_FILE} bytes"));
    }
    file::File::parse(&text, path.extension().is_some_and(|it| it == "yaml"))
}

/// All files of the folders, in the order of their names.
fn gather(folders: &[&Path]) -> Vec<Found> {
    let mut found = Vec::new();
    for (priority, folder) in folders.iter().enumerate() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        let is_file = |path: &PathBuf| path.extension().is_some_and(|it| it == "json" || it == "yaml");
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_file).collect();
        paths.sort();
        for path in paths {
            match read(&path) {
                Ok(file) => found.push(Found { priority, file }),
                Err(error) => {
                    tracing::warn!(path = %path.display(), error, "a file of CDI devices is not used");
                }
            }
        }
    }
    found
}

/// Changes a container's OCI configuration and its program's identity as its devices ask for.
pub(crate) fn inject(names: &[String], oci: &mut Value, identity: &mut Identity) -> Result<(), CdiError> {
    inject_from(&FOLDERS.map(Path::new), names, oci, identity)
}

fn inject_from(
    folders: &[&Path],
    names: &[String],
    oci: &mut Value,
    identity: &mut Identity,
) -> Result<(), CdiError> {
    if names.is_empty() {
        return Ok(());
    }
    let registry = Registry::new(gather(folders));
    for (device, wanted) in registry.resolve(names)? {
        edits::check(device, wanted)?;
        edits::apply(wanted, oci, identity)?;
    }
    edits::sort_mounts(oci);
    Ok(())
}

#[cfg(test)]
mod tests;
