//! The kubelet's settings: `KubeletConfiguration` of `kubelet.config.k8s.io/v1beta1`, as far as they are acted upon.
//!
//! What is not a field here is refused with its name. Names, types and defaults are upstream's; where a default differs,
//! the field says so.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use keelson_api::quantity::Quantity;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::backoff;

pub mod access;
pub(crate) mod enforcement;

/// The version that is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum ApiVersion {
    /// The only one.
    #[default]
    #[serde(rename = "kubelet.config.k8s.io/v1beta1")]
    V1beta1,
}

/// The kind that is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Kind {
    /// The only one.
    #[default]
    KubeletConfiguration,
}

/// A number of bytes, written as a quantity such as `10Mi`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let quantity = Quantity::parse(&text).map_err(serde::de::Error::custom)?;
        let bytes = u64::try_from(quantity.value());
        bytes.map(Bytes).map_err(|_| serde::de::Error::custom(format_args!("{text:?} is no number of bytes")))
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, into: S) -> Result<S::Ok, S::Error> {
        into.collect_str(&self.0)
    }
}

/// A duration, written as Go does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct GoDuration(
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")] pub Duration,
);

/// What of a memory node is kept for the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemoryReservation {
    /// The node's number.
    pub numa_node: u32,
    /// Quantities of `memory` and `hugepages-SIZE`.
    pub limits: BTreeMap<String, String>,
}

/// How long containers that end again and again wait between their starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CrashLoopBackOff {
    /// At the most, between a second and five minutes; the first wait is ten seconds, or this if it is less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_container_restart_period: Option<GoDuration>,
}

impl CrashLoopBackOff {
    /// The longest wait.
    pub(crate) fn longest(self) -> SignedDuration {
        let own = self.max_container_restart_period.and_then(|own| SignedDuration::try_from(own.0).ok());
        own.unwrap_or(backoff::LONGEST)
    }

    fn validate(self) -> Result<(), InvalidSetting> {
        let longest = self.longest();
        if (SignedDuration::from_secs(1)..=backoff::LONGEST).contains(&longest) {
            return Ok(());
        }
        let value = format!("{longest:#}");
        let field = "crashLoopBackOff.maxContainerRestartPeriod";
        Err(InvalidSetting { field, value, reason: "must be set between 1s and 300s" })
    }
}

/// What pods of a priority have to end in when the machine shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShutdownGracePeriodByPodPriority {
    /// The least priority that it is for.
    pub priority: i32,
    /// In seconds.
    pub shutdown_grace_period_seconds: u32,
}

