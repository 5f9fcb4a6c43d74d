//! The pod's control group: its share of the processors, and taken away in every hierarchy once its containers are gone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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

/// Removes a group, as `/ROOT/besteffort/podUID`, from all hierarchies; may be repeated. Blocks.
pub(crate) fn remove(group: &str) -> Result<(), CgroupError> {
    remove_below(Path::new(MOUNT), group)
}

fn remove_below(mount: &Path, group: &str) -> Result<(), CgroupError> {
    for hierarchy in hierarchies(mount) {
        remove_tree(&hierarchy.join(group.trim_matches('/')))?;
    }
    Ok(())
}

/// The files of a group with what they are to hold; each hierarchy has some of them.
///
/// Quotas and memory limits are the containers': the pod as a whole also holds the process that keeps its namespaces.
fn settings(shares: i64) -> [(&'static str, String); 2] {
    let shares = shares.clamp(2, 262_144);
    [("cpu.shares", shares.to_string()), ("cpu.weight", weight(shares).to_string())]
}

/// Shares of cgroup v1 (2 to 262144) as weight of cgroup v2 (1 to 10000).
fn weight(shares: i64) -> i64 {
    1 + (shares - 2) * 9999 / 262_142
}

/// Gives a group that exists already its share of the processors. Blocks.
pub(crate) fn share(group: &str, shares: i64) -> Result<(), CgroupError> {
    share_below(Path::new(MOUNT), group, shares)
}

fn share_below(mount: &Path, group: &str, shares: i64) -> Result<(), CgroupError> {
    for hierarchy in hierarchies(mount) {
        let folder = hierarchy.join(group.trim_matches('/'));
        for (file, value) in settings(shares) {
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
        for file in ["cpu.shares", "cpu.cfs_quota_us"] {
            fs::write(group.join(file), "0").unwrap();
        }
        share_below(&mount, "/root/podu", 512).unwrap();
        assert_eq!(fs::read_to_string(group.join("cpu.shares")).unwrap(), "512");
        assert_eq!(fs::read_to_string(group.join("cpu.cfs_quota_us")).unwrap(), "0");
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
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
