//! What the kubelet counts, under upstream's names (`kubelet_*`, `prober_*`).
//!
//! Handles are resolved where something is counted; what is known only when somebody asks is a source.

use std::sync::Arc;
use std::time::Duration;

use keelson_metrics::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, RegistryError,
    Source,
};
use parking_lot::Mutex;

mod lifecycle;

use crate::node_shutdown::Record;
use crate::pod::{Kind, PodModel};
use crate::pods::Pods;
use crate::probe::{Finding, ProbeKind};

/// Upstream's usual buckets, in seconds.
const USUAL: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// How long pods take to start: finer below a second than upstream's, which begin at half of one.
const STARTS: [f64; 29] = [
    0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0,
    180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
const SYNCS: [f64; 11] = [0.010, 0.050, 0.100, 0.500, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];

/// Calls of the container runtime.
#[derive(Debug, Clone)]
pub(crate) struct Operations {
    total: IntCounterVec,
    errors: IntCounterVec,
    duration: HistogramVec,
}

impl Operations {
    fn new(registry: &Registry) -> Result<Self, RegistryError> {
        let buckets: Vec<f64> = (0..14).map(|power| 0.005 * 2.5_f64.powi(power)).collect();
        let labels = &["operation_type"];
        Ok(Operations {
            total: registry.counters(
                "kubelet_runtime_operations_total",
                "Cumulative number of runtime operations by operation type.",
                labels,
            )?,
            errors: registry.counters(
                "kubelet_runtime_operations_errors_total",
                "Cumulative number of runtime operation errors by operation type.",
                labels,
            )?,
            duration: registry.histograms(
                "kubelet_runtime_operations_duration_seconds",
                "Duration in seconds of runtime operations. Broken down by operation type.",
                labels,
                &buckets,
            )?,
        })
    }

    /// A call has ended.
    pub(crate) fn ended(&self, call: &str, took: Duration, failed: bool) {
        self.total.with_label_values(&[call]).inc();
        self.duration.with_label_values(&[call]).observe(took.as_secs_f64());
        if failed {
            self.errors.with_label_values(&[call]).inc();
        }
    }
}

/// The results of probes.
#[derive(Debug)]
pub(crate) struct Probes {
    /// What `/metrics/probes` shows.
    pub(crate) registry: Registry,
    total: IntCounterVec,
    duration: HistogramVec,
    /// Label values in use, by the pod's UID: they go with the pod.
    known: Mutex<std::collections::HashMap<String, Vec<[String; 4]>>>,
}

const RESULTS: [&str; 3] = ["successful", "failed", "unknown"];

impl Probes {
    fn new() -> Result<Self, RegistryError> {
        let registry = Registry::default();
        Ok(Probes {
            total: registry.counters(
                "prober_probe_total",
                "Cumulative number of a liveness, readiness or startup probe for a container by result.",
                &["probe_type", "result", "container", "pod", "namespace", "pod_uid"],
            )?,
            duration: registry.histograms(
                "prober_probe_duration_seconds",
                "Duration in seconds for a probe response.",
                &["probe_type", "container", "pod", "namespace"],
                &USUAL,
            )?,
            registry,
            known: Mutex::default(),
        })
    }

    /// A probe has ended.
    pub(crate) fn ended(
        &self,
        pod: &PodModel,
        container: &str,
        kind: ProbeKind,
        finding: &Finding,
        took: Duration,
    ) {
        let result = match finding {
            Finding::Success | Finding::Warning(_) => "successful",
            Finding::Failure(_) => "failed",
            Finding::Error(_) => "unknown",
        };
        let labels = [kind.as_str(), container, &pod.name, &pod.namespace];
        {
            let mut known = self.known.lock();
            let of_pod = known.entry(pod.uid.clone()).or_default();
            if !of_pod.iter().any(|it| *it == labels) {
                of_pod.push(labels.map(str::to_owned));
            }
        }
        let [kind, container, name, namespace] = labels;
        self.total.with_label_values(&[kind, result, container, name, namespace, &pod.uid]).inc();
        self.duration.with_label_values(&labels).observe(took.as_secs_f64());
    }

    /// A pod has gone.
    pub(crate) fn forget(&self, uid: &str) {
        for labels in self.known.lock().remove(uid).unwrap_or_default() {
            // What is not there need not go.
            let _ = self.duration.remove_label_values(&labels);
            let [kind, container, pod, namespace] = &labels;
            for result in RESULTS {
                let _ =
                    self.total.remove_label_values(&[kind.as_str(), result, container, pod, namespace, uid]);
            }
        }
    }
}

/// Requests to the kubelet's server.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    total: IntCounterVec,
    duration: HistogramVec,
    inflight: IntGaugeVec,
}