/// What the node's owner decides about its kubelet. Durations are written as Go does, `1m30s`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct KubeletConfiguration {
    /// `kubelet.config.k8s.io/v1beta1`.
    pub api_version: ApiVersion,
    /// `KubeletConfiguration`.
    pub kind: Kind,
    /// How many pods the node takes.
    pub max_pods: u32,
    /// How many processes and threads a pod may have, -1 for as many as the node has. The default is 4096: enough for what
    /// forks and threads much, not enough to harm the machine.
    pub pod_pids_limit: i64,
    /// By signal, as `memory.available`, the amount (`100Mi`) or the part (`10%`) that is to be left: pods end at once when it is not.
    /// Without them: memory.available 100Mi, nodefs.available 10%, imagefs.available 15%, nodefs.inodesFree and imagefs.inodesFree 5%,
    /// where the parts of disks' bytes are 5 GiB at the most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eviction_hard: Option<BTreeMap<String, String>>,
    /// The same, for what may be short for a while.
    pub eviction_soft: BTreeMap<String, String>,
    /// For how long, by signal.
    pub eviction_soft_grace_period: BTreeMap<String, GoDuration>,
    /// What is to be free beyond the threshold once that was met, by signal.
    pub eviction_minimum_reclaim: BTreeMap<String, String>,
    /// A shortage is reported for so long after it was seen last.
    pub eviction_pressure_transition_period: GoDuration,
    /// What containers have to end in, in seconds, at the most, when a soft threshold is met.
    pub eviction_max_pod_grace_period: u32,
    /// `evictionHard` says what differs from the defaults, instead of all.
    pub merge_default_eviction_settings: bool,
    /// An unused image stays at least so long after it was seen first.
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: GoDuration,
    /// An image that is unused for longer goes; 0 for any time.
    #[serde(rename = "imageMaximumGCAge")]
    pub image_maximum_gc_age: GoDuration,
    /// Unused images go when more of their disk is used, in percent. Without it 85, and never while 10 GiB are free.
    #[serde(rename = "imageGCHighThresholdPercent", skip_serializing_if = "Option::is_none")]
    pub image_gc_high_threshold_percent: Option<u32>,
    /// Until no more than this is used. Without it 80.
    #[serde(rename = "imageGCLowThresholdPercent", skip_serializing_if = "Option::is_none")]
    pub image_gc_low_threshold_percent: Option<u32>,
    /// Of which images that are there already a pod has to show that it may have them: `NeverVerifyPreloadedImages`, those that this
    /// kubelet has pulled; `NeverVerify`, none; `NeverVerifyAllowlistedImages`, all but the listed ones; `AlwaysVerify`, all.
    pub image_pull_credentials_verification_policy: String,
    /// For `NeverVerifyAllowlistedImages`: repositories with their registry, or `PREFIX/*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preloaded_images_verification_allowlist: Vec<String>,
    /// How long a shutdown of the machine waits until pods have ended; systemd's login manager is asked for it. Not at all without it.
    pub shutdown_grace_period: GoDuration,
    /// The last part of that, which is for critical pods.
    pub shutdown_grace_period_critical_pods: GoDuration,
    /// Instead of both: what pods of a priority, and of those up to the next one, have to end in.
    pub shutdown_grace_period_by_pod_priority: Vec<ShutdownGracePeriodByPodPriority>,
    /// What Kubernetes' own processes need: `cpu`, `memory`, `ephemeral-storage`, `pid`.
    pub kube_reserved: BTreeMap<String, String>,
    /// What the machine's other processes need.
    pub system_reserved: BTreeMap<String, String>,
    /// `static`: containers of Guaranteed pods that ask for whole processors have them for themselves. `none`: nobody has.
    pub cpu_manager_policy: String,
    /// `full-pcpus-only: "true"`: whole cores alone are given. `strict-cpu-reservation: "true"`: nobody runs on what is kept for the machine.
    /// `distribute-cpus-across-numa: "true"`: who needs several memory nodes has as many of each. `distribute-cpus-across-cores: "true"`:
    /// one thread of each core before another of any. `align-by-socket: "true"`: what is at one socket is near.
    /// `prefer-align-cpus-by-uncorecache: "true"`: as few last-level caches as can be.
    pub cpu_manager_policy_options: BTreeMap<String, String>,
    /// `Static`: memory of containers of Guaranteed pods is set aside at as few memory nodes as can be. `None`: it is from anywhere.
    pub memory_manager_policy: String,
    /// For `Static`, what of each memory node is kept for the machine: in all as much as `kubeReserved`, `systemReserved` and the hard
    /// eviction threshold say together.
    pub reserved_memory: Vec<MemoryReservation>,
    /// Whether processors, memory and devices of a container have to be near to each other: `none`, `best-effort`, `restricted` or
    /// `single-numa-node`.
    pub topology_manager_policy: String,
    /// `container`: each container's are; `pod`: those of all containers of a pod.
    pub topology_manager_scope: String,
    /// `prefer-closest-numa-nodes: "true"`: of sets of memory nodes those that are nearer to each other. `max-allowable-numa-nodes`: how
    /// many the machine may have, 8 to 16.
    pub topology_manager_policy_options: BTreeMap<String, String>,
    /// Processors, as `0-1,8`, that are kept for the machine and that no container has for itself. They stand in the place of the `cpu` of
    /// `kubeReserved` and `systemReserved`.
    #[serde(rename = "reservedSystemCPUs")]
    pub reserved_system_cpus: String,
    /// `pods`: all pods together get no more than what is left of the machine. `system-reserved` and `kube-reserved`: the groups below
    /// get no more than what is kept for them; with `-compressible` at the end, no more than their share of the processors. `none`, or
    /// an empty list: nothing is enforced.
    pub enforce_node_allocatable: Vec<String>,
    /// The control group of the machine's other processes, which has to be there: with the driver `systemd` a slice, as `/system.slice`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system_reserved_cgroup: String,
    /// That of Kubernetes' own processes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kube_reserved_cgroup: String,
    /// The resolver configuration that pods inherit; empty for none. Otherwise `/etc/resolv.conf`, or the one that systemd-resolved
    /// has made it of if only that is reached by it, which a pod's own loopback does not have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolv_conf: Option<PathBuf>,
    /// The container runtime, as `unix:///run/containerd/containerd.sock`; empty for the embedded one, which is not even started
    /// otherwise. Upstream's default is containerd's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub container_runtime_endpoint: String,
    /// Where that runtime's images are, if not in the same place.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_service_endpoint: String,
    /// Who makes control groups: `cgroupfs`, kubelet and runtime themselves, or `systemd`. A container runtime that says by whom its own are
    /// made (CRI `RuntimeConfig`) is followed instead; the embedded one does as is written here.
    pub cgroup_driver: keelson_cgroup::Driver,
    /// A control group that is there, as `/pods` (with systemd the slice `pods.slice`) or `/`: pods are below it in `kubepods`. Empty for the cluster's own group, which
    /// several clusters on one machine do not share.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cgroup_root: String,
    /// Whether pods and their classes have control groups. Has to be true.
    #[serde(rename = "cgroupsPerQOS")]
    pub cgroups_per_qos: bool,
    /// A folder of manifests, of which each is a pod that this node runs whatever the API says; none otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub static_pod_path: Option<PathBuf>,
    /// Containers that say nothing of seccomp have the runtime's default filter.
    pub seccomp_default: bool,
    /// Kernel parameters of pods' namespaces that pods may set beside the safe ones; a name may end in `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// A log that is larger is moved away.
    pub container_log_max_size: Bytes,
    /// Files of one log, with the one that is written; two at least.
    pub container_log_max_files: u32,
    /// Between two looks at the logs' sizes.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub container_log_monitor_interval: Duration,
    /// How long containers that end again and again wait.
    pub crash_loop_back_off: CrashLoopBackOff,
    /// Who is let in to the kubelet's server.
    pub authentication: access::Authentication,
    /// What they may do there.
    pub authorization: access::Authorization,
    /// Streams of exec, attach and port-forward on which nothing comes or goes for so long end; `0s` for never.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub streaming_connection_idle_timeout: Duration,
    /// Whether the machine's own logs are served at `/logs/`, to those who may get `nodes/log`.
    pub enable_system_log_handler: bool,
}

