//! What a control group has used, of either version. Reads the kernel's files; a figure that it does not tell is left out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Detail {
    /// Processor and memory in sum.
    Brief,
    /// Everything.
    Full,
}

/// Time on processors, in nanoseconds, and how the quota held it back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    pub(crate) total: u64,
    pub(crate) user: Option<u64>,
    pub(crate) system: Option<u64>,
    pub(crate) periods: Option<u64>,
    pub(crate) throttled_periods: Option<u64>,
    pub(crate) throttled: Option<u64>,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) usage: u64,
    /// Without what can be dropped at once.
    pub(crate) working_set: u64,
    pub(crate) rss: u64,
    pub(crate) cache: u64,
    pub(crate) swap: Option<u64>,
    pub(crate) mapped_file: u64,
    pub(crate) active_file: u64,
    pub(crate) inactive_file: u64,
    /// With those of groups below, as all is but what is the group's own.
    pub(crate) page_faults: u64,
    pub(crate) major_page_faults: u64,
    pub(crate) own_page_faults: u64,
    pub(crate) own_major_page_faults: u64,
    pub(crate) limit: Option<u64>,
    pub(crate) highest: Option<u64>,
    /// How often the limit was hit.
    pub(crate) failures: Option<u64>,
    /// How often the kernel ended a process for want of it.
    pub(crate) kills: Option<u64>,
}

/// What went to and came from a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    /// `/dev/NAME`, or its numbers where it has no name.
    pub(crate) device: String,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
}

/// What the group has used up to now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) cpu: Cpu,
    pub(crate) memory: Memory,
    pub(crate) processes: Option<u64>,
    pub(crate) threads: Option<u64>,
    pub(crate) most_threads: Option<u64>,
    pub(crate) disks: Vec<Disk>,
}

/// The lines `NAME NUMBER` of a file.
struct Keyed(String);

impl Keyed {
    fn read(path: &Path) -> Self {
        Keyed(fs::read_to_string(path).unwrap_or_default())
    }

    fn get(&self, name: &str) -> Option<u64> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }

    fn or_none(&self, name: &str) -> u64 {
        self.get(name).unwrap_or(0)
    }
}