/// A request that is under way.
pub(crate) struct Inflight {
    of: Requests,
    labels: [&'static str; 3],
    began: tokio::time::Instant,
    gauge: IntGauge,
}

const SERVER: &str = "readwrite";

impl Requests {
    fn new(registry: &Registry) -> Result<Self, RegistryError> {
        let labels = &["long_running", "method", "path", "server_type"];
        Ok(Requests {
            total: registry.counters(
                "kubelet_http_requests_total",
                "Number of the http requests received since the server started",
                labels,
            )?,
            duration: registry.histograms(
                "kubelet_http_requests_duration_seconds",
                "Duration in seconds to serve http requests",
                &["long_running", "method", "path", "server_type"],
                &USUAL,
            )?,
            inflight: registry.gauges(
                "kubelet_http_inflight_requests",
                "Number of the inflight http requests",
                labels,
            )?,
        })
    }

    /// A request has begun; it ends with the value.
    pub(crate) fn begin(&self, method: &http::Method, path: &str) -> Inflight {
        const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"];
        const PATHS: [&str; 16] = [
            "metrics/cadvisor",
            "metrics/probes",
            "metrics/resource",
            "attach",
            "configz",
            "containerLogs",
            "exec",
            "flagz",
            "healthz",
            "logs",
            "metrics",
            "pods",
            "portForward",
            "runningpods",
            "stats",
            "statusz",
        ];
        let method = METHODS.into_iter().find(|known| *known == method.as_str()).unwrap_or("other");
        let path = path.trim_start_matches('/');
        let fits = |known: &&str| {
            path.strip_prefix(*known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let path = PATHS.into_iter().find(fits).unwrap_or("other");
        let long = matches!(path, "attach" | "containerLogs" | "exec" | "portForward");
        let labels = [if long { "true" } else { "false" }, method, path];
        let gauge = self.inflight.with_label_values(&[labels[0], method, path, SERVER]);
        gauge.inc();
        Inflight { of: self.clone(), labels, began: tokio::time::Instant::now(), gauge }
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        let [long, method, path] = self.labels;
        let labels = [long, method, path, SERVER];
        self.gauge.dec();
        self.of.total.with_label_values(&labels).inc();
        self.of.duration.with_label_values(&labels).observe(self.began.elapsed().as_secs_f64());
    }
}

/// Everything that the kubelet counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// What `/metrics` shows.
    pub(crate) registry: Registry,
    pub(crate) probes: Probes,
    pub(crate) requests: Requests,
    pub(crate) operations: Operations,
    pub(crate) lifecycle: lifecycle::Lifecycle,
    /// Sandboxes that were to be made, and those that were not.
    pub(crate) started_pods: IntCounter,
    pub(crate) started_pods_errors: IntCounter,
    pub(crate) hook_fallbacks: IntCounter,
    started_containers: IntCounterVec,
    started_containers_errors: IntCounterVec,
    /// From when the kubelet first saw a pod until it ran.
    pub(crate) pod_start: Histogram,
    /// From when a pod was made until it ran.
    pub(crate) pod_start_total: HistogramVec,
    /// How long a status took to be written.
    pub(crate) status_sync: Histogram,
    /// Device plugins that made themselves known, and how long they took to give devices.
    pub(crate) device_plugin_registrations: IntCounterVec,
    pub(crate) device_plugin_allocations: HistogramVec,
    /// Credential provider plugins.
    pub(crate) credentials: crate::credential_provider::Counted,
}

impl Metrics {
    /// `node` is the node's name.
    pub(crate) fn new(node: &str, version: &str, pods: &Arc<Pods>) -> Result<Arc<Self>, RegistryError> {
        let registry = Registry::default();
        keelson_metrics::process::register(&registry)?;
        let none: [&str; 0] = [];
        let counter = |name: &str, help: &str| {
            Ok::<_, RegistryError>(registry.counters(name, help, &[])?.with_label_values(&none))
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            Ok::<_, RegistryError>(registry.histograms(name, help, &[], buckets)?.with_label_values(&none))
        };
        registry
            .gauges("kubelet_node_name", "The node's name. The count is always 1.", &["node"])?
            .with_label_values(&[node])
            .set(1);
        let about = "A metric with a constant '1' value labeled by the version that runs.";
        registry
            .gauges("kubernetes_build_info", about, &["git_version", "platform"])?
            .with_label_values(&[version, &format!("linux/{}", crate::node::machine::architecture())])
            .set(1);
        of_pods(&registry, pods)?;
        let of_type = &["container_type"];
        Ok(Arc::new(Metrics {
            probes: Probes::new()?,
            requests: Requests::new(&registry)?,
            operations: Operations::new(&registry)?,
            lifecycle: lifecycle::Lifecycle::new(&registry)?,
            started_pods: counter("kubelet_started_pods_total", "Cumulative number of pods started")?,
            started_pods_errors: counter(
                "kubelet_started_pods_errors_total",
                "Cumulative number of errors when starting pods",
            )?,
            hook_fallbacks: counter(
                "kubelet_lifecycle_handler_http_fallbacks_total",
                "The number of times lifecycle handlers successfully fell back to http from https.",
            )?,
            started_containers: registry.counters(
                "kubelet_started_containers_total",
                "Cumulative number of containers started",
                of_type,
            )?,
            started_containers_errors: registry.counters(
                "kubelet_started_containers_errors_total",
                "Cumulative number of errors when starting containers",
                &["container_type", "code"],
            )?,
            pod_start: histogram(
                "kubelet_pod_start_duration_seconds",
                "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
                &STARTS,
            )?,
            pod_start_total: registry.histograms(
                "kubelet_pod_start_total_duration_seconds",
                "Duration in seconds to start a pod since creation, including time to pull images and run init \
                 containers, measured from pod creation timestamp to when all its containers are reported as started",
                &["first_with_network"],
                &STARTS,
            )?,
            status_sync: histogram(
                "kubelet_pod_status_sync_duration_seconds",
                "Duration in seconds to sync a pod status update.",
                &SYNCS,
            )?,
            device_plugin_registrations: registry.counters(
                "kubelet_device_plugin_registration_total",
                "Cumulative number of device plugin registrations. Broken down by resource name.",
                &["resource_name"],
            )?,
            device_plugin_allocations: registry.histograms(
                "kubelet_device_plugin_alloc_duration_seconds",
                "Duration in seconds to serve a device plugin Allocation request. Broken down by resource name.",
                &["resource_name"],
                &USUAL,
            )?,
            credentials: crate::credential_provider::Counted {
                errors: registry.counters(
                    "kubelet_credential_provider_plugin_errors_total",
                    "Number of errors from credential provider plugin",
                    &["plugin_name"],
                )?,
                duration: registry.histograms(
                    "kubelet_credential_provider_plugin_duration",
                    "Duration of execution in seconds for credential provider plugin",
                    &["plugin_name"],
                    &USUAL,
                )?,
            },
            registry,
        }))
    }

