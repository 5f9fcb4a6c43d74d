//! What benchmarks say, a line of JSON for each measurement, and what they look at: time, memory, processors, disks.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::Cluster;

/// How long an idle cluster is watched.
const IDLE: Duration = Duration::from_secs(30);

/// Prints `{"measurement":NAME,"value":NUMBER,"unit":UNIT}`.
pub fn tell(measurement: &str, value: impl Into<Value>, unit: &str) {
    println!("{}", json!({"measurement": measurement, "value": value.into(), "unit": unit}));
}

/// With one digit behind the point.
pub fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

/// Millions of bytes, with one digit behind the point.
pub fn megabytes(bytes: u64) -> f64 {
    (bytes as f64 / 1e5).round() / 10.0
}

/// The time that a share of all stays below, such as 0.99; of times that are in order.
pub fn percentile(times: &[Duration], share: f64) -> Duration {
    let place = (times.len().saturating_sub(1) as f64 * share).round() as usize;
    times.get(place).copied().unwrap_or_default()
}

/// The bytes of all files below a folder.
pub fn size(folder: &Path) -> anyhow::Result<u64> {
    sum(folder, fs::Metadata::len)
}

/// The bytes that the disk has given to all files below a folder, also those that nothing was written to yet.
pub fn room(folder: &Path) -> anyhow::Result<u64> {
    sum(folder, |metadata| metadata.blocks() * 512)
}

fn sum(folder: &Path, of: fn(&fs::Metadata) -> u64) -> anyhow::Result<u64> {
    let mut whole = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // A running program removes files.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).context("look at a file"),
        };
        whole += if metadata.is_dir() { sum(&entry.path(), of)? } else { of(&metadata) };
    }
    Ok(whole)
}

/// What a process takes of the memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All that is resident.
    pub resident: u64,
    /// The same with what is shared counted in parts.
    pub proportional: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

/// A process's memory; zero for one that has ended.
pub fn memory(process: Pid) -> Memory {
    let kilobytes = |file: &str, name: &str| {
        let text = fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|it| it.parse::<u64>().ok()).unwrap_or(0)
    };
    Memory {
        resident: kilobytes("smaps_rollup", "Rss:") * 1024,
        proportional: kilobytes("smaps_rollup", "Pss:") * 1024,
        peak: kilobytes("status", "VmHWM:") * 1024,
    }
}

/// The processor time that a process has used.
pub fn processor_time(process: Pid) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
    // A tick is 10 ms.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// What an idle cluster takes.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Of the memory, PSS of all processes.
    pub megabytes: f64,
    /// Of one processor, in percent.
    pub processor: f64,
}

/// Processes of a cluster: its own, those in its pods' control groups, and a container runtime beside it.
fn processes(cluster: &Cluster) -> anyhow::Result<HashMap<&'static str, Vec<Pid>>> {
    let record: Value = serde_json::from_slice(&fs::read(cluster.data_dir().join("cluster.json"))?)?;
    let group = format!("/keelson-{}/", record["id"].as_str().context("no id")?);
    let own = cluster.process()?;
    let pods = cluster.data_dir().join("runtime/pods");
    let engine = cluster.folder().join("containerd").to_string_lossy().into_owned();
    let mut found: HashMap<&'static str, Vec<Pid>> = HashMap::from([("keelson", vec![own])]);
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|it| it.to_str()).and_then(|it| it.parse().ok()) else {
            continue;
        };
        let in_a_pod = fs::read_to_string(path.join("cgroup")).is_ok_and(|it| it.contains(&group));
        if in_a_pod {
            found.entry("containers").or_default().push(Pid::from_raw(pid));
        } else if fs::read_link(path.join("cwd")).is_ok_and(|folder| folder.starts_with(&pods)) {
            // A pod's process works in the pod's folder; it is in no pod's group.
            found.entry("pod processes").or_default().push(Pid::from_raw(pid));
        } else if fs::read_to_string(path.join("cmdline")).is_ok_and(|it| it.contains(&engine)) {
            // Its folder is in the arguments of the daemon and of each shim.
            found.entry("containerd and shims").or_default().push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// Tells what a cluster takes while nothing happens, with its pods.
pub fn idle(cluster: &Cluster, name: &str) -> anyhow::Result<Idle> {
    // What starting left to do is done by then.
    std::thread::sleep(Duration::from_secs(10));
    let processes = processes(cluster)?;
    let sum = || -> Duration { processes.values().flatten().map(|pid| processor_time(*pid)).sum() };
    let before = sum();
    std::thread::sleep(IDLE);
    let used = sum().saturating_sub(before).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    tell(&format!("{name}: processor"), (used * 100.0).round() / 100.0, "% of one core");
    let (mut all_resident, mut all_proportional) = (0, 0);
    let mut kinds: Vec<_> = processes.iter().collect();
    kinds.sort();
    for (kind, members) in kinds {
        let (mut resident, mut proportional) = (0, 0);
        for process in members {
            let memory = memory(*process);
            resident += memory.resident;
            proportional += memory.proportional;
        }
        tell(&format!("{name}: {} x {kind}, RSS", members.len()), megabytes(resident), "MB");
        all_resident += resident;
        all_proportional += proportional;
    }
    tell(&format!("{name}: all processes, RSS"), megabytes(all_resident), "MB");
    tell(&format!("{name}: all processes, PSS"), megabytes(all_proportional), "MB");
    Ok(Idle { megabytes: megabytes(all_proportional), processor: used })
}

/// Tells the middle and the 99th percentile.
pub fn percentiles(name: &str, mut times: Vec<Duration>) {
    times.sort();
    for (title, share) in [("p50", 0.5), ("p99", 0.99)] {
        tell(&format!("{name}, {title} of {}", times.len()), milliseconds(percentile(&times, share)), "ms");
    }
}
