//! Limits: in the OCI configuration of a new container, and written to the control group of a running one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use keelson_cri::v1::LinuxContainerResources;
use serde_json::{Map, Value, json};

use crate::cgroup::Hierarchy;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ResourceError {
    #[error("huge pages of {0} are not under control on this machine")]
    HugePages(String),
    #[error("write {value} to {path}")]
    Write {
        path: PathBuf,
        value: String,
        #[source]
        source: io::Error,
    },
}

/// `linux.resources` but for the devices.
pub(crate) fn oci(
    resources: &LinuxContainerResources,
    hierarchy: &Hierarchy,
) -> Result<Map<String, Value>, ResourceError> {
    let mut out = Map::new();
    let mut cpu = Map::new();
    if resources.cpu_shares > 0 {
        cpu.insert("shares".into(), json!(resources.cpu_shares.max(2)));
    }
    if resources.cpu_quota != 0 {
        cpu.insert("quota".into(), json!(resources.cpu_quota));
    }
    if resources.cpu_period > 0 {
        cpu.insert("period".into(), json!(resources.cpu_period));
    }
    if !resources.cpuset_cpus.is_empty() {
        cpu.insert("cpus".into(), json!(resources.cpuset_cpus));
    }
    if !resources.cpuset_mems.is_empty() {
        cpu.insert("mems".into(), json!(resources.cpuset_mems));
    }
    if !cpu.is_empty() {
        out.insert("cpu".into(), Value::Object(cpu));
    }
    if resources.memory_limit_in_bytes > 0 {
        let mut memory = json!({ "limit": resources.memory_limit_in_bytes });
        if resources.memory_swap_limit_in_bytes > 0 {
            memory["swap"] = json!(resources.memory_swap_limit_in_bytes);
        }
        out.insert("memory".into(), memory);
    }
    let unified = matches!(hierarchy, Hierarchy::Unified { .. });
    if unified && !resources.unified.is_empty() {
        out.insert("unified".into(), json!(resources.unified));
    }
    let has_huge_pages = hierarchy.has("hugetlb");
    let mut limits = Vec::new();
    for limit in &resources.hugepage_limits {
        if has_huge_pages {
            limits.push(json!({ "pageSize": limit.page_size, "limit": limit.limit }));
        } else if limit.limit > 0 {
            return Err(ResourceError::HugePages(limit.page_size.clone()));
        }
    }
    if !limits.is_empty() {
        out.insert("hugepageLimits".into(), Value::Array(limits));
    }
    Ok(out)
}

/// The files to write and their values, for a change of a running container.
///
/// `memory` is the limit that is in force.
fn writes(
    resources: &LinuxContainerResources,
    hierarchy: &Hierarchy,
    group: &str,
    memory: Option<i64>,
) -> Vec<(PathBuf, String)> {
    let mut out = Vec::new();
    let mut put = |controller: &str, file: &str, value: String| {
        out.push((hierarchy.folder(controller, group).join(file), value));
    };
    let split = matches!(hierarchy, Hierarchy::Split { .. });
    if resources.cpu_shares > 0 {
        if split {
            put("cpu", "cpu.shares", resources.cpu_shares.to_string());
        } else {
            put("cpu", "cpu.weight", weight(resources.cpu_shares).to_string());
        }
    }
    if resources.cpu_quota != 0 {
        let period = if resources.cpu_period > 0 { resources.cpu_period } else { 100_000 };
        if split {
            put("cpu", "cpu.cfs_period_us", period.to_string());
            put("cpu", "cpu.cfs_quota_us", resources.cpu_quota.to_string());
        } else {
            let quota =
                if resources.cpu_quota < 0 { "max".to_owned() } else { resources.cpu_quota.to_string() };
            put("cpu", "cpu.max", format!("{quota} {period}"));
        }
    }
    if resources.memory_limit_in_bytes != 0 {
        let limit = resources.memory_limit_in_bytes;
        let swap = resources.memory_swap_limit_in_bytes;
        match (split, limit < 0) {
            (true, _) if swap != 0 => {
                // Memory is never more than memory with swap, also not between the two writes.
                let rises = limit < 0 || memory.is_some_and(|memory| limit > memory);
                let mut files = [("memory.limit_in_bytes", limit), ("memory.memsw.limit_in_bytes", swap)];
                if rises {
                    files.reverse();
                }
                files.iter().for_each(|(file, value)| put("memory", file, value.to_string()));
            }
            (true, _) => put("memory", "memory.limit_in_bytes", limit.to_string()),
            (false, true) => put("memory", "memory.max", "max".to_owned()),
            (false, false) => put("memory", "memory.max", limit.to_string()),
        }
    }
    for (file, value) in [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)] {
        if !value.is_empty() {
            put("cpuset", file, value.clone());
        }
    }
    if !split {
        for (file, value) in &resources.unified {
            // A name of the group's own files, and of nothing else.
            if !file.contains('/') {
                put("", file, value.clone());
            }
        }
    }
    out
}