impl Default for KubeletConfiguration {
    fn default() -> Self {
        KubeletConfiguration {
            api_version: ApiVersion::V1beta1,
            kind: Kind::KubeletConfiguration,
            max_pods: 110,
            pod_pids_limit: 4096,
            eviction_hard: None,
            eviction_soft: BTreeMap::new(),
            eviction_soft_grace_period: BTreeMap::new(),
            eviction_minimum_reclaim: BTreeMap::new(),
            eviction_pressure_transition_period: GoDuration(Duration::from_secs(300)),
            eviction_max_pod_grace_period: 0,
            merge_default_eviction_settings: false,
            image_minimum_gc_age: GoDuration(Duration::from_secs(120)),
            image_maximum_gc_age: GoDuration(Duration::ZERO),
            image_gc_high_threshold_percent: None,
            image_gc_low_threshold_percent: None,
            image_pull_credentials_verification_policy: "NeverVerifyPreloadedImages".to_owned(),
            preloaded_images_verification_allowlist: Vec::new(),
            shutdown_grace_period: GoDuration(Duration::ZERO),
            shutdown_grace_period_critical_pods: GoDuration(Duration::ZERO),
            shutdown_grace_period_by_pod_priority: Vec::new(),
            kube_reserved: BTreeMap::new(),
            system_reserved: BTreeMap::new(),
            cpu_manager_policy: "none".to_owned(),
            cpu_manager_policy_options: BTreeMap::new(),
            memory_manager_policy: "None".to_owned(),
            reserved_memory: Vec::new(),
            topology_manager_policy: "none".to_owned(),
            topology_manager_scope: "container".to_owned(),
            topology_manager_policy_options: BTreeMap::new(),
            reserved_system_cpus: String::new(),
            enforce_node_allocatable: vec!["pods".to_owned()],
            system_reserved_cgroup: String::new(),
            kube_reserved_cgroup: String::new(),
            resolv_conf: None,
            container_runtime_endpoint: String::new(),
            image_service_endpoint: String::new(),
            cgroup_driver: keelson_cgroup::Driver::Cgroupfs,
            cgroup_root: String::new(),
            cgroups_per_qos: true,
            static_pod_path: None,
            seccomp_default: false,
            allowed_unsafe_sysctls: Vec::new(),
            container_log_max_size: Bytes(10 << 20),
            container_log_max_files: 5,
            container_log_monitor_interval: Duration::from_secs(10),
            crash_loop_back_off: CrashLoopBackOff::default(),
            authentication: access::Authentication::default(),
            authorization: access::Authorization::default(),
            streaming_connection_idle_timeout: Duration::from_secs(4 * 60 * 60),
            enable_system_log_handler: true,
        }
    }
}

