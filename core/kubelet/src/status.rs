//! (pure) The pod's status, from what the runtime holds, what the worker remembers and what it plans.
//!
//! Fields and conditions of others, as readiness gates and the scheduler's, are left as they are.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::memory::End;
use crate::plan::{Plan, Stage, View, fate};
use crate::pod::Kind;

mod condition;
mod container;
mod patch;

pub(crate) use condition::{RENEWING, is_resizing};
pub(crate) use container::has_run;
pub(crate) use patch::patch;

/// The phase of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A container has not started yet.
    Pending,
    /// All containers have started, and one may still run or will run again.
    Running,
    /// All containers have ended well for good.
    Succeeded,
    /// All containers have ended for good, one of them badly.
    Failed,
}

impl Phase {
    /// The API's word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    fn of_api(text: Option<&str>) -> Option<Self> {
        match text {
            Some("Pending") => Some(Self::Pending),
            Some("Running") => Some(Self::Running),
            Some("Succeeded") => Some(Self::Succeeded),
            Some("Failed") => Some(Self::Failed),
            Some(_) | None => None,
        }
    }

    fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// Bytes of the last words of all containers of a pod together.
const WORDS: usize = 12 << 10;

/// A time as the API writes it: in whole seconds.
fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// How the containers fare, as counts.
#[derive(Debug, Default)]
struct Count {
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
}

impl Count {
    fn add(&mut self, status: &ContainerStatus) {
        let state = status.state.clone().unwrap_or_default();
        if state.running.is_some() {
            self.running += 1;
        } else if let Some(ended) = state.terminated {
            self.stopped += 1;
            self.succeeded += usize::from(ended.exit_code == 0);
        } else if status.last_state.as_ref().is_some_and(|last| last.terminated.is_some()) {
            self.stopped += 1;
        } else {
            self.waiting += 1;
        }
    }
}

/// `over`: nothing will run again.
fn phase(view: View<'_>, init: &[ContainerStatus], regular: &[ContainerStatus], over: bool) -> Phase {
    let mut initializing = false;
    for (member, status) in view.pod.init().zip(init) {
        let state = status.state.clone().unwrap_or_default();
        match member.kind {
            Kind::Sidecar => initializing |= status.started != Some(true) && state.terminated.is_none(),
            Kind::Init | Kind::Regular | Kind::Ephemeral => {
                let code = state.terminated.map(|ended| ended.exit_code);
                if code.is_some_and(|code| code != 0 && !view.pod.restarts(member, code)) {
                    return Phase::Failed;
                }
                initializing |= code != Some(0);
            }
        }
    }
    let mut count = Count::default();
    regular.iter().for_each(|status| count.add(status));
    let begun = count.running + count.stopped > 0;
    if (initializing && !begun) || count.waiting > 0 {
        return Phase::Pending;
    }
    if count.running > 0 {
        return Phase::Running;
    }
    if count.stopped == 0 {
        return Phase::Pending;
    }
    // Of a container's own policy and rules as of the pod's.
    if !over && view.pod.of(Kind::Regular).any(|member| !fate(view, member).is_over()) {
        return Phase::Running;
    }
    if count.stopped == count.succeeded { Phase::Succeeded } else { Phase::Failed }
}

