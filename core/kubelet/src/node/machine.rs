//! What the machine is and has, read from the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeSystemInfo;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use nix::errno::Errno;
use nix::sys::statvfs::statvfs;

use crate::config::Config;

/// Why the machine cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    /// A file of the kernel.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its content.
    #[error("{} has no {field}", path.display())]
    Field {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        field: &'static str,
    },
    /// A file system.
    #[error("look at the file system of {}", path.display())]
    FileSystem {
        /// Which.
        path: PathBuf,
        /// Why.
        source: nix::Error,
    },
}

/// Main memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) available: u64,
}

impl Memory {
    /// What is not to be had.
    pub(crate) fn used(&self) -> u64 {
        self.total.saturating_sub(self.available)
    }
}

/// A file system: bytes and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileSystem {
    pub(crate) capacity: u64,
    pub(crate) available: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
    /// Bytes that are kept for root, or that lie elsewhere: neither used nor available.
    pub(crate) withheld: u64,
}

impl FileSystem {
    /// The bytes that are used.
    pub(crate) fn used(&self) -> u64 {
        self.usable().saturating_sub(self.available)
    }

    /// What parts are parts of: the bytes that are used or available.
    pub(crate) fn usable(&self) -> u64 {
        self.capacity.saturating_sub(self.withheld)
    }
}

/// Process identifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Processes {
    pub(crate) max: u64,
    pub(crate) running: u64,
}

fn read(path: impl AsRef<Path>) -> Result<String, MachineError> {
    let path = path.as_ref();
    let text = fs::read_to_string(path);
    text.map_err(|source| MachineError::Read { path: path.to_owned(), source })
}

fn parse_memory(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes << 10)
    };
    Some(Memory { total: field("MemTotal")?, available: field("MemAvailable")? })
}

/// The machine's memory.
pub(crate) fn memory() -> Result<Memory, MachineError> {
    let path = PathBuf::from("/proc/meminfo");
    parse_memory(&read(&path)?).ok_or(MachineError::Field { path, field: "MemTotal and MemAvailable" })
}

/// The file system that holds a folder, which may not have been made yet.
pub(crate) fn file_system(path: &Path) -> Result<FileSystem, MachineError> {
    let mut path = path;
    loop {
        match (file_system_at(path), path.parent()) {
            (Err(MachineError::FileSystem { source: Errno::ENOENT, .. }), Some(parent)) => path = parent,
            (found, _) => return found,
        }
    }
}

/// The file system that holds a folder or file which is there.
pub(crate) fn file_system_at(path: &Path) -> Result<FileSystem, MachineError> {
    let found = statvfs(path).map_err(|source| MachineError::FileSystem { path: path.to_owned(), source })?;
    let block = found.fragment_size();
    Ok(FileSystem {
        capacity: found.blocks() * block,
        available: found.blocks_available() * block,
        inodes: found.files(),
        inodes_free: found.files_free(),
        withheld: found.blocks_free().saturating_sub(found.blocks_available()) * block,
    })
}

/// How many processes and threads there are and can be.
pub(crate) fn processes() -> Result<Processes, MachineError> {
    let number = |path: &str| -> Result<u64, MachineError> {
        let found = read(path)?.trim().parse();
        found.map_err(|_| MachineError::Field { path: path.into(), field: "number" })
    };
    let max = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    let path = PathBuf::from("/proc/loadavg");
    let load = read(&path)?;
    let running = load.split_whitespace().nth(3).and_then(|part| part.split_once('/')?.1.parse().ok());
    Ok(Processes { max, running: running.ok_or(MachineError::Field { path, field: "number of processes" })? })
}

/// Time that the processors spent in work since the machine's start, in nanoseconds.
pub(crate) fn cpu_nanoseconds() -> Result<u64, MachineError> {
    let path = PathBuf::from("/proc/stat");
    parse_cpu(&read(&path)?).ok_or(MachineError::Field { path, field: "cpu" })
}

/// User, nice, system, idle, iowait, irq, softirq and steal, in hundredths of a second.
fn parse_cpu(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let idle = 3..=4;
    let busy = ticks.iter().take(7).enumerate().filter(|(at, _)| !idle.contains(at));
    Some(busy.map(|(_, ticks)| ticks).sum::<u64>() * 10_000_000)
}

/// When the machine was started.
pub(crate) fn boot_time() -> Result<Timestamp, MachineError> {
    let path = PathBuf::from("/proc/stat");
    let text = read(&path)?;
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
    let started = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    started.ok_or(MachineError::Field { path, field: "btime" })
}

/// How many processors there are.
pub(crate) fn cpus() -> Result<u64, MachineError> {
    let path = PathBuf::from("/proc/cpuinfo");
    let count = read(&path)?.lines().filter(|line| line.starts_with("processor")).count();
    match u64::try_from(count) {
        Ok(0) | Err(_) => Err(MachineError::Field { path, field: "processor" }),
        Ok(count) => Ok(count),
    }
}

