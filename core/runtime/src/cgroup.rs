//! Control groups of either version: where they are, who is in them, what they have used.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MOUNT: &str = "/sys/fs/cgroup";
/// How often a group is looked through for processes that were started while others were killed.
const KILL_ROUNDS: u32 = 100;
/// The version 1 controllers that containers are put under.
pub(crate) const CONTROLLERS: [&str; 9] =
    ["memory", "cpu", "cpuacct", "cpuset", "pids", "devices", "freezer", "blkio", "hugetlb"];

/// How this machine's control groups are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// One folder per controller, each a version 1 hierarchy.
    Split { mount: PathBuf },
    /// One tree for all controllers.
    Unified { mount: PathBuf },
}

impl Hierarchy {
    pub(crate) fn detect() -> Self {
        Self::at(Path::new(MOUNT))
    }

    /// The hierarchy mounted at `mount`.
    pub(crate) fn at(mount: &Path) -> Self {
        if mount.join("cgroup.controllers").exists() {
            Self::Unified { mount: mount.to_owned() }
        } else {
            Self::Split { mount: mount.to_owned() }
        }
    }

    /// The folders of the group `path`, one per controller.
    pub(crate) fn folders(&self, path: &str) -> Vec<PathBuf> {
        let path = path.trim_start_matches('/');
        match self {
            Self::Unified { mount } => vec![mount.join(path)],
            Self::Split { mount } => CONTROLLERS
                .iter()
                .map(|controller| mount.join(controller))
                .filter(|root| root.join("cgroup.procs").exists())
                .map(|root| root.join(path))
                .collect(),
        }
    }

    /// The folder in which version 1 counts a process, where that is a hierarchy of its own.
    pub(crate) fn counting(&self, process: i32) -> Option<PathBuf> {
        let Self::Split { mount } = self else { return None };
        let text = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
        counted_in(&text).map(|group| mount.join("pids").join(group))
    }

    /// The folders of the group `path` in the hierarchies of systemd's own, which have no controllers, as far as it is there.
    pub(crate) fn tracking(&self, path: &str) -> Vec<PathBuf> {
        match self {
            Self::Unified { .. } => Vec::new(),
            Self::Split { mount } => ["systemd", "unified"]
                .iter()
                .map(|name| mount.join(name).join(path.trim_start_matches('/')))
                .filter(|folder| folder.join("cgroup.procs").exists())
                .collect(),
        }
    }

    /// Removes the group and those below it from the hierarchies without controllers; they must be empty.
    pub(crate) fn remove_tracking(&self, path: &str) -> io::Result<()> {
        self.tracking(path).iter().try_for_each(|folder| remove_tree(folder))
    }

    pub(crate) fn folder(&self, controller: &str, path: &str) -> PathBuf {
        let path = path.trim_start_matches('/');
        match self {
            Self::Unified { mount } => mount.join(path),
            Self::Split { mount } => mount.join(controller).join(path),
        }
    }

    /// Whether the machine has this controller for containers.
    pub(crate) fn has(&self, controller: &str) -> bool {
        match self {
            Self::Unified { mount } => {
                let all = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
                all.split_whitespace().any(|one| one == controller)
            }
            Self::Split { mount } => mount.join(controller).join("cgroup.procs").exists(),
        }
    }

    /// All processes in the group and below. Every hierarchy has them; of those of version 1 one that is mounted is asked.
    pub(crate) fn processes(&self, path: &str) -> Vec<Pid> {
        let mut pids = Vec::new();
        let folder = self.folders(path).into_iter().find(|folder| folder.exists());
        folder.into_iter().for_each(|folder| collect_processes(&folder, &mut pids));
        pids
    }

