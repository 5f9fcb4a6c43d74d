//! The Node's status (pure).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_cri::v1;

use super::problem::Problem;
use super::sample::Sample;
use crate::config::Config;
use crate::eviction::Shortage;

/// A condition's words: reason, message and event for either state.
struct Words {
    kind: &'static str,
    short: (&'static str, &'static str, &'static str),
    enough: (&'static str, &'static str, &'static str),
}

const MEMORY: Words = Words {
    kind: "MemoryPressure",
    short: (
        "KubeletHasInsufficientMemory",
        "kubelet has insufficient memory available",
        "NodeHasInsufficientMemory",
    ),
    enough: (
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
        "NodeHasSufficientMemory",
    ),
};
const DISK: Words = Words {
    kind: "DiskPressure",
    short: ("KubeletHasDiskPressure", "kubelet has disk pressure", "NodeHasDiskPressure"),
    enough: ("KubeletHasNoDiskPressure", "kubelet has no disk pressure", "NodeHasNoDiskPressure"),
};
const PROCESSES: Words = Words {
    kind: "PIDPressure",
    short: ("KubeletHasInsufficientPID", "kubelet has insufficient PID available", "NodeHasInsufficientPID"),
    enough: ("KubeletHasSufficientPID", "kubelet has sufficient PID available", "NodeHasSufficientPID"),
};

fn condition_of<'a>(status: &'a NodeStatus, kind: &str) -> Option<&'a NodeCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// Whether pods may be put on the node.
pub(super) fn is_ready(status: &NodeStatus) -> bool {
    condition_of(status, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Whether a kubelet has written it, which then says which volumes are in use.
pub(super) fn is_of_kubelet(status: &NodeStatus) -> bool {
    status.node_info.as_ref().is_some_and(|info| !info.kubelet_version.is_empty())
}

/// The boot of the machine, if it is another one than before.
pub(super) fn rebooted(before: &NodeStatus, now: &NodeStatus) -> Option<String> {
    let boot = |status: &NodeStatus| status.node_info.as_ref().map(|info| info.boot_id.clone());
    let before = boot(before).filter(|boot| !boot.is_empty())?;
    boot(now).filter(|boot| *boot != before)
}

/// Whether two statuses differ in nothing but the times of their heartbeats.
pub(super) fn is_same(one: &NodeStatus, other: &NodeStatus) -> bool {
    let timeless = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    timeless(one) == timeless(other)
}

/// The runtime's condition of its network, and what others call that.
const NETWORK: (&str, &str) = ("NetworkReady", "container runtime network");

/// What a condition of the runtime says is not ready.
fn fault(status: &v1::RuntimeStatus, kind: &str, what: &str) -> Option<String> {
    let Some(found) = status.conditions.iter().find(|condition| condition.r#type == kind) else {
        return Some(format!("container runtime status check may not have completed yet: no {kind}"));
    };
    let v1::RuntimeCondition { status, reason, message, .. } = found;
    (!status).then(|| format!("{what} not ready: {kind}={status} reason:{reason} message:{message}"))
}

/// Why pods get no network.
pub(crate) fn network_fault(status: &v1::StatusResponse) -> Option<String> {
    fault(status.status.as_ref()?, NETWORK.0, NETWORK.1)
}

/// Why the runtime cannot run pods, in the words of other kubelets.
fn faults(sample: &Sample) -> Vec<String> {
    let status = match &sample.runtime {
        Ok(status) => status.status.clone().unwrap_or_default(),
        Err(error) => {
            let down = format!("container runtime is down: {error}");
            return std::iter::once(down).chain(sample.blind.clone()).collect();
        }
    };
    let checks = [fault(&status, "RuntimeReady", "container runtime"), fault(&status, NETWORK.0, NETWORK.1)];
    checks.into_iter().flatten().chain(sample.blind.clone()).collect()
}

struct Conditions<'a> {
    before: Option<&'a NodeStatus>,
    now: Timestamp,
    list: Vec<NodeCondition>,
    events: Vec<&'static str>,
}

impl Conditions<'_> {
    /// Says whether it is another state than before.
    fn put(&mut self, kind: &str, is_true: bool, reason: &str, message: String) -> bool {
        let status = if is_true { "True" } else { "False" };
        let before = self.before.and_then(|before| condition_of(before, kind));
        let same = before.filter(|before| before.status == status);
        let since = same.and_then(|same| same.last_transition_time.clone());
        self.list.push(NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(Time(self.now)),
            last_transition_time: since.or(Some(Time(self.now))),
        });
        same.is_none()
    }

    fn pressure(&mut self, words: &Words, short: bool) {
        let (reason, message, event) = if short { words.short } else { words.enough };
        if self.put(words.kind, short, reason, message.to_owned()) {
            self.events.push(event);
        }
    }

    /// The last one, as other components expect it.
    fn ready(&mut self, faults: &[String]) {
        let event = if faults.is_empty() { "NodeReady" } else { "NodeNotReady" };
        let was_known = self.before.is_some_and(|before| condition_of(before, "Ready").is_some());
        let changed = if faults.is_empty() {
            self.put("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned())
        } else {
            self.put("Ready", false, "KubeletNotReady", faults.join(","))
        };
        // A node that is new and not ready yet is no news.
        if changed && (was_known || faults.is_empty()) {
            self.events.push(event);
        }
    }
}

fn handlers(runtime: &v1::StatusResponse) -> Vec<NodeRuntimeHandler> {
    let of = |handler: &v1::RuntimeHandler| NodeRuntimeHandler {
        name: Some(handler.name.clone()),
        features: handler.features.as_ref().map(|features| NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
            user_namespaces: Some(features.user_namespaces),
        }),
    };
    runtime.runtime_handlers.iter().map(of).collect()
}

/// The status that follows from what was seen, and the events for what changed since `before`.
pub(super) fn build(
    config: &Config,
    sample: Sample,
    shortage: Shortage,
    problems: Vec<Problem>,
    before: Option<&NodeStatus>,
    now: Timestamp,
) -> (NodeStatus, Vec<&'static str>) {
    let mut conditions = Conditions { before, now, list: Vec::new(), events: Vec::new() };
    conditions.pressure(&MEMORY, shortage.memory);
    conditions.pressure(&DISK, shortage.disk);
    conditions.pressure(&PROCESSES, shortage.processes);
    for Problem { kind, is_there, reason, message } in problems {
        conditions.put(kind, is_there, reason, message);
    }
    let leaving = sample.leaving.then(|| "node is shutting down".to_owned());
    let faults: Vec<String> = faults(&sample).into_iter().chain(leaving).collect();
    conditions.ready(&faults);
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    let runtime = sample.runtime.ok();
    let features = runtime.as_ref().and_then(|runtime| runtime.features);
    let status = NodeStatus {
        addresses: Some(vec![
            address("InternalIP", config.node_ip.to_string()),
            address("Hostname", config.node_name.clone()),
        ]),
        allocatable: Some(sample.allocatable),
        capacity: Some(sample.capacity),
        conditions: Some(conditions.list),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(config.bind.port()) }),
        }),
        features: features.map(|features| NodeFeatures {
            supplemental_groups_policy: Some(features.supplemental_groups_policy),
        }),
        images: Some(sample.images),
        node_info: Some(sample.info),
        runtime_handlers: runtime.as_ref().map(handlers),
        ..NodeStatus::default()
    };
    (status, conditions.events)
}

#[cfg(test)]
mod tests;
