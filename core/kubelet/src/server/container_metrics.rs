//! `GET /metrics/cadvisor`: all that control groups and interfaces tell, under the names that cAdvisor gives it (pure).

use keelson_metrics::Family;

use super::resource_metrics::seconds;
use crate::disk_usage::Usage;
use crate::node::machine::FileSystem;
use crate::usage::group::{Disk, Group};
use crate::usage::interface::Interface;
use crate::usage::{PodFigures, Snapshot};

type Value = fn(&Group) -> Option<f64>;

fn number(value: u64) -> Option<f64> {
    Some(value as f64)
}

/// Name, help and value: what only grows.
const COUNTERS: [(&str, &str, Value); 7] = [
    ("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", |it| {
        it.cpu.user.map(seconds)
    }),
    ("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", |it| {
        it.cpu.system.map(seconds)
    }),
    ("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", |it| {
        it.cpu.periods.filter(|periods| *periods > 0).and_then(number)
    }),
    ("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", |it| {
        it.cpu.throttled_periods.filter(|_| it.cpu.periods > Some(0)).and_then(number)
    }),
    (
        "container_cpu_cfs_throttled_seconds_total",
        "Total time duration the container has been throttled.",
        |it| it.cpu.throttled.filter(|_| it.cpu.periods > Some(0)).map(seconds),
    ),
    ("container_memory_failcnt", "Number of memory usage hits limits", |it| {
        it.memory.failures.and_then(number)
    }),
    ("container_oom_events_total", "Count of out of memory events observed for the container", |it| {
        it.memory.kills.and_then(number)
    }),
];

/// What grows and shrinks.
const GAUGES: [(&str, &str, Value); 13] = [
    ("container_memory_cache", "Number of bytes of page cache memory.", |it| number(it.memory.cache)),
    ("container_memory_mapped_file", "Size of memory mapped files in bytes.", |it| {
        number(it.memory.mapped_file)
    }),
    ("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", |it| {
        it.memory.highest.and_then(number)
    }),
    ("container_memory_rss", "Size of RSS in bytes.", |it| number(it.memory.rss)),
    ("container_memory_swap", "Container swap usage in bytes.", |it| it.memory.swap.and_then(number)),
    ("container_memory_total_active_file_bytes", "Current total active file in bytes.", |it| {
        number(it.memory.active_file)
    }),
    ("container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.", |it| {
        number(it.memory.inactive_file)
    }),
    (
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |it| number(it.memory.usage),
    ),
    ("container_memory_working_set_bytes", "Current working set in bytes.", |it| {
        number(it.memory.working_set)
    }),
    ("container_processes", "Number of processes running inside the container.", |it| {
        it.processes.and_then(number)
    }),
    ("container_spec_memory_limit_bytes", "Memory limit for the container.", |it| {
        number(it.memory.limit.unwrap_or(0))
    }),
    ("container_threads", "Number of threads running inside the container", |it| it.threads.and_then(number)),
    (
        "container_threads_max",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        |it| number(it.most_threads.unwrap_or(0)),
    ),
];

type OfDisk = fn(&Disk) -> u64;

const DISKS: [(&str, &str, OfDisk); 4] = [
    ("container_fs_reads_bytes_total", "Cumulative count of bytes read", |it| it.read_bytes),
    ("container_fs_reads_total", "Cumulative count of reads completed", |it| it.reads),
    ("container_fs_writes_bytes_total", "Cumulative count of bytes written", |it| it.written_bytes),
    ("container_fs_writes_total", "Cumulative count of writes completed", |it| it.writes),
];

type OfInterface = fn(&Interface) -> u64;

const INTERFACES: [(&str, &str, OfInterface); 8] = [
    ("container_network_receive_bytes_total", "Cumulative count of bytes received", |it| it.received.bytes),
    (
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        |it| it.received.errors,
    ),
    (
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        |it| it.received.dropped,
    ),
    ("container_network_receive_packets_total", "Cumulative count of packets received", |it| {
        it.received.packets
    }),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |it| it.sent.bytes),
    (
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        |it| it.sent.errors,
    ),
    (
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        |it| it.sent.dropped,
    ),
    ("container_network_transmit_packets_total", "Cumulative count of packets transmitted", |it| {
        it.sent.packets
    }),
];

/// What is known beside the control groups.
pub(super) struct Machine {
    pub(super) cpus: u64,
    /// Boot, machine and system.
    pub(super) ids: [String; 3],
    /// The file system of what containers write, and its device.
    pub(super) disk: Option<(String, FileSystem)>,
}

/// What metrics are about, by the labels that all of them have.
struct Subject<'a> {
    labels: [(&'a str, &'a str); 6],
    group: &'a Group,
    interfaces: &'a [Interface],
    layer: Option<Usage>,
}

fn labels<'a>(
    container: &'a str,
    id: &'a str,
    image: &'a str,
    name: &'a str,
    pod: Option<&'a PodFigures>,
) -> [(&'a str, &'a str); 6] {
    let (namespace, pod) = pod.map_or(("", ""), |pod| (&pod.model.namespace, &pod.model.name));
    [
        ("container", container),
        ("id", id),
        ("image", image),
        ("name", name),
        ("namespace", namespace),
        ("pod", pod),
    ]
}

