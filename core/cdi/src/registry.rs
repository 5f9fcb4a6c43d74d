//! Which device is meant by a name (pure).

use std::collections::{BTreeMap, BTreeSet};

use crate::file::{Edits, File};
use crate::{CdiError, Resolved};

/// A file that was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Of which folder: the higher wins.
    pub(super) priority: usize,
    /// What it says.
    pub(super) file: File,
}

/// All devices by name: the places of file and device.
#[derive(Debug)]
pub(super) struct Registry {
    found: Vec<Found>,
    devices: BTreeMap<String, (usize, usize)>,
}

impl Registry {
    /// The devices of the files. One that two files of a folder have is nobody's.
    pub(super) fn new(found: Vec<Found>) -> Self {
        let mut devices: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        let mut conflicts = BTreeSet::new();
        for (at, one) in found.iter().enumerate() {
            for (index, device) in one.file.devices.iter().enumerate() {
                let name = format!("{}={}", one.file.kind, device.name);
                let known = devices.get(&name).map(|(file, _)| found[*file].priority);
                if known.is_some_and(|known| known == one.priority) {
                    tracing::warn!(device = name, "two files of a folder say what a CDI device is");
                    conflicts.insert(name.clone());
                }
                if known.is_none_or(|known| known < one.priority) {
                    devices.insert(name, (at, index));
                }
            }
        }
        devices.retain(|name, _| !conflicts.contains(name));
        Registry { found, devices }
    }

    /// What a container gets that has these devices, in order: what a file says for all of its devices comes once, before its first.
    pub(super) fn resolve(&self, names: &[String]) -> Result<Vec<Resolved>, CdiError> {
        let said_of =
            |device: &String, edits: &Edits| Resolved { device: device.clone(), edits: edits.clone() };
        let (mut edits, mut unknown, mut files) = (Vec::new(), Vec::new(), BTreeSet::new());
        for name in names {
            let Some((file, device)) = self.devices.get(name) else {
                unknown.push(name.clone());
                continue;
            };
            let said = &self.found[*file].file;
            if files.insert(file) {
                edits.push(said_of(name, &said.container_edits));
            }
            edits.push(said_of(name, &said.devices[*device].container_edits));
        }
        if unknown.is_empty() { Ok(edits) } else { Err(CdiError::Unresolvable(unknown)) }
    }
}