fn number(path: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// A number that may be `max`, or as large as version 1 writes when there is none.
fn limit(path: &Path) -> Option<u64> {
    number(path).ok().filter(|limit| *limit < 1 << 60)
}

/// Where a group is.
#[derive(Debug, Clone)]
pub(crate) struct Hierarchy {
    mount: PathBuf,
    unified: bool,
}

impl Hierarchy {
    /// What is mounted at `mount`.
    pub(crate) fn at(mount: &Path) -> Self {
        Hierarchy { unified: mount.join("cgroup.controllers").exists(), mount: mount.to_owned() }
    }

    fn folder(&self, controller: &str, group: &str) -> PathBuf {
        let group = group.trim_matches('/');
        if self.unified { self.mount.join(group) } else { self.mount.join(controller).join(group) }
    }

    /// What a group has used.
    pub(crate) fn read(&self, group: &str, detail: Detail) -> io::Result<Group> {
        if self.unified { self.read_unified(group, detail) } else { self.read_split(group, detail) }
    }

    /// The group of a container in its pod's: the folder of its name, or the scope that some runtime has made for it, as
    /// `cri-containerd-ID.scope`.
    pub(crate) fn container(&self, pod: &str, id: &str) -> String {
        let folder = self.folder("memory", pod);
        let scope = || {
            let end = format!("-{id}.scope");
            let names = fs::read_dir(&folder)
                .ok()?
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok());
            names.into_iter().find(|name| name.ends_with(&end))
        };
        let own = Some(id.to_owned()).filter(|id| folder.join(id).exists());
        format!("{pod}/{}", own.or_else(scope).as_deref().unwrap_or(id))
    }

    /// Some process of the group, or of those below it.
    pub(crate) fn process(&self, group: &str) -> Option<u32> {
        first_process(&self.folder("memory", group), 4)
    }

    fn read_unified(&self, group: &str, detail: Detail) -> io::Result<Group> {
        let folder = self.folder("", group);
        let (cpu, memory) = (Keyed::read(&folder.join("cpu.stat")), Keyed::read(&folder.join("memory.stat")));
        let usage = match number(&folder.join("memory.current")) {
            // The machine's own group has no such file.
            Err(error) if error.kind() == io::ErrorKind::NotFound && group.trim_matches('/').is_empty() => {
                memory.get("anon").zip(memory.get("file")).map(|(anon, file)| anon + file).ok_or(error)?
            }
            usage => usage?,
        };
        let nanoseconds = |name: &str| cpu.get(name).map(|micro| micro.saturating_mul(1000));
        let mut found = Group {
            cpu: Cpu {
                total: nanoseconds("usage_usec").unwrap_or(0),
                user: nanoseconds("user_usec"),
                system: nanoseconds("system_usec"),
                periods: cpu.get("nr_periods"),
                throttled_periods: cpu.get("nr_throttled"),
                throttled: nanoseconds("throttled_usec"),
            },
            memory: Memory {
                usage,
                working_set: usage.saturating_sub(memory.or_none("inactive_file")),
                rss: memory.or_none("anon"),
                cache: memory.or_none("file"),
                swap: number(&folder.join("memory.swap.current")).ok(),
                mapped_file: memory.or_none("file_mapped"),
                active_file: memory.or_none("active_file"),
                inactive_file: memory.or_none("inactive_file"),
                page_faults: memory.or_none("pgfault"),
                major_page_faults: memory.or_none("pgmajfault"),
                // This version counts them together alone.
                own_page_faults: memory.or_none("pgfault"),
                own_major_page_faults: memory.or_none("pgmajfault"),
                limit: limit(&folder.join("memory.max")),
                ..Memory::default()
            },
            ..Group::default()
        };
        if detail == Detail::Full {
            let events = Keyed::read(&folder.join("memory.events"));
            found.memory.highest = number(&folder.join("memory.peak")).ok();
            (found.memory.failures, found.memory.kills) = (events.get("max"), events.get("oom_kill"));
            let text = fs::read_to_string(folder.join("io.stat")).unwrap_or_default();
            found.disks = text.lines().filter_map(unified_disk).collect();
            self.count(group, &mut found);
        }
        Ok(found)
    }

    fn read_split(&self, group: &str, detail: Detail) -> io::Result<Group> {
        let of_cpu = self.folder("cpuacct", group);
        let of_memory = self.folder("memory", group);
        let memory = Keyed::read(&of_memory.join("memory.stat"));
        let usage = number(&of_memory.join("memory.usage_in_bytes"))?;
        let mut found = Group {
            cpu: Cpu { total: number(&of_cpu.join("cpuacct.usage"))?, ..Cpu::default() },
            memory: Memory {
                usage,
                working_set: usage.saturating_sub(memory.or_none("total_inactive_file")),
                rss: memory.or_none("total_rss"),
                cache: memory.or_none("total_cache"),
                swap: memory.get("total_swap"),
                mapped_file: memory.or_none("total_mapped_file"),
                active_file: memory.or_none("total_active_file"),
                inactive_file: memory.or_none("total_inactive_file"),
                page_faults: memory.or_none("total_pgfault"),
                major_page_faults: memory.or_none("total_pgmajfault"),
                own_page_faults: memory.or_none("pgfault"),
                own_major_page_faults: memory.or_none("pgmajfault"),
                limit: limit(&of_memory.join("memory.limit_in_bytes")),
                ..Memory::default()
            },
            ..Group::default()
        };
        if detail == Detail::Full {
            let quota = Keyed::read(&self.folder("cpu", group).join("cpu.stat"));
            found.cpu.user = number(&of_cpu.join("cpuacct.usage_user")).ok();
            found.cpu.system = number(&of_cpu.join("cpuacct.usage_sys")).ok();
            found.cpu.periods = quota.get("nr_periods");
            found.cpu.throttled_periods = quota.get("nr_throttled");
            found.cpu.throttled = quota.get("throttled_time");
            found.memory.highest = number(&of_memory.join("memory.max_usage_in_bytes")).ok();
            found.memory.failures = number(&of_memory.join("memory.failcnt")).ok();
            found.memory.kills = Keyed::read(&of_memory.join("memory.oom_control")).get("oom_kill");
            let of_disks = self.folder("blkio", group);
            let read = |name: &str| fs::read_to_string(of_disks.join(name)).unwrap_or_default();
            let bytes = read("blkio.throttle.io_service_bytes_recursive");
            found.disks = split_disks(&bytes, &read("blkio.throttle.io_serviced_recursive"));
            self.count(group, &mut found);
        }
        Ok(found)
    }

    fn count(&self, group: &str, found: &mut Group) {
        let folder = self.folder("pids", group);
        found.threads = number(&folder.join("pids.current")).ok();
        if self.unified {
            // With version 1 they are counted elsewhere.
            let held = keelson_cgroup::held::holders(&folder);
            found.threads = found.threads.map(|threads| threads.saturating_sub(held));
        }
        found.most_threads = limit(&folder.join("pids.max"));
        found.processes = fs::read_to_string(folder.join("cgroup.procs"))
            .ok()
            .and_then(|text| u64::try_from(text.lines().count()).ok());
    }
}

