//! Processes that hold scopes of systemd open: they are in a group, and none of its pod's.

use std::fs;
use std::path::Path;

/// What such a process is called.
pub const HOLDER: &str = "keelson-hold";
/// Pods' groups are no deeper: pod, container.
const DEPTH: u32 = 2;

/// How many there are in a group and below. A scope has at most one: others may be called so too. Blocks.
pub fn holders(folder: &Path) -> u64 {
    count(folder, DEPTH, &|process| {
        let name = fs::read_to_string(format!("/proc/{process}/comm"));
        name.is_ok_and(|name| name.trim_end() == HOLDER)
    })
}

fn count(folder: &Path, depth: u32, is_holder: &dyn Fn(&str) -> bool) -> u64 {
    let is_scope = folder.extension().is_some_and(|it| it == "scope");
    let held = || {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        text.lines().any(is_holder)
    };
    let mut all = u64::from(is_scope && held());
    if depth > 0 {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                all += count(&entry.path(), depth - 1, is_holder);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_counted_in_a_group_and_below() {
        let folder = std::env::temp_dir().join(format!("keelson-held-{}", std::process::id()));
        fs::create_dir_all(folder.join("one.scope")).unwrap();
        fs::create_dir_all(folder.join("two.scope")).unwrap();
        fs::write(folder.join("cgroup.procs"), "2\n").unwrap();
        fs::write(folder.join("one.scope/cgroup.procs"), "1\n2\n2\n").unwrap();
        fs::write(folder.join("two.scope/cgroup.procs"), "2\n3\n").unwrap();
        let is_two = |process: &str| process == "2";
        assert_eq!(count(&folder, DEPTH, &is_two), 2);
        assert_eq!(count(&folder.join("one.scope"), DEPTH, &is_two), 1);
        assert_eq!(count(&folder.join("none"), DEPTH, &is_two), 0);
        fs::remove_dir_all(&folder).unwrap();
    }
}