    /// Adds by which configuration there are credential provider plugins.
    pub(crate) fn tell_of_credential_providers(&self, hash: &str) -> Result<(), RegistryError> {
        let about = "Information about the last applied credential provider configuration with hash as label";
        let told = self.registry.gauges("kubelet_credential_provider_config_info", about, &["hash"])?;
        told.with_label_values(&[hash]).set(1);
        Ok(())
    }

    /// Adds when pods were ended last because the machine shut down.
    pub(crate) fn tell_of_shutdown(&self, last: &Arc<Record>) -> Result<(), RegistryError> {
        for (name, help, is_end) in [
            (
                "kubelet_graceful_shutdown_start_time_seconds",
                "Last graceful shutdown start time since unix epoch in seconds",
                false,
            ),
            (
                "kubelet_graceful_shutdown_end_time_seconds",
                "Last graceful shutdown end time since unix epoch in seconds",
                true,
            ),
        ] {
            let last = Arc::clone(last);
            self.registry.add(Source::gauge(name, help, &[], move || {
                let (start, end) = last.seconds();
                vec![(Vec::new(), if is_end { end } else { start })]
            })?)?;
        }
        Ok(())
    }

    /// A container was to be started; `error` is the reason why it was not.
    pub(crate) fn container_started(&self, kind: Kind, error: Option<&str>) {
        let kind = word(kind);
        self.started_containers.with_label_values(&[kind]).inc();
        if let Some(error) = error {
            self.started_containers_errors.with_label_values(&[kind, error]).inc();
        }
    }