    /// Kills what is in the group and below, also what is started meanwhile.
    pub(crate) fn kill(&self, path: &str) {
        if let Self::Unified { .. } = self
            && fs::write(self.folder("", path).join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        let mut seen = HashSet::new();
        for _ in 0..KILL_ROUNDS {
            let pids = self.processes(path);
            // Those that were signalled before are on their way out.
            let fresh: Vec<Pid> = pids.into_iter().filter(|pid| seen.insert(*pid)).collect();
            if fresh.is_empty() {
                return;
            }
            for pid in fresh {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        tracing::warn!(group = path, "processes are started faster than they are killed");
    }

    /// Removes the group and those below it; they must be empty.
    pub(crate) fn remove(&self, path: &str) -> io::Result<()> {
        for folder in self.folders(path) {
            remove_tree(&folder)?;
        }
        Ok(())
    }

    /// Times the kernel killed in this group for want of memory.
    pub(crate) fn oom_kills(&self, path: &str) -> u64 {
        let file = match self {
            Self::Unified { .. } => "memory.events",
            Self::Split { .. } => "memory.oom_control",
        };
        keyed(&self.folder("memory", path).join(file), "oom_kill").unwrap_or(0)
    }

    /// What the group has used.
    pub(crate) fn usage(&self, path: &str) -> io::Result<Usage> {
        match self {
            Self::Unified { mount } => usage_v2(&mount.join(path.trim_start_matches('/'))),
            Self::Split { .. } => self.usage_v1(path),
        }
    }

    fn usage_v1(&self, path: &str) -> io::Result<Usage> {
        let memory = self.folder("memory", path);
        let used = number(&memory.join("memory.usage_in_bytes"))?;
        let stat = memory.join("memory.stat");
        let inactive = keyed(&stat, "total_inactive_file").unwrap_or(0);
        Ok(Usage {
            cpu_nanos: number(&self.folder("cpuacct", path).join("cpuacct.usage"))?,
            memory_bytes: used,
            working_set_bytes: used.saturating_sub(inactive),
            rss_bytes: keyed(&stat, "total_rss").unwrap_or(0),
            page_faults: keyed(&stat, "total_pgfault").unwrap_or(0),
            major_page_faults: keyed(&stat, "total_pgmajfault").unwrap_or(0),
            memory_limit: number(&memory.join("memory.limit_in_bytes")).ok().filter(|limit| *limit < 1 << 60),
            processes: number(&self.folder("pids", path).join("pids.current")).unwrap_or(0),
        })
    }
}

/// (pure) The group of the controller `pids`, if it is alone in its hierarchy and the group can be reached from here.
fn counted_in(text: &str) -> Option<&str> {
    let group = text.lines().find_map(|line| line.split_once(":pids:"))?.1.trim_matches('/');
    (!group.split('/').any(|part| part == "..")).then_some(group)
}

fn usage_v2(folder: &Path) -> io::Result<Usage> {
    let used = number(&folder.join("memory.current"))?;
    let stat = folder.join("memory.stat");
    let inactive = keyed(&stat, "inactive_file").unwrap_or(0);
    Ok(Usage {
        cpu_nanos: keyed(&folder.join("cpu.stat"), "usage_usec").unwrap_or(0) * 1000,
        memory_bytes: used,
        working_set_bytes: used.saturating_sub(inactive),
        rss_bytes: keyed(&stat, "anon").unwrap_or(0),
        page_faults: keyed(&stat, "pgfault").unwrap_or(0),
        major_page_faults: keyed(&stat, "pgmajfault").unwrap_or(0),
        memory_limit: number(&folder.join("memory.max")).ok(),
        processes: number(&folder.join("pids.current"))
            .unwrap_or(0)
            .saturating_sub(keelson_cgroup::held::holders(folder)),
    })
}

/// What a group has used up to now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu_nanos: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) working_set_bytes: u64,
    pub(crate) rss_bytes: u64,
    pub(crate) page_faults: u64,
    pub(crate) major_page_faults: u64,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) processes: u64,
}

/// Creates the group's folder so that processes can enter: controllers enabled (version 2), cpuset filled in (1).
pub(crate) fn create(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    for ancestor in missing.into_iter().rev() {
        let parent = ancestor.parent().unwrap_or(ancestor);
        if parent.join("cgroup.subtree_control").exists() {
            let available = fs::read_to_string(parent.join("cgroup.controllers"))?;
            for controller in available.split_whitespace() {
                // One that is busy or not delegable does not keep the others from being enabled.
                if let Err(error) = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"))
                {
                    tracing::debug!(%error, controller, folder = %parent.display(), "controller not enabled");
                }
            }
        }
        match fs::create_dir(ancestor) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    for ancestor in folder.ancestors().collect::<Vec<_>>().into_iter().rev() {
        fill_cpuset(ancestor)?;
    }
    Ok(())
}

/// Puts a process into the group's folder, which is made if it is not there, unless it is in it already.
pub(crate) fn enter(folder: &Path, process: i32) -> io::Result<()> {
    create(folder)?;
    let file = folder.join("cgroup.procs");
    let process = process.to_string();
    if fs::read_to_string(&file)?.lines().any(|line| line == process) {
        return Ok(());
    }
    fs::write(&file, process)
}

fn fill_cpuset(folder: &Path) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = folder.join(name);
        if folder.join("cpuset.effective_cpus").exists()
            && file.exists()
            && fs::read_to_string(&file)?.trim().is_empty()
            && let Some(parent) = folder.parent()
            && parent.join(name).exists()
        {
            fs::write(&file, fs::read_to_string(parent.join(name))?.trim())?;
        }
    }
    Ok(())
}