fn first_process(folder: &Path, depth: u32) -> Option<u32> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).ok()?;
    if let Some(first) = text.lines().find_map(|line| line.parse().ok()) {
        return Some(first);
    }
    let entries = fs::read_dir(folder).ok().filter(|_| depth > 0)?.flatten();
    let mut below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below.find_map(|entry| first_process(&entry.path(), depth - 1))
}

/// The name of the block device with these numbers, as `8:0`.
pub(crate) fn device(numbers: &str) -> String {
    let text = fs::read_to_string(format!("/sys/dev/block/{numbers}/uevent")).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map_or_else(|| numbers.to_owned(), |name| format!("/dev/{name}"))
}

/// A line of `io.stat`, as `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn unified_disk(line: &str) -> Option<Disk> {
    let (numbers, rest) = line.split_once(' ')?;
    let field = |name: &str| {
        let mut all = rest.split(' ').filter_map(|part| part.split_once('='));
        all.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    };
    Some(Disk {
        device: device(numbers),
        read_bytes: field("rbytes"),
        written_bytes: field("wbytes"),
        reads: field("rios"),
        writes: field("wios"),
    })
}

/// Lines as `8:0 Read 5`, of bytes and of operations.
fn split_disks(bytes: &str, operations: &str) -> Vec<Disk> {
    let mut found: Vec<(String, Disk)> = Vec::new();
    for (text, are_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let mut parts = line.split(' ');
            let (Some(numbers), Some(kind), Some(value)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let Ok(value) = value.parse() else { continue };
            let at = found.iter().position(|(known, _)| known == numbers).unwrap_or_else(|| {
                found.push((numbers.to_owned(), Disk::default()));
                found.len() - 1
            });
            let Some((_, disk)) = found.get_mut(at) else { continue };
            match (kind, are_bytes) {
                ("Read", true) => disk.read_bytes = value,
                ("Write", true) => disk.written_bytes = value,
                ("Read", false) => disk.reads = value,
                ("Write", false) => disk.writes = value,
                _ => {}
            }
        }
    }
    found.into_iter().map(|(numbers, disk)| Disk { device: device(&numbers), ..disk }).collect()
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn a_containers_group_is_found_whoever_has_named_it() {
        let mount = with(&[
            ("cgroup.controllers", "memory"),
            ("pod/ab/cgroup.procs", ""),
            ("pod/cri-containerd-cd.scope/cgroup.procs", ""),
        ]);
        let hierarchy = Hierarchy::at(&mount);
        let found = ["ab", "cd", "ef"].map(|id| hierarchy.container("/pod", id));
        assert_eq!(found, ["/pod/ab", "/pod/cri-containerd-cd.scope", "/pod/ef"]);
        fs::remove_dir_all(&mount).unwrap();
    }

    fn with(files: &[(&str, &str)]) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("keelson-group-{}", uuid::Uuid::new_v4()));
        for (path, text) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn a_group_of_version_two_is_read_from_one_folder() {
        let folder = with(&[
            ("cgroup.controllers", "cpu memory"),
            ("pod/cgroup.procs", ""),
            ("pod/c/cgroup.procs", "42\n43\n"),
            ("pod/memory.current", "100\n"),
            ("pod/memory.max", "max\n"),
            ("pod/memory.peak", "120\n"),
            ("pod/memory.stat", "anon 40\nfile 50\ninactive_file 30\npgfault 7\n"),
            ("pod/memory.events", "low 0\nmax 3\noom 1\noom_kill 2\n"),
            ("pod/cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_throttled 4\nthrottled_usec 6\n"),
            ("pod/io.stat", "999:7 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
            ("pod/pids.current", "9\n"),
        ]);
        let hierarchy = Hierarchy::at(&folder);
        let found = hierarchy.read("/pod", Detail::Full).unwrap();
        assert_eq!((found.cpu.total, found.cpu.user, found.cpu.throttled), (5000, Some(3000), Some(6000)));
        let memory = found.memory;
        assert_eq!((memory.working_set, memory.rss, memory.cache, memory.limit), (70, 40, 50, None));
        assert_eq!((memory.highest, memory.failures, memory.kills), (Some(120), Some(3), Some(2)));
        let disk = Disk { device: "999:7".into(), read_bytes: 1, written_bytes: 2, reads: 3, writes: 4 };
        assert_eq!((found.disks, found.threads), (vec![disk], Some(9)));
        assert_eq!(hierarchy.process("/pod"), Some(42));
        assert!(hierarchy.read("/gone", Detail::Brief).is_err());
        assert!(hierarchy.read("/", Detail::Brief).is_err());
        fs::write(folder.join("memory.stat"), "anon 400\nfile 500\ninactive_file 300\npgfault 9\n").unwrap();
        let memory = hierarchy.read("/", Detail::Full).unwrap().memory;
        assert_eq!((memory.usage, memory.working_set, memory.page_faults), (900, 600, 9));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_group_of_version_one_is_read_from_a_folder_of_each_controller() {
        let folder = with(&[
            ("cpuacct/pod/cpuacct.usage", "5000\n"),
            ("cpuacct/pod/cpuacct.usage_user", "3000\n"),
            ("cpu/pod/cpu.stat", "nr_periods 1\nnr_throttled 4\nthrottled_time 6000\n"),
            ("memory/pod/memory.usage_in_bytes", "100\n"),
            ("memory/pod/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/pod/memory.stat", "rss 1\ntotal_rss 40\ntotal_inactive_file 30\ntotal_pgmajfault 7\n"),
            ("memory/pod/memory.oom_control", "under_oom 0\noom_kill 2\n"),
            ("blkio/pod/blkio.throttle.io_service_bytes_recursive", "999:7 Read 1\n999:7 Write 2\nTotal 3\n"),
            ("blkio/pod/blkio.throttle.io_serviced_recursive", "999:7 Read 3\n999:7 Write 4\nTotal 7\n"),
        ]);
        let found = Hierarchy::at(&folder).read("pod", Detail::Full).unwrap();
        assert_eq!((found.cpu.total, found.cpu.user, found.cpu.throttled), (5000, Some(3000), Some(6000)));
        let memory = found.memory;
        assert_eq!((memory.working_set, memory.rss, memory.limit, memory.kills), (70, 40, None, Some(2)));
        let disk = Disk { device: "999:7".into(), read_bytes: 1, written_bytes: 2, reads: 3, writes: 4 };
        assert_eq!(found.disks, [disk]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
