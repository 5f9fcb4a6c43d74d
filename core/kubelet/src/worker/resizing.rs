//! Giving a pod that runs more or less of CPU and memory.

use jiff::{SignedDuration, Timestamp};
use keelson_cri::v1;

use super::{Node, Worker};
use crate::allocation;
use crate::cgroup;
use crate::cgroup::groups::GroupError;
use crate::event::EventType;
use crate::pod::PodModel;
use crate::resources;
use crate::runtime_view::Instance;

/// Whether there is room now is looked at again after this.
const RETRY: SignedDuration = SignedDuration::from_secs(5);

impl Worker {
    /// Gives the pod what it asks for now, if the node can; says when to look again.
    pub(super) fn allocate(&mut self, now: Timestamp) -> Option<Timestamp> {
        if self.memory.termination.is_some() {
            return None;
        }
        let wanted = allocation::wanted(&self.pod.pod);
        if allocation::is_same(&wanted, &self.allocation) {
            self.memory.resize_pending = None;
            return None;
        }
        let candidate = PodModel::given(self.pod.pod.clone(), &wanted).ok()?;
        if self.node.furnishing.cpus.is_on() && candidate.qos_class() == crate::pod::QosClass::Guaranteed {
            let message = "Resize is infeasible for Guaranteed Pods alongside CPU Manager static policy";
            self.memory.resize_pending = Some(crate::memory::Why::new("Infeasible", message));
            return None;
        }
        match self.node.ledger.resize(&candidate, &self.node.config) {
            Ok(()) => {
                tracing::debug!(object = self.pod.object(), "the pod is given other resources");
                self.allocation = wanted;
                self.pod = candidate.into();
                self.memory.resize_pending = None;
                self.memory.resize_due = true;
                self.memory.resize_failed = None;
                None
            }
            Err(why) => {
                if self.memory.resize_pending.as_ref() != Some(&why) {
                    let reason = format!("Resize{}", why.reason);
                    let message = why.message.clone();
                    self.node.recorder.tell(&self.pod, None, EventType::Warning, reason, message);
                }
                let deferred = why.reason == "Deferred";
                self.memory.resize_pending = Some(why);
                now.checked_add(RETRY).ok().filter(|_| deferred)
            }
        }
    }
}

/// (client) Has a runtime change an instance's limits. Memory is not taken from who needs it.
async fn update(node: &Node, pod: &PodModel, instance: &Instance) -> Result<(), String> {
    let Some(member) = pod.member(&instance.name) else { return Ok(()) };
    let runtime = &node.runtime;
    let mut limits = resources::compute(pod, &member.container);
    limits.memory_swap_limit_in_bytes = resources::without_swap(&limits, &node.machine);
    let before = instance.resources.as_ref().map_or(0, |before| before.memory_limit_in_bytes);
    let wanted = limits.memory_limit_in_bytes;
    if wanted > 0 && (before <= 0 || wanted < before) {
        let request = v1::ContainerStatsRequest { container_id: instance.id.clone() };
        let stats = runtime.container_stats(request).await.map_err(|error| error.text())?.stats;
        let memory = stats.and_then(|stats| stats.memory).and_then(|memory| memory.working_set_bytes);
        let used = memory.map_or(0, |used| used.value);
        if i128::from(used) > i128::from(wanted) {
            let name = &instance.name;
            return Err(format!(
                "attempting to set container {name:?} memory limit ({wanted}) below current usage ({used})"
            ));
        }
    }
    let request = v1::UpdateContainerResourcesRequest {
        container_id: instance.id.clone(),
        linux: Some(limits),
        ..v1::UpdateContainerResourcesRequest::default()
    };
    runtime.update_container_resources(request).await.map(drop).map_err(|error| error.text())
}

/// Refuses to take memory from a pod that needs it: with version 2 of control groups the kernel would end its processes.
async fn spare(group: &str, wanted: i64) -> Result<(), String> {
    let group = group.to_owned();
    let used = tokio::task::spawn_blocking(move || cgroup::working_set(&group)).await;
    match used.map_err(|error| error.to_string())? {
        Some(used) if wanted > 0 && i128::from(used) > i128::from(wanted) => {
            Err(format!("attempting to set pod memory limit ({wanted}) below current usage ({used})"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Changes limits of the pod and of instances: first the pod's upwards, then the instances', then the pod's downwards.
pub(super) async fn resize(
    node: &Node,
    pod: &PodModel,
    instances: &[std::sync::Arc<Instance>],
) -> Result<(), String> {
    let (group, limits) = (pod.cgroup(&node.groups.names().root), resources::of_pod(pod));
    let told = |error: GroupError| error.to_string();
    spare(&node.groups.names().path(&group), limits.memory_limit_in_bytes).await?;
    node.groups.raise(&group, &limits).await.map_err(told)?;
    for instance in instances {
        update(node, pod, instance).await?;
    }
    node.groups.limit(&group, &limits, node.machine.pod_pids).await.map_err(told)?;
    node.tiers.share_out(&node.ledger.taken()).await;
    Ok(())
}