/// A setting that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: Invalid value: {value}: {reason}")]
pub struct InvalidSetting {
    field: &'static str,
    value: String,
    reason: &'static str,
}

impl KubeletConfiguration {
    /// Whether a kubelet can follow it.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let invalid = |field, value: &dyn ToString, reason| {
            Err(InvalidSetting { field, value: value.to_string(), reason })
        };
        if self.pod_pids_limit < -1 || self.pod_pids_limit == 0 {
            return invalid(
                "podPidsLimit",
                &self.pod_pids_limit,
                "must be greater than 0, or -1 for no limit",
            );
        }
        self.validate_shares()?;
        self.validate_shutdown()?;
        let fault = |(field, value, reason)| InvalidSetting { field, value, reason };
        crate::image::verification::check(self).map_err(fault)?;
        if self.container_log_max_files < 2 {
            return invalid("containerLogMaxFiles", &self.container_log_max_files, "must be greater than 1");
        }
        if self.container_log_monitor_interval < Duration::from_secs(3) {
            let told = format!("{:?}", self.container_log_monitor_interval);
            return invalid("containerLogMonitorInterval", &told, "must be greater than or equal to 3s");
        }
        self.crash_loop_back_off.validate()?;
        for pattern in &self.allowed_unsafe_sysctls {
            if !crate::sysctl::is_of_a_pod(pattern) {
                return invalid(
                    "allowedUnsafeSysctls",
                    pattern,
                    "the sysctls are not known to be namespaced",
                );
            }
        }
        for (field, endpoint) in [
            ("containerRuntimeEndpoint", &self.container_runtime_endpoint),
            ("imageServiceEndpoint", &self.image_service_endpoint),
        ] {
            if !endpoint.is_empty() && socket(endpoint).is_none() {
                return invalid(field, endpoint, "must be the path of a socket, as unix:///run/runtime.sock");
            }
        }
        if self.container_runtime_endpoint.is_empty() && !self.image_service_endpoint.is_empty() {
            let reason = "the embedded runtime holds its images itself; set containerRuntimeEndpoint too";
            return invalid("imageServiceEndpoint", &self.image_service_endpoint, reason);
        }
        self.authentication.validate()
    }

    /// The socket of a container runtime that is not the embedded one.
    pub fn runtime_socket(&self) -> Option<PathBuf> {
        socket(&self.container_runtime_endpoint)
    }

    /// The socket of that runtime's images, where it is another one.
    pub fn image_socket(&self) -> Option<PathBuf> {
        socket(&self.image_service_endpoint).filter(|socket| Some(socket) != self.runtime_socket().as_ref())
    }

    /// What is shared out among pods, and what is to be left.
    fn validate_shares(&self) -> Result<(), InvalidSetting> {
        let fault = |(field, value, reason)| InvalidSetting { field, value, reason };
        crate::eviction::thresholds(self).map_err(fault)?;
        crate::node::allocatable::check(self).map_err(fault)?;
        enforcement::check(self).map_err(fault)?;
        if !matches!(self.cpu_manager_policy.as_str(), "none" | "static") {
            return Err(fault((
                "cpuManagerPolicy",
                self.cpu_manager_policy.clone(),
                "must be none or static",
            )));
        }
        if self.reserved_cpus().is_none() && !self.reserved_system_cpus.is_empty() {
            let reason = "must be a set of processors, as 0-1,8";
            return Err(fault(("reservedSystemCPUs", self.reserved_system_cpus.clone(), reason)));
        }
        if self.cpu_manager_policy == "static" && self.reserved_cpu_count() == 0 {
            let reason = "static needs processors that are kept for the machine: reservedSystemCPUs, kubeReserved or systemReserved";
            return Err(fault(("cpuManagerPolicy", self.cpu_manager_policy.clone(), reason)));
        }
        self.validate_placement().map_err(fault)?;
        let (high, low) = self.image_gc_percents();
        if high > 100 || low >= high {
            let reason = "must be a percentage that is greater than imageGCLowThresholdPercent";
            return Err(fault(("imageGCHighThresholdPercent", high.to_string(), reason)));
        }
        let (least, most) = (self.image_minimum_gc_age.0, self.image_maximum_gc_age.0);
        if !most.is_zero() && most <= least {
            let reason = "must be greater than imageMinimumGCAge, or 0s for no limit";
            return Err(fault(("imageMaximumGCAge", format!("{most:?}"), reason)));
        }
        Ok(())
    }

    /// What says where in the machine pods are.
    fn validate_placement(&self) -> Result<(), (&'static str, String, &'static str)> {
        let one_of = |field, value: &String, known: &[&str], reason| {
            if known.contains(&value.as_str()) { Ok(()) } else { Err((field, value.clone(), reason)) }
        };
        let field = "cpuManagerPolicyOptions";
        for (name, value) in &self.cpu_manager_policy_options {
            one_of(field, name, &CPU_OPTIONS, "unknown CPU Manager Policy option")?;
            one_of(field, value, &["true", "false"], "must be true or false")?;
            if self.cpu_manager_policy != "static" {
                return Err((field, name.clone(), "cpuManagerPolicy must be static"));
            }
        }
        let is_set = |name: &str| self.cpu_option(name) == Some("true");
        for (one, other, reason) in CPU_OPTIONS_APART {
            if is_set(one) && is_set(other) {
                return Err((field, format!("{one}, {other}"), reason));
            }
        }
        if is_set("align-by-socket") && self.topology_manager_policy == "single-numa-node" {
            let reason = "Topology manager single-numa-node policy is incompatible with CPUManager align-by-socket policy option";
            return Err((field, "align-by-socket".to_owned(), reason));
        }
        let policy = &self.memory_manager_policy;
        one_of("memoryManagerPolicy", policy, &["None", "Static"], "must be None or Static")?;
        let field = "reservedMemory";
        if policy == "None" && !self.reserved_memory.is_empty() {
            return Err((
                field,
                format!("{} nodes", self.reserved_memory.len()),
                "memoryManagerPolicy must be Static",
            ));
        }
        let mut seen = Vec::new();
        for MemoryReservation { numa_node, limits } in &self.reserved_memory {
            for (name, text) in limits {
                let fault = |reason| Err((field, format!("numaNode {numa_node}, {name}: {text}"), reason));
                if !crate::topology::is_memory(name) {
                    return fault("must be memory or hugepages-SIZE");
                }
                if Quantity::parse(text).map_or(true, |amount| amount.value() <= 0) {
                    return fault("must be a quantity greater than zero");
                }
                if seen.contains(&(*numa_node, name)) {
                    return fault("must not be said twice of a NUMA node");
                }
                seen.push((*numa_node, name));
            }
        }
        let policy = &self.topology_manager_policy;
        if crate::topology::policy(policy).is_none() {
            let reason = "must be none, best-effort, restricted or single-numa-node";
            return Err(("topologyManagerPolicy", policy.clone(), reason));
        }
        if crate::topology::scope(&self.topology_manager_scope).is_none() {
            let reason = "must be container or pod";
            return Err(("topologyManagerScope", self.topology_manager_scope.clone(), reason));
        }
        let field = "topologyManagerPolicyOptions";
        for (name, value) in &self.topology_manager_policy_options {
            match name.as_str() {
                "prefer-closest-numa-nodes" => {
                    one_of(field, value, &["true", "false"], "must be true or false")?;
                }
                "max-allowable-numa-nodes" if self.max_allowable_numa_nodes().is_some() => {}
                "max-allowable-numa-nodes" => {
                    return Err((
                        field,
                        value.clone(),
                        "max-allowable-numa-nodes must be a number from 8 to 16",
                    ));
                }
                _ => {
                    let reason =
                        "this kubelet follows prefer-closest-numa-nodes and max-allowable-numa-nodes";
                    return Err((field, name.clone(), reason));
                }
            }
        }
        Ok(())
    }

    fn validate_shutdown(&self) -> Result<(), InvalidSetting> {
        let (all, critical) = (self.shutdown_grace_period.0, self.shutdown_grace_period_critical_pods.0);
        let fault = |field, value: Duration, reason| {
            Err(InvalidSetting { field, value: format!("{value:?}"), reason })
        };
        if critical > all {
            let reason = "must be less than or equal to shutdownGracePeriod";
            return fault("shutdownGracePeriodCriticalPods", critical, reason);
        }
        for (field, value) in [("shutdownGracePeriod", all), ("shutdownGracePeriodCriticalPods", critical)] {
            if !value.is_zero() && value < Duration::from_secs(1) {
                return fault(
                    field,
                    value,
                    "must be either zero or otherwise greater than or equal to 1 sec",
                );
            }
        }
        if !all.is_zero() && !self.shutdown_grace_period_by_pod_priority.is_empty() {
            let reason = "cannot be specified together with shutdownGracePeriodByPodPriority";
            return fault("shutdownGracePeriod", all, reason);
        }
        Ok(())
    }

    /// An option of the policy for processors.
    pub(crate) fn cpu_option(&self, name: &str) -> Option<&str> {
        self.cpu_manager_policy_options.get(name).map(String::as_str)
    }

    /// An option of the policy for places.
    pub(crate) fn topology_option(&self, name: &str) -> Option<&str> {
        self.topology_manager_policy_options.get(name).map(String::as_str)
    }

    /// How many memory nodes a machine may have that is shared out by them, if that is said.
    pub(crate) fn max_allowable_numa_nodes(&self) -> Option<usize> {
        let most = usize::try_from(crate::topology::machine::MOST_NODES).unwrap_or(usize::MAX);
        let told = self.topology_option("max-allowable-numa-nodes")?.parse().ok();
        told.filter(|told| (crate::topology::machine::USUAL_NODES..=most).contains(told))
    }

    /// What is kept of memory nodes: node, resource and bytes.
    pub(crate) fn reserved_memory(&self) -> impl Iterator<Item = (u32, String, u64)> {
        self.reserved_memory.iter().flat_map(|of_node| {
            of_node.limits.iter().filter_map(|(name, text)| {
                let bytes = u64::try_from(Quantity::parse(text).ok()?.value()).ok()?;
                Some((of_node.numa_node, name.clone(), bytes))
            })
        })
    }

    /// The percentage of use at which unused images go, and that at which no more have to.
    pub(crate) fn image_gc_percents(&self) -> (u32, u32) {
        (
            self.image_gc_high_threshold_percent.unwrap_or(85),
            self.image_gc_low_threshold_percent.unwrap_or(80),
        )
    }

    /// The processors that are kept for the machine, where they are named.
    pub(crate) fn reserved_cpus(&self) -> Option<crate::exclusive_cpus::Cpus> {
        crate::exclusive_cpus::parse(&self.reserved_system_cpus).filter(|cpus| !cpus.is_empty())
    }

    /// How many processors are kept for the machine, none of which a container has for itself.
    pub(crate) fn reserved_cpu_count(&self) -> usize {
        let milli = crate::node::allocatable::reserved(self, "cpu").quantity().milli_value();
        usize::try_from((milli + 999) / 1000).unwrap_or(usize::MAX)
    }

    /// Whether pods together are held to what is left for them.
    pub(crate) fn enforces_pods(&self) -> bool {
        self.enforcements().any(|one| one == enforcement::Enforcement::Pods)
    }

    /// How many processes and threads a pod may have where all of them together may have so many.
    pub(crate) fn pod_pids(&self, all: u64) -> u64 {
        u64::try_from(self.pod_pids_limit).map_or(all, |limit| limit.min(all))
    }
}