/// Version 2's weight (1 to 10000) for version 1's shares (2 to 262144).
fn weight(shares: i64) -> i64 {
    let shares = shares.clamp(2, 262_144);
    1 + ((shares - 2) * 9999) / 262_142
}

/// Changes the limits of a running container.
pub(crate) fn update(
    resources: &LinuxContainerResources,
    hierarchy: &Hierarchy,
    group: &str,
) -> Result<(), ResourceError> {
    let memory = fs::read_to_string(hierarchy.folder("memory", group).join("memory.limit_in_bytes"));
    let memory = memory.ok().and_then(|text| text.trim().parse().ok());
    for (path, value) in writes(resources, hierarchy, group, memory) {
        write(&path, &value).map_err(|source| ResourceError::Write { path, value, source })?;
    }
    Ok(())
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::write(path, value)
}

/// The limits after a change: what is not said stays.
pub(crate) fn merge(current: &mut LinuxContainerResources, change: &LinuxContainerResources) {
    let keep = |old: &mut i64, new: i64| {
        if new != 0 {
            *old = new;
        }
    };
    keep(&mut current.cpu_period, change.cpu_period);
    keep(&mut current.cpu_quota, change.cpu_quota);
    keep(&mut current.cpu_shares, change.cpu_shares);
    keep(&mut current.memory_limit_in_bytes, change.memory_limit_in_bytes);
    keep(&mut current.oom_score_adj, change.oom_score_adj);
    keep(&mut current.memory_swap_limit_in_bytes, change.memory_swap_limit_in_bytes);
    if !change.cpuset_cpus.is_empty() {
        current.cpuset_cpus.clone_from(&change.cpuset_cpus);
    }
    if !change.cpuset_mems.is_empty() {
        current.cpuset_mems.clone_from(&change.cpuset_mems);
    }
    current.unified.extend(change.unified.iter().map(|(key, value)| (key.clone(), value.clone())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_in_the_words_of_the_version() {
        let resources = LinuxContainerResources {
            cpu_shares: 1024,
            cpu_quota: 50_000,
            memory_limit_in_bytes: 1 << 20,
            ..LinuxContainerResources::default()
        };
        let unified = Hierarchy::Unified { mount: "/cg".into() };
        let names: Vec<String> = writes(&resources, &unified, "a", None)
            .into_iter()
            .map(|(path, value)| format!("{}={value}", path.display()))
            .collect();
        assert_eq!(names, ["/cg/a/cpu.weight=39", "/cg/a/cpu.max=50000 100000", "/cg/a/memory.max=1048576"]);
        let split = Hierarchy::Split { mount: "/cg".into() };
        assert_eq!(
            writes(&resources, &split, "a", None)[3].0,
            Path::new("/cg/memory/a/memory.limit_in_bytes")
        );
        let resources = LinuxContainerResources { memory_swap_limit_in_bytes: 1 << 20, ..resources };
        let first = |now| {
            let all = writes(&resources, &split, "a", Some(now));
            all[3].0.file_name().unwrap().to_string_lossy().into_owned()
        };
        assert_eq!(
            (first(1 << 10), first(1 << 30)),
            ("memory.memsw.limit_in_bytes".into(), "memory.limit_in_bytes".into())
        );
    }
}
