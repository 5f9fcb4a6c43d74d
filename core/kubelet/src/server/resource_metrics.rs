//! `GET /metrics/resource`: processor time and memory of the node, its pods and their containers (pure).

use keelson_metrics::Family;

use crate::usage::Snapshot;

/// Nanoseconds as seconds.
pub(super) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// The metrics of a look; `None` where looking failed.
pub(super) fn families(snapshot: Option<&Snapshot>) -> Vec<Family> {
    let (cpu, memory) = ("Cumulative cpu time consumed by the", "Current working set of the");
    let counter =
        |name: &str, of: &str| Family::counter(name, &format!("[STABLE] {cpu} {of} in core-seconds"));
    let gauge = |name: &str, of: &str| Family::gauge(name, &format!("[STABLE] {memory} {of} in bytes"));
    let mut container_cpu = counter("container_cpu_usage_seconds_total", "container");
    let mut container_memory = gauge("container_memory_working_set_bytes", "container");
    let mut started = Family::gauge(
        "container_start_time_seconds",
        "[STABLE] Start time of the container since unix epoch in seconds",
    );
    let mut swap = Family::gauge(
        "container_swap_usage_bytes",
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
    );
    let mut node_cpu = counter("node_cpu_usage_seconds_total", "node");
    let mut node_memory = gauge("node_memory_working_set_bytes", "node");
    let mut pod_cpu = counter("pod_cpu_usage_seconds_total", "pod");
    let mut pod_memory = gauge("pod_memory_working_set_bytes", "pod");
    let mut pod_swap = Family::gauge(
        "pod_swap_usage_bytes",
        "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
    );
    let mut errors = Family::gauge(
        "resource_scrape_error",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    errors.push([], if snapshot.is_some_and(|it| it.errors.is_empty()) { 0.0 } else { 1.0 }, None);
    if let Some(snapshot) = snapshot {
        let at = Some(snapshot.at.as_millisecond());
        node_cpu.push([], seconds(snapshot.node.cpu), at);
        node_memory.push([], snapshot.node.memory.used() as f64, at);
        for pod in &snapshot.pods {
            let of_pod = [("namespace", pod.model.namespace.as_str()), ("pod", pod.model.name.as_str())];
            pod_cpu.push(of_pod, seconds(pod.group.cpu.total), at);
            pod_memory.push(of_pod, pod.group.memory.working_set as f64, at);
            if let Some(bytes) = pod.group.memory.swap {
                pod_swap.push(of_pod, bytes as f64, at);
            }
            for container in &pod.containers {
                let labels = || [("container", container.name.as_str())].into_iter().chain(of_pod);
                container_cpu.push(labels(), seconds(container.group.cpu.total), at);
                container_memory.push(labels(), container.group.memory.working_set as f64, at);
                started.push(labels(), container.started_at.as_millisecond() as f64 / 1e3, None);
                if let Some(bytes) = container.group.memory.swap {
                    swap.push(labels(), bytes as f64, at);
                }
            }
        }
    }
    vec![
        container_cpu,
        container_memory,
        started,
        swap,
        node_cpu,
        node_memory,
        pod_cpu,
        pod_memory,
        pod_swap,
        errors,
    ]
}
