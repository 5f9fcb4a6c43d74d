//! The pod's conditions.

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};

use super::{Phase, time};
use crate::plan::View;
use crate::pod::Kind;

/// The conditions that are the kubelet's, in the order in which they are listed.
const OWN: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// What a condition says.
struct Verdict {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn plain(holds: bool) -> Self {
        Self { holds, reason: None, message: None }
    }

    fn no(reason: &'static str, message: String) -> Self {
        Self { holds: false, reason: Some(reason), message: Some(message).filter(|text| !text.is_empty()) }
    }
}

fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn initialized(view: View<'_>, status: &PodStatus, phase: Phase) -> Verdict {
    if phase == Phase::Succeeded {
        return Verdict { holds: true, reason: Some("PodCompleted"), message: None };
    }
    let begun = |one: &ContainerStatus| {
        let state = one.state.clone().unwrap_or_default();
        let last = one.last_state.clone().unwrap_or_default();
        one.container_id.is_some()
            && (state.running.is_some() || state.terminated.is_some() || last.terminated.is_some())
    };
    if status.container_statuses.iter().flatten().any(begun) {
        return Verdict::plain(true);
    }
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    let done = |kind: Kind, one: &ContainerStatus| match kind {
        Kind::Sidecar => one.started == Some(true),
        Kind::Init | Kind::Regular | Kind::Ephemeral => one.ready,
    };
    let incomplete = view.pod.init().zip(init).filter(|(member, one)| !done(member.kind, one));
    let incomplete: Vec<&str> = incomplete.map(|(member, _)| member.name()).collect();
    if incomplete.is_empty() {
        return Verdict::plain(true);
    }
    let message = format!("containers with incomplete status: {}", list(&incomplete));
    Verdict::no("ContainersNotInitialized", message)
}

fn containers_ready(view: View<'_>, status: &PodStatus, phase: Phase) -> Verdict {
    match phase {
        Phase::Succeeded => return Verdict::no("PodCompleted", String::new()),
        Phase::Failed => return Verdict::no("PodFailed", String::new()),
        Phase::Pending | Phase::Running => {}
    }
    let init = status.init_container_statuses.iter().flatten();
    let sidecars = view.pod.init().zip(init).filter(|(member, _)| member.kind == Kind::Sidecar);
    let all = sidecars.map(|(_, one)| one).chain(status.container_statuses.iter().flatten());
    let unready: Vec<&str> = all.filter(|one| !one.ready).map(|one| one.name.as_str()).collect();
    if unready.is_empty() {
        return Verdict::plain(true);
    }
    Verdict::no("ContainersNotReady", format!("containers with unready status: {}", list(&unready)))
}

fn ready(view: View<'_>, status: &PodStatus, phase: Phase) -> Verdict {
    let containers = containers_ready(view, status, phase);
    if !containers.holds {
        return containers;
    }
    let known = view.pod.status().conditions.as_deref().unwrap_or_default();
    let mut faults = Vec::new();
    for gate in view.pod.spec().readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match known.iter().find(|one| one.type_ == *kind) {
            None => {
                faults.push(format!("corresponding condition of pod readiness gate {kind:?} does not exist."))
            }
            Some(one) if one.status != "True" => faults.push(format!(
                "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                one.status
            )),
            Some(_) => {}
        }
    }
    if faults.is_empty() {
        Verdict::plain(true)
    } else {
        Verdict::no("ReadinessGatesNotReady", faults.join(", "))
    }
}

fn sandbox_ready(view: View<'_>) -> bool {
    let sandbox = view.observed.ready_sandbox();
    sandbox.is_some_and(|sandbox| view.pod.host_network() || !sandbox.ips.is_empty())
}

/// The kubelet's conditions, whose transition times stay while they say the same.
pub(super) fn all(view: View<'_>, status: &PodStatus, phase: Phase) -> Vec<PodCondition> {
    let known = view.pod.status().conditions.as_deref().unwrap_or_default();
    let generation = view.pod.pod.metadata.generation;
    let condition = |kind: &str| {
        let verdict = match kind {
            "PodReadyToStartContainers" => Verdict::plain(sandbox_ready(view)),
            "Initialized" => initialized(view, status, phase),
            "Ready" => ready(view, status, phase),
            "ContainersReady" => containers_ready(view, status, phase),
            _ => Verdict::plain(true),
        };
        let says = if verdict.holds { "True" } else { "False" };
        let before = known.iter().find(|one| one.type_ == kind && one.status == says);
        let since = before.and_then(|one| one.last_transition_time.clone());
        PodCondition {
            type_: kind.to_owned(),
            status: says.to_owned(),
            reason: verdict.reason.map(str::to_owned),
            message: verdict.message,
            last_transition_time: Some(since.unwrap_or_else(|| time(view.now))),
            last_probe_time: None,
            observed_generation: generation,
        }
    };
    OWN.iter().map(|kind| condition(kind)).collect()
}
