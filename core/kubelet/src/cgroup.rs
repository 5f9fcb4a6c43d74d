//! The pod's control group: its share of the processors and its limits, and taken away in every hierarchy once its containers
//! are gone.
//!
//! - `groups`: the groups of all pods, as folders or as slices of systemd; `tiers`: those of the classes of pods;
//!   `reserved`: those of the machine's own processes
//! - here: the files of a group at a path, whoever has made it

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use keelson_cri::v1::LinuxContainerResources;

pub(crate) mod groups;
pub(crate) mod reserved;
pub(crate) mod tiers;

const MOUNT: &str = "/sys/fs/cgroup";

/// A control group that could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("{action} the control group {}: {source}", path.display())]
pub(crate) struct CgroupError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The hierarchies below a mount: itself with cgroup v2, one folder per set of controllers with v1.
fn hierarchies(mount: &Path) -> Vec<PathBuf> {
    if mount.join("cgroup.controllers").exists() {
        return vec![mount.to_owned()];
    }
    let entries = fs::read_dir(mount).into_iter().flatten().flatten();
    let real = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    real.map(|entry| entry.path()).collect()
}

/// Removes a group and the groups below it. Groups that hold processes are not removed: that is an error.
fn remove_tree(folder: &Path) -> Result<(), CgroupError> {
    let failed = |source: io::Error| CgroupError { action: "remove", path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The names of the groups right below one, in any hierarchy. Blocks.
fn below(mount: &Path, group: &str) -> Vec<String> {
    let of = |hierarchy: PathBuf| fs::read_dir(hierarchy.join(group.trim_matches('/')));
    let entries = hierarchies(mount).into_iter().flat_map(of).flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names.dedup();
    names
}

/// Removes a group, as `/ROOT/besteffort/podUID`, from all hierarchies; may be repeated. Blocks.
pub(crate) fn remove(group: &str) -> Result<(), CgroupError> {
    remove_below(Path::new(MOUNT), group)
}

/// Removes a group from all hierarchies in which nothing is in it. Blocks.
pub(crate) fn remove_empty(group: &str) {
    for hierarchy in hierarchies(Path::new(MOUNT)) {
        let path = hierarchy.join(group.trim_matches('/'));
        if let Err(error) = fs::remove_dir(&path) {
            tracing::debug!(path = %path.display(), %error, "a control group stays");
        }
    }
}

fn remove_below(mount: &Path, group: &str) -> Result<(), CgroupError> {
    for hierarchy in hierarchies(mount) {
        remove_tree(&hierarchy.join(group.trim_matches('/')))?;
    }
    Ok(())
}

/// The files of a group with what they are to hold; each hierarchy has some of them. Of a share or limit of 0 there is none.
fn settings(limits: &LinuxContainerResources, pids: u64) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    if limits.cpu_shares > 0 {
        let shares = limits.cpu_shares.clamp(2, 262_144);
        out.extend([("cpu.shares", shares.to_string()), ("cpu.weight", weight(shares).to_string())]);
    }
    if limits.cpu_quota > 0 {
        out.push(("cpu.cfs_period_us", limits.cpu_period.to_string()));
        out.push(("cpu.cfs_quota_us", limits.cpu_quota.to_string()));
        out.push(("cpu.max", format!("{} {}", limits.cpu_quota, limits.cpu_period)));
    }
    if limits.memory_limit_in_bytes > 0 {
        let bytes = limits.memory_limit_in_bytes.to_string();
        out.extend([("memory.limit_in_bytes", bytes.clone()), ("memory.max", bytes)]);
    }
    if pids > 0 {
        out.push(("pids.max", pids.to_string()));
    }
    out
}

/// Shares of cgroup v1 (2 to 262144) as weight of cgroup v2 (1 to 10000).
fn weight(shares: i64) -> i64 {
    1 + (shares - 2) * 9999 / 262_142
}

/// Whether the machine has control groups of version 2.
pub(crate) fn is_unified() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// Whether groups can be kept from swap.
pub(crate) fn bounds_swap() -> bool {
    if !is_unified() {
        return Path::new(MOUNT).join("memory/memory.memsw.limit_in_bytes").exists();
    }
    // The root group has no such file.
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned();
    Path::new(MOUNT).join(own.trim_matches('/')).join("memory.swap.max").exists()
}

/// Whether a group is there, in any hierarchy.
fn exists(group: &str) -> bool {
    hierarchies(Path::new(MOUNT)).iter().any(|hierarchy| hierarchy.join(group.trim_matches('/')).exists())
}

/// Limits how many processes and threads a group may have in all; 0 for any number. Blocks.
fn cap(group: &str, pids: u64) -> Result<(), CgroupError> {
    for hierarchy in hierarchies(Path::new(MOUNT)) {
        let path = hierarchy.join(group.trim_matches('/')).join("pids.max");
        if pids > 0 && path.exists() {
            fs::write(&path, pids.to_string()).map_err(|source| CgroupError {
                action: "change",
                path,
                source,
            })?;
        }
    }
    Ok(())
}

/// The same, but for what would be less than it has now. Blocks.
pub(crate) fn raise(group: &str, limits: &LinuxContainerResources) -> Result<(), CgroupError> {
    raise_below(Path::new(MOUNT), group, limits)
}

fn raise_below(mount: &Path, group: &str, limits: &LinuxContainerResources) -> Result<(), CgroupError> {
    // What is not limited has no number, or one below zero.
    let number = |text: &str| text.split_whitespace().next()?.parse::<i64>().ok().filter(|it| *it >= 0);
    for hierarchy in hierarchies(mount) {
        let folder = hierarchy.join(group.trim_matches('/'));
        for (file, value) in settings(limits, 0) {
            let path = folder.join(file);
            let now = fs::read_to_string(&path).ok().and_then(|text| number(&text));
            if now.zip(number(&value)).is_some_and(|(now, value)| value > now) {
                fs::write(&path, value).map_err(|source| CgroupError { action: "change", path, source })?;
            }
        }
    }
    Ok(())
}

/// (pure) So much memory, 0 for all, and a share of the processors.
fn whole(memory: u64, shares: i64) -> LinuxContainerResources {
    let memory_limit_in_bytes = i64::try_from(memory).unwrap_or(i64::MAX);
    LinuxContainerResources { cpu_shares: shares, memory_limit_in_bytes, ..Default::default() }
}

/// The memory that is in use in a group and below, but for what could be given back at once, in bytes. `None` when there is no
/// such group yet, or its memory is not counted. Blocks.
pub(crate) fn working_set(group: &str) -> Option<u64> {
    working_set_below(Path::new(MOUNT), group)
}

fn working_set_below(mount: &Path, group: &str) -> Option<u64> {
    hierarchies(mount).iter().find_map(|hierarchy| {
        let folder = hierarchy.join(group.trim_matches('/'));
        let number = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
        let (used, key) = match number("memory.usage_in_bytes") {
            Some(used) => (used, "total_inactive_file "),
            None => (number("memory.current")?, "inactive_file "),
        };
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let inactive = stat.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
        Some(used.saturating_sub(inactive.unwrap_or(0)))
    })
}

/// Gives a group that exists already its share of the processors and its limits. Blocks.
pub(crate) fn limit(group: &str, limits: &LinuxContainerResources, pids: u64) -> Result<(), CgroupError> {
    limit_below(Path::new(MOUNT), group, limits, pids)
}

fn limit_below(
    mount: &Path,
    group: &str,
    limits: &LinuxContainerResources,
    pids: u64,
) -> Result<(), CgroupError> {
    for hierarchy in hierarchies(mount) {
        let folder = hierarchy.join(group.trim_matches('/'));
        for (file, value) in settings(limits, pids) {
            let path = folder.join(file);
            if path.exists() {
                fs::write(&path, value).map_err(|source| CgroupError { action: "change", path, source })?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_gets_its_share_by_the_files_that_its_hierarchy_has() {
        let mount = std::env::temp_dir().join(format!("keelson-cgroup-{}", uuid::Uuid::new_v4()));
        let group = mount.join("cpu/root/podu");
        fs::create_dir_all(&group).unwrap();
        fs::create_dir_all(mount.join("memory")).unwrap();
        let memory = mount.join("memory/root/podu");
        fs::create_dir_all(&memory).unwrap();
        for file in
            ["cpu/root/podu/cpu.shares", "cpu/root/podu/cpu.cfs_quota_us", "memory/root/podu/pids.max"]
        {
            fs::write(mount.join(file), "0").unwrap();
        }
        fs::write(memory.join("memory.limit_in_bytes"), "0").unwrap();
        let mut limits =
            LinuxContainerResources { cpu_shares: 512, cpu_period: 100_000, ..Default::default() };
        limit_below(&mount, "/root/podu", &limits, 0).unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(read(&group.join("cpu.shares")), "512");
        assert_eq!(
            (read(&group.join("cpu.cfs_quota_us")), read(&memory.join("pids.max"))),
            ("0".into(), "0".into())
        );
        (limits.cpu_quota, limits.memory_limit_in_bytes) = (50_000, 1 << 20);
        limit_below(&mount, "/root/podu", &limits, 100).unwrap();
        assert_eq!(read(&group.join("cpu.cfs_quota_us")), "50000");
        assert_eq!(read(&memory.join("memory.limit_in_bytes")), "1048576");
        assert_eq!(read(&memory.join("pids.max")), "100");
        assert!(!group.join("memory.limit_in_bytes").exists());
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
        fs::remove_dir_all(&mount).unwrap();
    }

    #[test]
    fn what_a_group_has_is_raised_and_not_lowered() {
        let mount = std::env::temp_dir().join(format!("keelson-cgroup-{}", uuid::Uuid::new_v4()));
        let group = mount.join("root/podu");
        fs::create_dir_all(&group).unwrap();
        fs::write(mount.join("cgroup.controllers"), "cpu memory").unwrap();
        let files = [("cpu.weight", "39\n"), ("cpu.max", "max 100000\n"), ("memory.max", "1000\n")];
        files.iter().for_each(|(file, text)| fs::write(group.join(file), text).unwrap());
        let limits = LinuxContainerResources {
            cpu_shares: 512,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory_limit_in_bytes: 2000,
            ..Default::default()
        };
        raise_below(&mount, "/root/podu", &limits).unwrap();
        let read = || files.map(|(file, _)| fs::read_to_string(group.join(file)).unwrap().trim().to_owned());
        assert_eq!(read(), ["39", "max 100000", "2000"]);
        limit_below(&mount, "/root/podu", &limits, 0).unwrap();
        assert_eq!(read(), ["20", "50000 100000", "2000"]);
        fs::remove_dir_all(&mount).unwrap();
    }

    #[test]
    fn what_the_kernel_can_take_back_at_once_is_not_in_use() {
        let mount = std::env::temp_dir().join(format!("keelson-cgroup-{}", uuid::Uuid::new_v4()));
        let (one, two) = (mount.join("memory/root"), mount.join("unified"));
        fs::create_dir_all(&one).unwrap();
        fs::create_dir_all(two.join("root")).unwrap();
        fs::write(one.join("memory.usage_in_bytes"), "1000\n").unwrap();
        fs::write(one.join("memory.stat"), "inactive_file 1\ntotal_inactive_file 300\n").unwrap();
        assert_eq!(working_set_below(&mount, "/root"), Some(700));
        fs::write(two.join("cgroup.controllers"), "memory").unwrap();
        fs::write(two.join("root/memory.current"), "1000\n").unwrap();
        fs::write(two.join("root/memory.stat"), "anon 9\ninactive_file 100\n").unwrap();
        assert_eq!((working_set_below(&two, "/root"), working_set_below(&two, "/other")), (Some(900), None));
        fs::remove_dir_all(&mount).unwrap();
    }

    #[test]
    fn a_group_is_removed_from_every_hierarchy_with_what_is_below() {
        let mount = std::env::temp_dir().join(format!("keelson-cgroup-{}", uuid::Uuid::new_v4()));
        for hierarchy in ["cpu", "memory"] {
            fs::create_dir_all(mount.join(hierarchy).join("root/podu/c")).unwrap();
        }
        remove_below(&mount, "/root/podu").unwrap();
        remove_below(&mount, "/root/podu").unwrap();
        assert!(!mount.join("cpu/root/podu").exists() && !mount.join("memory/root/podu").exists());
        assert!(mount.join("memory/root").exists());
        fs::remove_dir_all(&mount).unwrap();
    }
}