    /// A container that was started failed after all.
    pub(crate) fn container_failed(&self, kind: Kind, error: &str) {
        self.started_containers_errors.with_label_values(&[word(kind), error]).inc();
    }
}

/// What kind of container it is, to those who count.
fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Init | Kind::Sidecar => "init_container",
        Kind::Regular => "container",
        Kind::Ephemeral => "ephemeral_container",
    }
}

/// What is counted when somebody asks.
fn of_pods(registry: &Registry, pods: &Arc<Pods>) -> Result<(), RegistryError> {
    let all = Arc::clone(pods);
    registry.add(Source::gauge(
        "kubelet_running_pods",
        "Number of pods that have a running pod sandbox",
        &[],
        move || {
            let all = all.observed();
            let running = all.iter().filter(|(_, observed)| observed.ready_sandbox().is_some());
            vec![(Vec::new(), running.count() as f64)]
        },
    )?)?;
    let all = Arc::clone(pods);
    registry.add(Source::gauge(
        "kubelet_running_containers",
        "Number of containers currently running",
        &["container_state"],
        move || {
            let all = all.observed();
            let mut counts = std::collections::BTreeMap::new();
            for instance in all.iter().flat_map(|(_, observed)| &observed.containers) {
                let state = match instance.state {
                    crate::runtime_view::ContainerState::Created => "created",
                    crate::runtime_view::ContainerState::Running { .. } => "running",
                    crate::runtime_view::ContainerState::Exited { .. } => "exited",
                    crate::runtime_view::ContainerState::Unknown => "unknown",
                };
                *counts.entry(state).or_insert(0_u32) += 1;
            }
            counts.into_iter().map(|(state, count)| (vec![state.to_owned()], f64::from(count))).collect()
        },
    )?)?;
    let over = |pod: &k8s_openapi::api::core::v1::Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    let is_static = |pod: &k8s_openapi::api::core::v1::Pod| {
        let source = pod.metadata.annotations.as_ref().and_then(|all| all.get("kubernetes.io/config.source"));
        source.is_some_and(|source| source != "api")
    };
    for (name, help, only_active) in [
        ("kubelet_desired_pods", "The number of pods the kubelet is being instructed to run.", false),
        (
            "kubelet_active_pods",
            "The number of pods the kubelet considers active and which are being considered when admitting new pods.",
            true,
        ),
    ] {
        let all = Arc::clone(pods);
        registry.add(Source::gauge(name, help, &["static"], move || {
            let all = all.all();
            let counted: Vec<_> = all.iter().filter(|pod| !only_active || !over(pod)).collect();
            let fixed = counted.iter().filter(|pod| is_static(pod)).count();
            let others = counted.len() - fixed;
            vec![(vec![String::new()], others as f64), (vec!["true".to_owned()], fixed as f64)]
        })?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_metrics::Format;

    #[test]
    fn a_pod_takes_the_counts_of_its_probes_with_it() {
        let metrics = Metrics::new("node-1", "v1.36.0", &Arc::default()).unwrap();
        let pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": [{"name": "c"}]}}));
        let pod = PodModel::new(Arc::new(pod.unwrap())).unwrap();
        let took = Duration::from_millis(7);
        metrics.probes.ended(&pod, "c", ProbeKind::Liveness, &Finding::Failure("no".into()), took);
        let text = metrics.probes.registry.expose(Format::Text);
        let line = r#"prober_probe_total{container="c",namespace="n",pod="p",pod_uid="u",probe_type="Liveness",result="failed"} 1"#;
        assert!(text.contains(line), "{text}");
        metrics.probes.forget("u");
        assert!(!metrics.probes.registry.expose(Format::Text).contains("pod=\"p\""));
    }

    #[test]
    fn requests_are_counted_by_what_they_are_for() {
        let metrics = Metrics::new("node-1", "v1.36.0", &Arc::default()).unwrap();
        drop(metrics.requests.begin(&http::Method::GET, "/metrics/resource"));
        drop(metrics.requests.begin(&http::Method::POST, "/exec/n/p/c"));
        let text = metrics.registry.expose(Format::Text);
        for line in [
            r#"kubelet_http_requests_total{long_running="false",method="GET",path="metrics/resource",server_type="readwrite"} 1"#,
            r#"kubelet_http_requests_total{long_running="true",method="POST",path="exec",server_type="readwrite"} 1"#,
            r#"kubelet_http_inflight_requests{long_running="true",method="POST",path="exec",server_type="readwrite"} 0"#,
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
