//! What is left of what all pods share, and what each of them uses.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::rank::Measure;
use super::threshold::{Observation, Observations, Signal};
use crate::cgroup;
use crate::config::Config;
use crate::node::machine::{self, FileSystem, MachineError};
use crate::usage::{PodFigures, Snapshot};

/// Whether two folders are on different disks; what cannot be seen is not.
pub(super) fn differ(one: &Path, other: &Path) -> bool {
    let device =
        |path: &Path| path.ancestors().find_map(|path| std::fs::metadata(path).ok()).map(|found| found.dev());
    device(one) != device(other)
}

/// (pure) Bytes and inodes of a disk under two signals.
fn put(found: &mut Observations, disk: &FileSystem, bytes: Signal, inodes: Signal) {
    found.insert(bytes, Observation { available: disk.available, capacity: disk.usable() });
    if disk.inodes > 0 {
        found.insert(inodes, Observation { available: disk.inodes_free, capacity: disk.inodes });
    }
}

/// What is left. `images` is where those are kept; `pods_memory` what all pods together may have, 0 for anything.
pub(super) fn observe(
    config: &Config,
    images: Option<&Path>,
    pods_memory: u64,
) -> Result<Observations, MachineError> {
    let mut found = Observations::new();
    let memory = machine::memory()?;
    found.insert(Signal::Memory, Observation { available: memory.available, capacity: memory.total });
    if pods_memory > 0 {
        let groups = config.cgroups();
        let used = cgroup::working_set(&groups.path(&groups.root)).unwrap_or(0);
        let available = pods_memory.saturating_sub(used);
        found.insert(Signal::AllocatableMemory, Observation { available, capacity: pods_memory });
    }
    let nodefs = machine::file_system(&config.data_dir)?;
    put(&mut found, &nodefs, Signal::Nodefs, Signal::NodefsInodes);
    let imagefs = images.map_or(Ok(nodefs), machine::file_system)?;
    put(&mut found, &imagefs, Signal::Imagefs, Signal::ImagefsInodes);
    let own = images.is_some_and(|images| differ(images, &config.data_dir));
    let containerfs = if own { &imagefs } else { &nodefs };
    put(&mut found, containerfs, Signal::Containerfs, Signal::ContainerfsInodes);
    let processes = machine::processes()?;
    let available = processes.max.saturating_sub(processes.running);
    found.insert(Signal::Pid, Observation { available, capacity: processes.max });
    Ok(found)
}

/// (pure) What pods use of memory and processes, by UID.
pub(super) fn measures(snapshot: &Snapshot) -> HashMap<String, Measure> {
    snapshot.pods.iter().map(|pod| (pod.model.uid.clone(), of_pod(pod))).collect()
}

fn of_pod(pod: &PodFigures) -> Measure {
    let containers = pod.containers.iter().map(|one| (one.name.clone(), one.group.memory.working_set));
    Measure {
        memory: pod.group.memory.working_set,
        processes: pod.group.threads.unwrap_or(0),
        containers: containers.collect(),
        ..Measure::default()
    }
}
