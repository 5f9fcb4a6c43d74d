//! Use of CPU, memory, disk and network, from control groups, folders and interfaces.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use keelson_cri::v1;

use crate::cgroup::Usage;
use crate::state::{Container, Phase, Runtime, Sandbox, now};

/// A folder is not counted more often.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// Nor before this many times as long has passed as counting took: who asks often does not keep the disk busy.
const COUNT_SHARE: u32 = 20;

/// A count of a folder, and until when it holds.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    usage: v1::FilesystemUsage,
    until: Instant,
}

fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

fn cpu(usage: &Usage, timestamp: i64) -> v1::CpuUsage {
    v1::CpuUsage { timestamp, usage_core_nano_seconds: value(usage.cpu_nanos), usage_nano_cores: None }
}

fn memory(usage: &Usage, timestamp: i64) -> v1::MemoryUsage {
    let available = usage.memory_limit.map(|limit| limit.saturating_sub(usage.working_set_bytes));
    v1::MemoryUsage {
        timestamp,
        working_set_bytes: value(usage.working_set_bytes),
        available_bytes: available.and_then(value),
        usage_bytes: value(usage.memory_bytes),
        rss_bytes: value(usage.rss_bytes),
        page_faults: value(usage.page_faults),
        major_page_faults: value(usage.major_page_faults),
    }
}

/// Bytes and inodes below a folder, on its file system alone.
pub(crate) fn disk_usage(folder: &Path) -> (u64, u64) {
    let Ok(root) = fs::symlink_metadata(folder) else { return (0, 0) };
    let (mut bytes, mut inodes) = (root.blocks() * 512, 1);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != root.dev() {
                continue;
            }
            bytes += metadata.blocks() * 512;
            inodes += 1;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    (bytes, inodes)
}

pub(crate) fn file_system(mountpoint: &Path, folder: &Path) -> v1::FilesystemUsage {
    let (bytes, inodes) = disk_usage(folder);
    v1::FilesystemUsage {
        timestamp: now(),
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: mountpoint.display().to_string() }),
        used_bytes: value(bytes),
        inodes_used: value(inodes),
    }
}

/// The interfaces in the namespace of process `pid`, by /proc/PID/net/dev.
fn network(pid: i32, timestamp: i64) -> v1::NetworkUsage {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let interfaces: Vec<_> = text.lines().filter_map(interface).filter(|one| one.name != "lo").collect();
    let default_interface = interfaces.iter().find(|one| one.name == "eth0").or(interfaces.first()).cloned();
    v1::NetworkUsage { timestamp, default_interface, interfaces }
}

fn interface(line: &str) -> Option<v1::NetworkInterfaceUsage> {
    let (name, rest) = line.split_once(':')?;
    let numbers: Vec<u64> = rest.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let at = |index: usize| numbers.get(index).copied().and_then(value);
    Some(v1::NetworkInterfaceUsage {
        name: name.trim().to_owned(),
        rx_bytes: at(0),
        rx_errors: at(2),
        tx_bytes: at(8),
        tx_errors: at(10),
    })
}

impl Runtime {
    /// Counted anew only when images have come or gone.
    pub(crate) fn image_usage(&self) -> v1::FilesystemUsage {
        let folder = self.images.root();
        let changed = fs::metadata(folder.join("index.json")).and_then(|metadata| metadata.modified()).ok();
        let mut known = self.image_usage.lock();
        if let (Some(changed), Some((counted, usage))) = (changed, known.as_ref())
            && changed == *counted
        {
            return v1::FilesystemUsage { timestamp: now(), ..usage.clone() };
        }
        let usage = file_system(folder, folder);
        *known = changed.map(|changed| (changed, usage.clone()));
        usage
    }

    /// What a container has written beside its volumes.
    fn layer_usage(&self, container: &Container) -> v1::FilesystemUsage {
        let mut known = container.layer.lock();
        let now = Instant::now();
        if let Some(counted) = known.as_ref().filter(|counted| counted.until > now) {
            return counted.usage.clone();
        }
        let usage = file_system(&self.config.root, &crate::snapshot::upper(&container.folder));
        let pause = (now.elapsed() * COUNT_SHARE).max(COUNT_INTERVAL);
        *known = Some(Counted { usage: usage.clone(), until: Instant::now() + pause });
        usage
    }

    pub(crate) fn container_stats(&self, container: &Container) -> v1::ContainerStats {
        let record = container.record.lock().clone();
        let timestamp = now();
        let running = matches!(container.phase(), Phase::Running { .. });
        let usage = running.then(|| self.hierarchy.usage(&record.launch.cgroup).ok()).flatten();
        let config = record.config.0;
        v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes {
                id: record.id,
                metadata: config.metadata,
                labels: config.labels,
                annotations: config.annotations,
            }),
            cpu: usage.as_ref().map(|usage| cpu(usage, timestamp)),
            memory: usage.as_ref().map(|usage| memory(usage, timestamp)),
            writable_layer: Some(self.layer_usage(container)),
            swap: None,
        }
    }

    pub(crate) fn sandbox_stats(&self, sandbox: &Sandbox) -> v1::PodSandboxStats {
        let timestamp = now();
        let asked = sandbox.config.linux.as_ref().is_some_and(|linux| !linux.cgroup_parent.is_empty());
        // Only a parent of its own counts for the pod alone.
        let group = if asked { self.cgroup_parent(sandbox) } else { self.cgroup_of(sandbox, &sandbox.id) };
        let usage = self.hierarchy.usage(&group).ok();
        let containers = self.containers_of(&sandbox.id);
        let running = containers.iter().filter(|one| matches!(one.phase(), Phase::Running { .. }));
        let containers = running.map(|one| self.container_stats(one)).collect();
        let pause = *sandbox.pause.lock();
        let network = (!sandbox.host_network() && sandbox.is_ready()).then(|| network(pause, timestamp));
        v1::PodSandboxStats {
            attributes: Some(v1::PodSandboxAttributes {
                id: sandbox.id.clone(),
                metadata: sandbox.config.metadata.clone(),
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
            }),
            linux: Some(v1::LinuxPodSandboxStats {
                cpu: usage.as_ref().map(|usage| cpu(usage, timestamp)),
                memory: usage.as_ref().map(|usage| memory(usage, timestamp)),
                network,
                process: usage
                    .map(|usage| v1::ProcessUsage { timestamp, process_count: value(usage.processes) }),
                containers,
            }),
            windows: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_a_line_of_sixteen_numbers() {
        let usage = interface("  eth0: 100 2 3 0 0 0 0 0 200 4 5 0 0 0 0 0").unwrap();
        let numbers = [usage.rx_bytes, usage.rx_errors, usage.tx_bytes, usage.tx_errors];
        assert_eq!(numbers.map(|number| number.unwrap().value), [100, 3, 200, 5]);
        assert!(interface("face |bytes packets").is_none());
    }
}