/// Options of the policy `static`.
const CPU_OPTIONS: [&str; 6] = [
    "full-pcpus-only",
    "strict-cpu-reservation",
    "distribute-cpus-across-numa",
    "distribute-cpus-across-cores",
    "align-by-socket",
    "prefer-align-cpus-by-uncorecache",
];

/// Those of which one alone can be.
const CPU_OPTIONS_APART: [(&str, &str, &str); 4] = [
    (
        "full-pcpus-only",
        "distribute-cpus-across-cores",
        "static policy options full-pcpus-only and distribute-cpus-across-cores can not be used at the same time",
    ),
    (
        "distribute-cpus-across-numa",
        "distribute-cpus-across-cores",
        "static policy options distribute-cpus-across-numa and distribute-cpus-across-cores can not be used at the same time",
    ),
    (
        "prefer-align-cpus-by-uncorecache",
        "distribute-cpus-across-cores",
        "static policy options prefer-align-cpus-by-uncorecache and distribute-cpus-across-cores can not be used at the same time",
    ),
    (
        "prefer-align-cpus-by-uncorecache",
        "distribute-cpus-across-numa",
        "static policy options prefer-align-cpus-by-uncorecache and distribute-cpus-across-numa can not be used at the same time",
    ),
];

/// The path of a unix socket, with or without its scheme.
fn socket(endpoint: &str) -> Option<PathBuf> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    path.starts_with('/').then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<KubeletConfiguration, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let head = r#"{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration""#;
        assert_eq!(read(&format!("{head}}}")).unwrap(), KubeletConfiguration::default());
        let own = read(&format!(
            r#"{head}, "maxPods": 250, "containerLogMaxSize": "1Mi", "containerLogMonitorInterval": "1m30s"}}"#
        ))
        .unwrap();
        assert_eq!((own.max_pods, own.container_log_max_size), (250, Bytes(1 << 20)));
        assert_eq!(own.container_log_monitor_interval, Duration::from_secs(90));
        assert_eq!(read(&serde_json::to_string(&own).unwrap()).unwrap(), own);
    }

    #[test]
    fn what_is_not_known_is_named() {
        assert!(
            read(r#"{"kind": "KubeProxyConfiguration"}"#).unwrap_err().contains("KubeProxyConfiguration")
        );
        assert!(read(r#"{"runOnce": true}"#).unwrap_err().contains("unknown field `runOnce`"));
        assert!(read(r#"{"containerLogMaxSize": "-1"}"#).unwrap_err().contains("no number of bytes"));
    }

    #[test]
    fn a_crashing_container_waits_no_longer_than_the_owner_wants() {
        let with = |period: &str| {
            let text = format!(r#"{{"crashLoopBackOff": {{"maxContainerRestartPeriod": "{period}"}}}}"#);
            read(&text).unwrap()
        };
        let longest = |settings: &KubeletConfiguration| settings.crash_loop_back_off.longest().as_secs();
        assert_eq!((longest(&with("1m30s")), longest(&KubeletConfiguration::default())), (90, 300));
        assert_eq!((with("1s").validate(), with("300s").validate()), (Ok(()), Ok(())));
        let told = with("301s").validate().unwrap_err().to_string();
        assert!(told.starts_with("crashLoopBackOff.maxContainerRestartPeriod: Invalid value: "), "{told}");
        assert!(with("0s").validate().is_err());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let with = |pids, files| KubeletConfiguration {
            pod_pids_limit: pids,
            container_log_max_files: files,
            ..KubeletConfiguration::default()
        };
        let told = with(0, 5).validate().unwrap_err().to_string();
        assert_eq!(told, "podPidsLimit: Invalid value: 0: must be greater than 0, or -1 for no limit");
        assert!(with(-1, 1).validate().is_err());
        assert_eq!(with(-1, 2).validate(), Ok(()));
        assert_eq!(
            (with(-1, 2).pod_pids(1000), with(50, 2).pod_pids(1000), with(5000, 2).pod_pids(1000)),
            (1000, 50, 1000)
        );
    }

    #[test]
    fn places_in_the_machine_are_as_upstream_names_them() {
        let told = |text: &str| read(&format!("{{{text}}}")).unwrap().validate().unwrap_err().to_string();
        let fine = r#"{"cpuManagerPolicy": "static", "reservedSystemCPUs": "0",
            "cpuManagerPolicyOptions": {"full-pcpus-only": "true"}, "topologyManagerPolicy": "restricted",
            "topologyManagerScope": "pod", "topologyManagerPolicyOptions": {"max-allowable-numa-nodes": "16"},
            "memoryManagerPolicy": "Static", "reservedMemory": [{"numaNode": 0, "limits": {"memory": "1Gi"}}]}"#;
        assert_eq!(read(fine).unwrap().validate(), Ok(()));
        for (text, field) in [
            (r#""cpuManagerPolicyOptions": {"scale-delay-time": "true"}"#, "cpuManagerPolicyOptions"),
            (r#""cpuManagerPolicyOptions": {"full-pcpus-only": "true"}"#, "cpuManagerPolicyOptions"),
            (r#""memoryManagerPolicy": "static""#, "memoryManagerPolicy"),
            (r#""reservedMemory": [{"numaNode": 0, "limits": {"memory": "1Gi"}}]"#, "reservedMemory"),
            (r#""topologyManagerPolicy": "strict""#, "topologyManagerPolicy"),
            (r#""topologyManagerScope": "node""#, "topologyManagerScope"),
            (
                r#""topologyManagerPolicyOptions": {"max-allowable-numa-nodes": "7"}"#,
                "topologyManagerPolicyOptions",
            ),
        ] {
            assert!(told(text).starts_with(&format!("{field}: Invalid value")), "{}", told(text));
        }
    }

    #[test]
    fn options_for_processors_that_contradict_each_other_are_refused() {
        let told = |options: &[&str], further: &str| {
            let options: Vec<String> = options.iter().map(|name| format!(r#""{name}": "true""#)).collect();
            let text = format!(
                r#"{{"cpuManagerPolicy": "static", "reservedSystemCPUs": "0", "cpuManagerPolicyOptions": {{{}}}{further}}}"#,
                options.join(", ")
            );
            read(&text).unwrap().validate().err().map(|error| error.to_string())
        };
        for fine in [
            ["align-by-socket", "distribute-cpus-across-cores"],
            ["full-pcpus-only", "prefer-align-cpus-by-uncorecache"],
            ["align-by-socket", "prefer-align-cpus-by-uncorecache"],
        ] {
            assert_eq!(told(&fine, ""), None);
        }
        for (one, other, reason) in CPU_OPTIONS_APART {
            assert!(told(&[one, other], "").unwrap().ends_with(reason));
            let text = format!("static policy options {one} and {other} can not be used at the same time");
            assert_eq!(reason, text);
        }
        let told = told(&["align-by-socket"], r#", "topologyManagerPolicy": "single-numa-node""#).unwrap();
        assert!(told.ends_with("is incompatible with CPUManager align-by-socket policy option"), "{told}");
    }

    #[test]
    fn a_runtime_is_named_by_its_socket() {
        let with = |runtime: &str, images: &str| KubeletConfiguration {
            container_runtime_endpoint: runtime.to_owned(),
            image_service_endpoint: images.to_owned(),
            ..KubeletConfiguration::default()
        };
        let same = with("unix:///run/c.sock", "/run/c.sock");
        assert_eq!((same.validate(), same.runtime_socket()), (Ok(()), Some("/run/c.sock".into())));
        assert_eq!(same.image_socket(), None);
        assert_eq!(with("/run/c.sock", "unix:///run/i.sock").image_socket(), Some("/run/i.sock".into()));
        assert_eq!(with("", "").runtime_socket(), None);
        for wrong in [with("npipe:////./pipe/c", ""), with("tcp://h:1", ""), with("", "/run/i.sock")] {
            assert!(wrong.validate().is_err(), "{wrong:?}");
        }
    }
}