fn collect_processes(folder: &Path, pids: &mut Vec<Pid>) {
    let Ok(text) = fs::read_to_string(folder.join("cgroup.procs")) else { return };
    pids.extend(text.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw));
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        collect_processes(&entry.path(), pids);
    }
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    // A killed process leaves its group a moment after it is reaped.
    let mut result = fs::remove_dir(folder);
    for _ in 0..50 {
        match &result {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(std::time::Duration::from_millis(2));
                result = fs::remove_dir(folder);
            }
            Ok(()) | Err(_) => break,
        }
    }
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn number(file: &Path) -> io::Result<u64> {
    fs::read_to_string(file)?
        .trim()
        .parse()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn keyed(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_counted_where_its_hierarchy_counts_alone() {
        assert_eq!(
            counted_in("4:memory:/a\n3:pids:/system.slice/k.service\n0::/\n"),
            Some("system.slice/k.service")
        );
        assert_eq!(counted_in("3:pids:/\n"), Some(""));
        for other in ["3:cpu,pids:/a\n", "3:pids:/../a\n", "0::/a\n"] {
            assert_eq!(counted_in(other), None, "{other}");
        }
    }

    #[test]
    fn usage_is_read_from_either_version() {
        let folder = std::env::temp_dir().join(format!("keelson-cgroup-{}", std::process::id()));
        let group = folder.join("pod");
        fs::create_dir_all(&group).unwrap();
        fs::write(folder.join("cgroup.controllers"), "memory").unwrap();
        fs::write(group.join("memory.current"), "100\n").unwrap();
        fs::write(group.join("memory.max"), "max\n").unwrap();
        fs::write(group.join("memory.stat"), "anon 40\ninactive_file 30\npgfault 7\n").unwrap();
        fs::write(group.join("cpu.stat"), "usage_usec 5\n").unwrap();
        fs::write(group.join("memory.events"), "oom 1\noom_kill 2\n").unwrap();
        let unified = Hierarchy::at(&folder);
        let usage = unified.usage("/pod").unwrap();
        assert_eq!((usage.cpu_nanos, usage.working_set_bytes, usage.rss_bytes), (5000, 70, 40));
        assert_eq!((usage.memory_limit, unified.oom_kills("/pod")), (None, 2));
        fs::remove_dir_all(&folder).unwrap();
    }
}
