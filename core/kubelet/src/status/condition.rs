//! The pod's conditions.

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};

use super::{Phase, time};
use crate::allocation::difference;
use crate::plan::View;
use crate::pod::Kind;
use crate::runtime_view::Instance;

/// The conditions that are the kubelet's, in the order in which they are listed.
const OWN: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Those that go when they do not hold any more.
pub(super) const RESIZE: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];
/// Of pods with a rule that begins all of it anew: whether that is under way.
pub(crate) const RENEWING: &str = "AllContainersRestarting";

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

fn renewing(view: View<'_>, phase: Phase) -> Verdict {
    match phase {
        Phase::Succeeded => Verdict::no("PodCompleted", String::new()),
        Phase::Failed => Verdict::no("PodFailed", String::new()),
        Phase::Pending | Phase::Running if crate::plan::is_under_way(view) => Verdict {
            holds: true,
            reason: Some("RestartAllContainersStarted"),
            message: Some("container exited with restart policy rule".to_owned()),
        },
        Phase::Pending | Phase::Running => Verdict::plain(false),
    }
}

fn sandbox_ready(view: View<'_>) -> bool {
    let sandbox = view.observed.ready_sandbox();
    sandbox.is_some_and(|sandbox| view.pod.host_network() || !sandbox.ips.is_empty())
}

/// A condition that is there or is not: its type, reason and message.
type Sometimes = Option<(&'static str, String, String)>;

fn disruption(view: View<'_>) -> Sometimes {
    let message = view.memory.disruption.clone()?;
    Some(("DisruptionTarget", "TerminationByKubelet".to_owned(), message))
}

fn resize_pending(view: View<'_>) -> Sometimes {
    let why = view.memory.resize_pending.clone().filter(|_| view.memory.termination.is_none())?;
    Some((RESIZE[0], why.reason, why.message))
}

/// Whether what the pod has been given is not yet in force.
pub(crate) fn is_resizing(view: View<'_>) -> bool {
    let differs = |one: &std::sync::Arc<Instance>| {
        let member = view.pod.member(&one.name).filter(|_| one.is_running());
        member.is_some_and(|member| difference(view.pod, member, one.resources.as_ref()).any())
    };
    let runs = view.memory.termination.is_none();
    runs && (view.memory.resize_due || view.observed.containers.iter().any(differs))
}

fn resize_in_progress(view: View<'_>) -> Sometimes {
    let (reason, message) = match &view.memory.resize_failed {
        Some((text, _)) => ("Error".to_owned(), text.clone()),
        None => (String::new(), String::new()),
    };
    is_resizing(view).then_some((RESIZE[1], reason, message))
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
            RENEWING => renewing(view, phase),
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
            last_transition_time: Some(since.unwrap_or_else(|| time(view.wall))),
            last_probe_time: None,
            observed_generation: generation,
        }
    };
    let renewing = view.pod.may_restart_all().then_some(RENEWING);
    let mut all: Vec<PodCondition> = OWN.into_iter().chain(renewing).map(condition).collect();
    let more = [disruption(view), resize_pending(view), resize_in_progress(view)];
    for (kind, reason, message) in more.into_iter().flatten() {
        let before = known.iter().find(|one| one.type_ == kind && one.status == "True");
        let since = before.and_then(|one| one.last_transition_time.clone());
        all.push(PodCondition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            reason: (!reason.is_empty()).then_some(reason),
            message: (!message.is_empty()).then_some(message),
            last_transition_time: Some(since.unwrap_or_else(|| time(view.wall))),
            last_probe_time: None,
            observed_generation: generation,
        });
    }
    all
}
