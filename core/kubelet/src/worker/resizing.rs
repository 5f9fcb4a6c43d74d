//! Giving a pod that runs more or less of CPU and memory.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PodStatus, ResourceRequirements};
use keelson_cri::v1;
use serde::Serialize;

use super::{Node, Worker};
use crate::allocation;
use crate::cgroup;
use crate::cgroup::groups::GroupError;
use crate::event::EventType;
use crate::memory::Why;
use crate::pod::{Kind, PodModel};
use crate::resources;
use crate::runtime_view::Instance;

/// Whether there is room now is looked at again after this.
const RETRY: SignedDuration = SignedDuration::from_secs(5);

/// What an event says of a resize: what each container is to have, for which generation of the pod, and what is wrong.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<&'a ResourceRequirements>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Share<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Share<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct Share<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}

/// (pure) The message of an event about a resize, in upstream's form: words, and a summary as JSON. What a pod as a whole is to
/// have is told too.
fn told(what: &str, pod: &PodModel, generation: i64, error: &str) -> String {
    let shares = |kinds: &[Kind]| -> Vec<Share<'_>> {
        let members = pod.members.iter().filter(|member| kinds.contains(&member.kind));
        let share = |member: &crate::pod::Member| member.container.resources.clone().unwrap_or_default();
        members.map(|member| Share { name: &member.container.name, resources: share(member) }).collect()
    };
    let summary = Summary {
        resources: pod.resources(),
        init_containers: shares(&[Kind::Init, Kind::Sidecar]),
        containers: shares(&[Kind::Regular]),
        generation,
        error,
    };
    match serde_json::to_string(&summary) {
        Ok(summary) => format!("Pod resize {what}: {summary}"),
        Err(_) => format!("Pod resize {what}"),
    }
}

/// (pure) The generation of a resize that was under way when a kubelet last told of it.
pub(super) fn under_way(status: &PodStatus) -> Option<i64> {
    let mut conditions = status.conditions.iter().flatten();
    let found = conditions.find(|one| one.type_ == "PodResizeInProgress" && one.status == "True")?;
    Some(found.observed_generation.unwrap_or_default())
}

impl Worker {
    fn tell_resize(&self, kind: EventType, reason: String, message: String) {
        self.node.recorder.tell(&self.pod, None, kind, reason, message);
    }

    /// Notes why the pod is not given what it asks for, and tells it if it is news.
    fn put_off(&mut self, candidate: &PodModel, why: Why) {
        if self.memory.resize_pending.as_ref() != Some(&why) {
            let generation = candidate.pod.metadata.generation.unwrap_or_default();
            let message = told(&why.reason, candidate, generation, &why.message);
            self.tell_resize(EventType::Warning, format!("Resize{}", why.reason), message);
        }
        self.memory.resize_pending = Some(why);
    }

    /// Tells that what the pod was given is not in force.
    pub(super) fn tell_resize_error(&self, error: &str) {
        let generation = self.memory.resizing.or(self.pod.pod.metadata.generation).unwrap_or_default();
        let message = told("error", &self.pod, generation, error);
        self.tell_resize(EventType::Warning, "ResizeError".to_owned(), message);
    }

    /// Tells of a resize that is over.
    pub(super) fn end_resize(&mut self, now: Timestamp) {
        if self.stale || self.memory.resizing.is_none() || crate::status::is_resizing(self.view(now)) {
            return;
        }
        let Some(generation) = self.memory.resizing.take() else { return };
        if self.memory.termination.is_none() {
            let message = told("completed", &self.pod, generation, "");
            self.tell_resize(EventType::Normal, "ResizeCompleted".to_owned(), message);
        }
    }

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
            self.put_off(&candidate, Why::new("Infeasible", message));
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
                let generation = self.pod.pod.metadata.generation.unwrap_or_default();
                self.memory.resizing = Some(generation);
                let message = told("started", &self.pod, generation, "");
                self.tell_resize(EventType::Normal, "ResizeStarted".to_owned(), message);
                None
            }
            Err(why) => {
                let deferred = why.reason == "Deferred";
                self.put_off(&candidate, why);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn events_say_what_containers_are_to_have_and_what_is_wrong() {
        let limits = json!({ "limits": { "cpu": "1", "memory": "64Mi" }, "requests": { "cpu": "100m" } });
        let document = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u", "generation": 7 },
            "spec": { "initContainers": [{ "name": "first" }], "containers": [{ "name": "a", "resources": limits }] } });
        let pod = PodModel::new(Arc::new(from_value(document.clone()).unwrap())).unwrap();
        let shares = r#""initContainers":[{"name":"first","resources":{}}],"containers":[{"name":"a","resources":{"limits":{"cpu":"1","memory":"64Mi"},"requests":{"cpu":"100m"}}}],"generation":7"#;
        assert_eq!(told("started", &pod, 7, ""), format!("Pod resize started: {{{shares}}}"));
        let error = told("Deferred", &pod, 7, "no \"room\"");
        assert_eq!(error, format!(r#"Pod resize Deferred: {{{shares},"error":"no \"room\""}}"#));
        let mut whole = document;
        whole["spec"]["resources"] = json!({ "limits": { "cpu": "2" } });
        let whole = PodModel::new(Arc::new(from_value(whole).unwrap())).unwrap();
        assert!(told("started", &whole, 7, "").contains(r#"{"resources":{"limits":{"cpu":"2"}},"#));
    }

    #[test]
    fn a_resize_goes_on_after_a_restart() {
        let status = |says: &str| {
            let condition = json!({ "type": "PodResizeInProgress", "status": says, "observedGeneration": 3 });
            from_value::<PodStatus>(json!({ "conditions": [condition] })).unwrap()
        };
        assert_eq!((under_way(&status("True")), under_way(&status("False"))), (Some(3), None));
        assert_eq!(under_way(&PodStatus::default()), None);
    }
}
