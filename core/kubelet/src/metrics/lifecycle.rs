//! How the node fares with its pods: what others alert on.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use keelson_metrics::{Gauge, Histogram, HistogramVec, IntCounterVec, Registry, RegistryError};
use parking_lot::Mutex;

use super::{STARTS, USUAL};

/// Bounds of images' sizes in bytes, and what they are called.
const SIZES: [(u64, &str); 9] = [
    (10 << 20, "0-10MB"),
    (100 << 20, "10MB-100MB"),
    (500 << 20, "100MB-500MB"),
    (1 << 30, "500MB-1GB"),
    (5 << 30, "1GB-5GB"),
    (10 << 30, "5GB-10GB"),
    (20 << 30, "10GB-20GB"),
    (30 << 30, "20GB-30GB"),
    (40 << 30, "30GB-40GB"),
];
const PULLS: [f64; 14] =
    [1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0];

/// What is counted of pods' ways.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    relist_duration: Histogram,
    relist_interval: Histogram,
    relist_seen: Gauge,
    relisted: Mutex<Option<Instant>>,
    worker_duration: HistogramVec,
    /// From when the kubelet saw a pod until its worker began.
    pub(crate) worker_start: Histogram,
    start_sli: Histogram,
    /// By the UID of a pod that has not run yet, from when to when its images were pulled.
    pulls: Mutex<HashMap<String, (Instant, Instant)>>,
    pull_duration: HistogramVec,
    sandbox_duration: HistogramVec,
    sandbox_errors: IntCounterVec,
    evictions: IntCounterVec,
    preemptions: IntCounterVec,
    rejections: IntCounterVec,
    images: IntCounterVec,
}

impl Lifecycle {
    pub(super) fn new(registry: &Registry) -> Result<Self, RegistryError> {
        let none: [&str; 0] = [];
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            Ok::<_, RegistryError>(registry.histograms(name, help, &[], buckets)?.with_label_values(&none))
        };
        Ok(Lifecycle {
            relist_duration: histogram(
                "kubelet_pleg_relist_duration_seconds",
                "Duration in seconds for relisting pods in PLEG.",
                &USUAL,
            )?,
            relist_interval: histogram(
                "kubelet_pleg_relist_interval_seconds",
                "Interval in seconds between relisting in PLEG.",
                &USUAL,
            )?,
            relist_seen: registry
                .floats(
                    "kubelet_pleg_last_seen_seconds",
                    "Timestamp in seconds when PLEG was last seen active.",
                    &[],
                )?
                .with_label_values(&none),
            relisted: Mutex::default(),
            worker_duration: registry.histograms(
                "kubelet_pod_worker_duration_seconds",
                "Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync",
                &["operation_type"],
                &USUAL,
            )?,
            worker_start: histogram(
                "kubelet_pod_worker_start_duration_seconds",
                "Duration in seconds from kubelet seeing a pod to starting a worker.",
                &USUAL,
            )?,
            start_sli: histogram(
                "kubelet_pod_start_sli_duration_seconds",
                "Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod \
                 creation timestamp to when all its containers are reported as started and observed via watch",
                &STARTS,
            )?,
            pulls: Mutex::default(),
            pull_duration: registry.histograms(
                "kubelet_image_pull_duration_seconds",
                "Duration in seconds to pull an image.",
                &["image_size_in_bytes"],
                &PULLS,
            )?,
            sandbox_duration: registry.histograms(
                "kubelet_run_podsandbox_duration_seconds",
                "Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.",
                &["runtime_handler"],
                &USUAL,
            )?,
            sandbox_errors: registry.counters(
                "kubelet_run_podsandbox_errors_total",
                "Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.",
                &["runtime_handler"],
            )?,
            evictions: registry.counters(
                "kubelet_evictions",
                "Cumulative number of pod evictions by eviction signal",
                &["eviction_signal"],
            )?,
            preemptions: registry.counters(
                "kubelet_preemptions",
                "Cumulative number of pod preemptions by preemption resource",
                &["preemption_signal"],
            )?,
            rejections: registry.counters(
                "kubelet_admission_rejections_total",
                "Cumulative number pod admission rejections by the Kubelet.",
                &["reason"],
            )?,
            images: registry.counters(
                "kubelet_image_garbage_collected_total",
                "Total number of images garbage collected by the kubelet, whether through disk usage or image age.",
                &["reason"],
            )?,
        })
    }

    /// All that the runtime holds was looked at.
    pub(crate) fn relisted(&self, began: Instant) {
        self.relist_duration.observe(began.elapsed().as_secs_f64());
        self.relist_seen.set(Timestamp::now().as_duration().as_secs_f64());
        if let Some(before) = self.relisted.lock().replace(began) {
            self.relist_interval.observe(began.duration_since(before).as_secs_f64());
        }
    }

    /// A worker has taken a step: `create` for its first, `kill` when its pod is ending.
    pub(crate) fn worked(&self, operation: &'static str, took: Duration) {
        self.worker_duration.with_label_values(&[operation]).observe(took.as_secs_f64());
    }

    /// An image was pulled for a pod, or not; its size in bytes if it was.
    pub(crate) fn pulled(&self, uid: &str, began: Instant, size: Option<u64>) {
        let now = Instant::now();
        if let Some(size) = size {
            let class = size_class(size);
            self.pull_duration.with_label_values(&[class]).observe(began.elapsed().as_secs_f64());
        }
        let mut pulls = self.pulls.lock();
        let span = pulls.entry(uid.to_owned()).or_insert((began, now));
        *span = (span.0.min(began), now);
    }

    /// A pod has come to run.
    pub(crate) fn started(&self, uid: &str, pod: &Pod, now: Timestamp) {
        let pulling = self.pulls.lock().get(uid).map(|(from, until)| until.duration_since(*from));
        if let Some(took) = start(pod, pulling.unwrap_or_default(), now) {
            self.start_sli.observe(took);
        }
    }

    /// Nothing is left of a pod.
    pub(crate) fn forget(&self, uid: &str) {
        self.pulls.lock().remove(uid);
    }

    /// A sandbox was made, or was not.
    pub(crate) fn sandbox(&self, handler: &str, took: Duration, failed: bool) {
        self.sandbox_duration.with_label_values(&[handler]).observe(took.as_secs_f64());
        if failed {
            self.sandbox_errors.with_label_values(&[handler]).inc();
        }
    }

    /// A pod has to end because of what is short.
    pub(crate) fn evicted(&self, signal: &str) {
        self.evictions.with_label_values(&[signal]).inc();
    }

    /// A pod has to end for a critical one that needs the resource.
    pub(crate) fn preempted(&self, resource: &str) {
        self.preemptions.with_label_values(&[resource]).inc();
    }

    /// A pod was refused.
    pub(crate) fn refused(&self, reason: &str) {
        self.rejections.with_label_values(&[counted_as(reason)]).inc();
    }

    /// An image was removed: for `space`, or its `age`.
    pub(crate) fn image_removed(&self, reason: &'static str) {
        self.images.with_label_values(&[reason]).inc();
    }
}