/// The resource of huge pages of a size in KiB.
pub(crate) fn huge_page_name(kibibytes: u64) -> String {
    match kibibytes {
        size if size % (1 << 20) == 0 => format!("hugepages-{}Gi", size >> 20),
        size if size % (1 << 10) == 0 => format!("hugepages-{}Mi", size >> 10),
        size => format!("hugepages-{size}Ki"),
    }
}

/// Sizes of huge pages that the kernel has, as the resource names have them, with the bytes reserved for each.
pub(crate) fn huge_pages() -> Vec<(String, u64)> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let size = name.to_str().and_then(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB"));
        let Some(size) = size.and_then(|size| size.parse::<u64>().ok()) else { continue };
        let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok();
        let count: u64 = count.and_then(|count| count.trim().parse().ok()).unwrap_or(0);
        found.push((huge_page_name(size), (size << 10) * count));
    }
    found
}

/// Resource names of the huge pages that the kernel has.
pub(crate) fn huge_page_names() -> Vec<String> {
    huge_pages().into_iter().map(|(name, _)| name).collect()
}

pub(super) fn kibibytes(bytes: u64) -> Quantity {
    Quantity(format!("{}Ki", bytes >> 10))
}

/// What the machine has.
pub(crate) fn capacity(config: &Config) -> Result<BTreeMap<String, Quantity>, MachineError> {
    let storage = file_system(&config.data_dir)?;
    let mut found = BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpus()?.to_string())),
        ("memory".to_owned(), kibibytes(memory()?.total)),
        ("ephemeral-storage".to_owned(), kibibytes(storage.capacity)),
        ("pods".to_owned(), Quantity(config.settings.max_pods.to_string())),
    ]);
    found.extend(
        huge_pages().into_iter().map(|(name, bytes)| {
            (name, if bytes == 0 { Quantity("0".to_owned()) } else { kibibytes(bytes) })
        }),
    );
    Ok(found)
}

fn os_image() -> String {
    let text = fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release"));
    let name = text.ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
        Some(line.trim().trim_matches(['"', '\'']).to_owned())
    });
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "Unknown".to_owned())
}

/// The machine's architecture as Kubernetes names it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Who the machine is. The runtime's version is the one it tells.
pub(crate) fn system_info(config: &Config, runtime: String) -> Result<NodeSystemInfo, MachineError> {
    let line = |path: &str| read(path).map(|text| text.trim().to_owned());
    // A machine image without an identifier leaves the file empty or away.
    let machine_id = line("/etc/machine-id").unwrap_or_default();
    let system_uuid = line("/sys/class/dmi/id/product_uuid").unwrap_or_else(|_| machine_id.clone());
    Ok(NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: line("/proc/sys/kernel/random/boot_id")?,
        container_runtime_version: runtime,
        kernel_version: line("/proc/sys/kernel/osrelease")?,
        kube_proxy_version: String::new(),
        kubelet_version: config.version.clone(),
        machine_id,
        operating_system: "linux".to_owned(),
        os_image: os_image(),
        swap: None,
        system_uuid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:        2048 kB\nMemFree:          1 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(parse_memory(text), Some(Memory { total: 2 << 20, available: 1 << 20 }));
        assert_eq!(parse_memory("MemTotal: 2048 kB\n"), None);
    }

    #[test]
    fn what_is_kept_for_root_is_not_used() {
        let disk = FileSystem { capacity: 100, available: 60, inodes: 9, inodes_free: 4, withheld: 5 };
        assert_eq!((disk.used(), disk.usable()), (35, 95));
    }

    #[test]
    fn a_folder_that_is_to_be_made_is_on_the_disk_of_the_one_above_and_a_broken_one_on_none() {
        let folder = std::env::temp_dir();
        let missing = folder.join("keelson-nowhere/below");
        assert_eq!(file_system(&missing).unwrap().capacity, file_system(&folder).unwrap().capacity);
        assert!(file_system_at(&missing).is_err());
        let file = folder.join(format!("keelson-file-{}", std::process::id()));
        fs::write(&file, "").unwrap();
        assert!(file_system(&file.join("below")).is_err());
        fs::remove_file(&file).unwrap();
    }

    #[test]
    fn idle_processors_do_no_work() {
        assert_eq!(parse_cpu("cpu  1 2 3 1000 1000 4 5 9 9 9\ncpu0 1\n"), Some(150_000_000));
        assert_eq!(parse_cpu("intr 5\n"), None);
        assert!(cpu_nanoseconds().unwrap() > 0);
    }

    #[test]
    fn this_machine_can_be_read() {
        let mut config = config();
        config.data_dir = std::env::temp_dir();
        let capacity = capacity(&config).unwrap();
        assert!(keelson_api::quantity::Quantity::parse(&capacity["cpu"].0).unwrap().value() >= 1);
        assert_eq!(capacity["pods"].0, "110");
        let disk = file_system(&config.data_dir).unwrap();
        assert!(disk.available <= disk.usable() && disk.usable() <= disk.capacity);
        assert_eq!(disk.used() + disk.available + disk.withheld, disk.capacity);
        let processes = processes().unwrap();
        assert!(processes.running > 0 && processes.running < processes.max);
        assert!(!system_info(&config, "keelson://1".into()).unwrap().kernel_version.is_empty());
    }
}