fn subjects<'a>(
    snapshot: &'a Snapshot,
    layer: &dyn Fn(&PodFigures, &str) -> Option<Usage>,
) -> Vec<Subject<'a>> {
    let node = snapshot.node.group.as_ref().map(|group| Subject {
        labels: labels("", "/", "", "", None),
        group,
        interfaces: &snapshot.node.interfaces,
        layer: None,
    });
    let mut all: Vec<Subject<'_>> = node.into_iter().collect();
    for pod in &snapshot.pods {
        all.push(Subject {
            labels: labels("", &pod.path, "", "", Some(pod)),
            group: &pod.group,
            interfaces: pod.interfaces.as_deref().unwrap_or_default(),
            layer: None,
        });
        all.extend(pod.containers.iter().map(|one| Subject {
            labels: labels(&one.name, &one.path, &one.image, &one.id, Some(pod)),
            group: &one.group,
            interfaces: &[],
            layer: layer(pod, &one.name),
        }));
    }
    all
}

fn about<'a>(
    subject: &Subject<'a>,
    further: Option<(&'a str, &'a str)>,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    subject.labels.into_iter().chain(further)
}

/// All of it. `layer` says what a container has written.
pub(super) fn families(
    snapshot: &Snapshot,
    machine: &Machine,
    layer: &dyn Fn(&PodFigures, &str) -> Option<Usage>,
) -> Vec<Family> {
    let at = Some(snapshot.at.as_millisecond());
    let subjects = subjects(snapshot, layer);
    let mut all = Vec::new();
    let mut cpu =
        Family::counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.");
    let mut failures =
        Family::counter("container_memory_failures_total", "Cumulative count of memory allocation failures.");
    for subject in &subjects {
        cpu.push(about(subject, Some(("cpu", "total"))), seconds(subject.group.cpu.total), at);
        let memory = &subject.group.memory;
        for (kind, scope, count) in [
            ("pgfault", "container", memory.own_page_faults),
            ("pgmajfault", "container", memory.own_major_page_faults),
            ("pgfault", "hierarchy", memory.page_faults),
            ("pgmajfault", "hierarchy", memory.major_page_faults),
        ] {
            let kind = [("failure_type", kind), ("scope", scope)];
            failures.push(about(subject, None).chain(kind), count as f64, at);
        }
    }
    all.extend([cpu, failures]);
    let plain = COUNTERS.map(|(name, help, value)| (Family::counter(name, help), value));
    let varying = GAUGES.map(|(name, help, value)| (Family::gauge(name, help), value));
    for (mut family, value) in plain.into_iter().chain(varying) {
        for subject in &subjects {
            if let Some(value) = value(subject.group) {
                family.push(about(subject, None), value, at);
            }
        }
        all.push(family);
    }
    for (name, help, value) in DISKS {
        let mut family = Family::counter(name, help);
        for subject in &subjects {
            for disk in &subject.group.disks {
                let device = Some(("device", disk.device.as_str()));
                family.push(about(subject, device), value(disk) as f64, at);
            }
        }
        all.push(family);
    }
    for (name, help, value) in INTERFACES {
        let mut family = Family::counter(name, help);
        for subject in &subjects {
            for interface in subject.interfaces {
                let name = Some(("interface", interface.name.as_str()));
                family.push(about(subject, name), value(interface) as f64, at);
            }
        }
        all.push(family);
    }
    all.extend(file_systems(&subjects, machine, at));
    all.extend(of_machine(snapshot, machine));
    let mut started = Family::gauge(
        "container_start_time_seconds",
        "Start time of the container since unix epoch in seconds.",
    );
    for pod in &snapshot.pods {
        for one in &pod.containers {
            let labels = labels(&one.name, &one.path, &one.image, &one.id, Some(pod));
            started.push(labels, one.started_at.as_second() as f64, at);
        }
    }
    let mut failed = Family::gauge(
        "container_scrape_error",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    failed.push([], if snapshot.errors.is_empty() { 0.0 } else { 1.0 }, None);
    all.extend([started, failed]);
    all
}

fn file_systems(subjects: &[Subject<'_>], machine: &Machine, at: Option<i64>) -> Vec<Family> {
    let Some((device, found)) = &machine.disk else { return Vec::new() };
    let gauge = Family::gauge;
    let mut limit = gauge(
        "container_fs_limit_bytes",
        "Number of bytes that can be consumed by the container on this filesystem.",
    );
    let mut used = gauge(
        "container_fs_usage_bytes",
        "Number of bytes that are consumed by the container on this filesystem.",
    );
    let mut free = gauge("container_fs_inodes_free", "Number of available Inodes");
    let mut inodes = gauge("container_fs_inodes_total", "Number of Inodes");
    for subject in subjects {
        let is_node = subject.labels.contains(&("id", "/"));
        let bytes = if is_node { Some(found.used()) } else { subject.layer.map(|layer| layer.bytes) };
        let Some(bytes) = bytes else { continue };
        let labels = || about(subject, Some(("device", device)));
        limit.push(labels(), found.capacity as f64, at);
        used.push(labels(), bytes as f64, at);
        free.push(labels(), found.inodes_free as f64, at);
        inodes.push(labels(), found.inodes as f64, at);
    }
    vec![limit, used, free, inodes]
}

fn of_machine(snapshot: &Snapshot, machine: &Machine) -> [Family; 3] {
    let [boot, id, system] = &machine.ids;
    let labels = [("boot_id", boot.as_str()), ("machine_id", id), ("system_uuid", system)];
    let mut cores = Family::gauge("machine_cpu_cores", "Number of logical CPU cores.");
    cores.push(labels, machine.cpus as f64, None);
    let mut memory = Family::gauge("machine_memory_bytes", "Amount of memory installed on the machine.");
    memory.push(labels, snapshot.node.memory.total as f64, None);
    let mut failed = Family::gauge(
        "machine_scrape_error",
        "1 if there was an error while getting machine metrics, 0 otherwise.",
    );
    failed.push([], 0.0, None);
    [cores, memory, failed]
}