/// (pure) The reason for which a pod is counted as refused. Extended resources are as many as a node has names for.
fn counted_as(reason: &str) -> &str {
    match reason {
        "OutOfcpu" | "OutOfmemory" | "OutOfephemeral-storage" | "OutOfpods" => reason,
        other if other.starts_with("OutOf") => "OutOfExtendedResources",
        other => other,
    }
}

/// (pure) What images of a size are called.
fn size_class(size: u64) -> &'static str {
    SIZES.iter().find(|(most, _)| size < *most).map_or("GT40GB", |(_, name)| name)
}

/// (pure) Seconds that a pod took to start but for pulls and init containers; `None` when it is not known since when it is.
fn start(pod: &Pod, pulling: Duration, now: Timestamp) -> Option<f64> {
    let made = pod.metadata.creation_timestamp.as_ref()?.0;
    let lasting = |name: &str| {
        let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        init.into_iter().any(|one| one.name == name && one.restart_policy.as_deref() == Some("Always"))
    };
    let init = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    let ran = init.filter(|one| !lasting(&one.name)).filter_map(|one| {
        let ended = one.state.as_ref()?.terminated.as_ref()?;
        Some(ended.finished_at.as_ref()?.0.duration_since(ended.started_at.as_ref()?.0).as_secs_f64())
    });
    let ran: f64 = ran.sum();
    Some((now.duration_since(made).as_secs_f64() - pulling.as_secs_f64() - ran).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_for_extended_resources_are_counted_together() {
        assert_eq!(counted_as("OutOfcpu"), "OutOfcpu");
        assert_eq!(counted_as("OutOfexample.com/gpu"), "OutOfExtendedResources");
        assert_eq!(counted_as("NodeAffinity"), "NodeAffinity");
    }

    #[test]
    fn neither_pulls_nor_init_containers_count_for_a_start() {
        let ended = |started: &str, finished: &str| serde_json::json!({"terminated": {"exitCode": 0, "startedAt": started, "finishedAt": finished}});
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [], "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]},
            "status": {"initContainerStatuses": [
                {"name": "i", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": ended("2026-01-01T00:00:05Z", "2026-01-01T00:00:09Z")},
                {"name": "s", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": ended("2026-01-01T00:00:05Z", "2026-01-01T00:00:09Z")}]}
        }))
        .unwrap();
        let now = "2026-01-01T00:00:20Z".parse().unwrap();
        assert_eq!(start(&pod, Duration::from_secs(3), now), Some(13.0));
        assert_eq!(start(&pod, Duration::from_secs(300), now), Some(0.0));
        assert_eq!(start(&Pod::default(), Duration::ZERO, now), None);
    }

    #[test]
    fn images_are_told_apart_by_their_size() {
        assert_eq!(
            [1, 10 << 20, (1 << 30) - 1, 1 << 40].map(size_class),
            ["0-10MB", "10MB-100MB", "500MB-1GB", "GT40GB"]
        );
    }
}
