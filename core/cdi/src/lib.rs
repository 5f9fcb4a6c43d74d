//! Devices of the Container Device Interface: what vendors say in files that a container needs for them.
//!
//! - [`resolve`]: what a container gets that has some devices, by their names
//! - [`Edits`]: what that is, as the CDI specification has it; what becomes of it is for who makes containers
//! - [`HostNode`]: what is there of a device node on this machine
//! - pure: `file` (one file, read and checked), `registry` (which device is meant by a name)

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

mod error;
mod file;
mod host_node;
mod registry;

pub use error::CdiError;
pub use file::{DeviceNode, Edits, Mount};
pub use host_node::HostNode;

use registry::{Found, Registry};

/// Where files are; those of a later folder come before those of an earlier one.
const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// A file is no longer than this.
const MAX_FILE: u64 = 4 << 20;

/// What a container gets with a device, or with the first device of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The device's name, as `vendor.com/class=name`.
    pub device: String,
    /// What the container gets.
    pub edits: Edits,
}

impl Resolved {
    /// Refuses what nobody here does for a container, in the name of who makes it.
    pub fn check(&self, by: &'static str) -> Result<(), CdiError> {
        let used = [
            (!self.edits.hooks.is_empty(), "hooks"),
            (!self.edits.net_devices.is_empty(), "netDevices"),
            (self.edits.intel_rdt.is_some(), "intelRdt"),
        ];
        match used.into_iter().find(|(is_used, _)| *is_used) {
            Some((_, what)) => {
                Err(CdiError::Unsupported { device: self.device.clone(), what: what.to_owned(), by })
            }
            None => Ok(()),
        }
    }
}

fn read(path: &Path) -> Result<file::File, String> {
    let mut text = String::new();
    // A pipe of such a name would be waited for.
    let opened = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let opened = opened.map_err(|error| error.to_string())?;
    if !opened.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("not a file".to_owned());
    }
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

/// What a container gets with the devices of these names, in the order in which it gets it; reads the files of `/etc/cdi` and
/// `/var/run/cdi`.
pub fn resolve(names: &[String]) -> Result<Vec<Resolved>, CdiError> {
    resolve_from(&FOLDERS.map(Path::new), names)
}

/// The same of files in other folders.
pub fn resolve_from(folders: &[&Path], names: &[String]) -> Result<Vec<Resolved>, CdiError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    Registry::new(gather(folders)).resolve(names)
}

#[cfg(test)]
mod tests;