/// The status that the API should have.
pub(crate) fn status(view: View<'_>, plan: &Plan, node_ip: IpAddr) -> PodStatus {
    let known = view.pod.status();
    let of = |kinds: &[Kind]| -> Vec<ContainerStatus> {
        let members = view.pod.members.iter().filter(|member| kinds.contains(&member.kind));
        members.map(|member| container::status(view, plan, member)).collect()
    };
    let mut init = of(&[Kind::Init, Kind::Sidecar]);
    let mut regular = of(&[Kind::Regular]);
    let ephemeral = of(&[Kind::Ephemeral]);
    let runs = view.observed.containers.iter().any(|one| one.is_running());
    let over = match plan.stage {
        Stage::Running => false,
        Stage::Complete | Stage::Ending | Stage::Stopped | Stage::Ended => !runs,
    };
    let gone_for_good = matches!(plan.stage, Stage::Stopped | Stage::Ended);
    if gone_for_good {
        container::end_all(view, &mut init, &mut regular);
    }
    let refused = view.memory.refused || crate::admission::refusal(view.pod, None).is_some();
    if view.observed.containers.is_empty() && refused {
        // Refused, it has no containers whose fate could be unknown.
        init.clear();
        regular.clear();
    }
    words(&mut init, &mut regular);
    let before = Phase::of_api(known.phase.as_deref());
    let mut phase = phase(view, &init, &regular, over);
    let evicted = match view.memory.termination.as_ref().map(|one| &one.end) {
        Some(End::Evicted(why)) => Some(why.clone()),
        Some(End::Deleted | End::Gone | End::Completed) | None => view.memory.evicted.clone(),
    };
    if let Some(end) = before.filter(|phase| phase.is_terminal()) {
        phase = end;
    } else if (gone_for_good && !phase.is_terminal()) || (evicted.is_some() && over) {
        phase = Phase::Failed;
    } else if phase.is_terminal() && runs {
        // A sidecar still runs.
        phase = before.unwrap_or(Phase::Running);
    }
    if phase.is_terminal()
        && !before.is_some_and(Phase::is_terminal)
        && view.pod.claims_devices()
        && !view.memory.unprepared
    {
        // Who sees that it is over gives its devices to others, so they are given back before. Volumes may take longer.
        phase = before.unwrap_or(Phase::Pending);
    }
    let failed_for = evicted.filter(|_| phase == Phase::Failed);
    let mut out = PodStatus {
        phase: Some(phase.as_str().to_owned()),
        reason: failed_for.as_ref().map(|why| why.reason.clone()).or_else(|| known.reason.clone()),
        message: failed_for.map(|why| why.message).or_else(|| known.message.clone()),
        start_time: Some(known.start_time.clone().unwrap_or_else(|| time(view.wall))),
        qos_class: Some(view.pod.qos_class().as_str().to_owned()),
        observed_generation: view.pod.pod.metadata.generation,
        host_ip: Some(node_ip.to_string()),
        host_ips: Some(vec![HostIP { ip: node_ip.to_string() }]),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: (!regular.is_empty()).then_some(regular),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        ..PodStatus::default()
    };
    // What a pod has got as a whole is told as what its containers have: when it is in force.
    let whole = known.resources.clone().filter(|_| view.memory.resize_due);
    out.resources = view.pod.resources().cloned().map(|given| whole.unwrap_or(given));
    out.allocated_resources = view.pod.resources().and_then(|given| given.requests.clone());
    let ips = addresses(view, node_ip, gone_for_good);
    out.pod_ip = ips.first().cloned();
    let list: Vec<PodIP> = ips.into_iter().map(|ip| PodIP { ip }).collect();
    out.pod_ips = (!list.is_empty()).then_some(list);
    out.conditions = Some(condition::all(view, &out, phase));
    out
}

/// Shortens the last words of containers, so that those of all together stay within a limit.
fn words(init: &mut [ContainerStatus], regular: &mut [ContainerStatus]) {
    let share = WORDS / (init.len() + regular.len()).max(1);
    for status in init.iter_mut().chain(regular) {
        let states = [status.state.as_mut(), status.last_state.as_mut()].into_iter().flatten();
        for ended in states.filter_map(|state| state.terminated.as_mut()) {
            if let Some(text) = ended.message.as_mut().filter(|text| text.len() > share) {
                let end = (0..=share).rev().find(|end| text.is_char_boundary(*end));
                text.truncate(end.unwrap_or_default());
            }
        }
    }
}

/// The pod's addresses; those of a pod that has ended stay what they were.
fn addresses(view: View<'_>, node_ip: IpAddr, ended: bool) -> Vec<String> {
    let known =
        || -> Vec<String> { view.pod.status().pod_ips.iter().flatten().map(|one| one.ip.clone()).collect() };
    if view.pod.host_network() {
        let up = !view.observed.sandboxes.is_empty();
        return if up { vec![node_ip.to_string()] } else { known() };
    }
    match view.observed.ready_sandbox() {
        Some(sandbox) if !sandbox.ips.is_empty() => sandbox.ips.clone(),
        Some(_) | None if ended || view.memory.termination.is_some() => known(),
        Some(_) | None => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
