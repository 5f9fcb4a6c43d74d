//! (pure) What a worker does next: from the pod, the observation and the memory to actions, reasons and a time.
//!
//! A plan holds only what is not under way already, so that a worker may plan as often as it likes.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::allocation;
use crate::memory::{Memory, Step, Task, Why};
use crate::pod::{Kind, PodModel};
use crate::probe::ProbeKind;
use crate::runtime_view::{ContainerState, Observed};

mod container;
mod ending;
mod renewal;

pub(crate) use container::{Fate, LOST, fate, known_end};
pub(crate) use renewal::is_under_way;

/// What a plan is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    /// The pod as the API has it.
    pub(crate) pod: &'a PodModel,
    /// The pod as the runtime has it.
    pub(crate) observed: &'a Observed,
    /// What the worker remembers.
    pub(crate) memory: &'a Memory,
    /// The node's own time, which times in the memory and of instances are by.
    pub(crate) now: Timestamp,
    /// The wall clock's, for what others read.
    pub(crate) wall: Timestamp,
}

/// Why an instance is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Killing {
    /// The pod ends.
    PodEnds,
    /// The container's image is another now.
    Definition,
    /// A probe failed.
    Probe(ProbeKind),
    /// It takes other resources only by beginning anew.
    Resize,
    /// The hook after its start failed.
    Hook,
    /// Its sandbox is not the pod's any more.
    Sandbox,
    /// The runtime has lost sight of it.
    Lost,
    /// Another container's end begins the whole pod anew.
    Renewal,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make the volumes' content.
    SetUpVolumes,
    /// Make a sandbox.
    RunSandbox {
        /// How many the pod had before.
        attempt: u32,
    },
    /// Stop a sandbox.
    StopSandbox {
        /// Its identifier.
        id: String,
    },
    /// Look for the image of a container, pull it if its policy says so.
    FindImage {
        /// Name of the container.
        container: String,
    },
    /// Make and start an instance of a container.
    Start {
        /// Name of the container.
        container: String,
        /// The sandbox that it joins.
        sandbox: String,
        /// How many instances came before.
        restart_count: u32,
        /// The pod's addresses.
        ips: Vec<String>,
    },
    /// End an instance.
    Kill {
        /// Name of the container.
        container: String,
        /// Its identifier.
        instance: String,
        /// Between the stop signal and the end, hook included.
        grace: Duration,
        /// Why.
        killing: Killing,
    },
    /// Remove all instances, since one's end begins the pod anew.
    Renew {
        /// Identifiers of instances; those whose end it was come last.
        instances: Vec<String>,
        /// The containers whose end it was.
        triggers: Vec<String>,
    },
    /// Run the hook before the end of an instance whose turn to end has not come.
    PreStop {
        /// Name of the container.
        container: String,
        /// Its identifier.
        instance: String,
        /// How long it may take.
        grace: Duration,
    },
    /// Remove what is over.
    Remove {
        /// Identifiers of instances.
        instances: Vec<String>,
        /// Identifiers of sandboxes.
        sandboxes: Vec<String>,
    },
    /// Change the limits of the pod and of instances.
    Resize {
        /// Identifiers of the instances.
        instances: Vec<String>,
    },
    /// Give the devices of claims back.
    Unprepare,
    /// Take away volumes, folders and control group.
    CleanUp,
}

impl Action {
    /// The task by which the worker knows that the action is under way.
    pub(crate) fn task(&self) -> Task {
        match self {
            Self::SetUpVolumes => Task::Volumes,
            Self::RunSandbox { .. } => Task::RunSandbox,
            Self::StopSandbox { id } => Task::StopSandbox(id.clone()),
            Self::FindImage { container } => Task::Image(container.clone()),
            Self::Start { container, .. } => Task::Start(container.clone()),
            Self::Kill { instance, .. } => Task::Kill(instance.clone()),
            Self::PreStop { instance, .. } => Task::PreStop(instance.clone()),
            Self::Remove { .. } | Self::Renew { .. } => Task::Remove,
            Self::Resize { .. } => Task::Resize,
            Self::Unprepare => Task::Unprepare,
            Self::CleanUp => Task::CleanUp,
        }
    }
}

/// How far the pod is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is to run.
    #[default]
    Running,
    /// Everything that can end has ended for good: the worker begins the pod's end.
    Complete,
    /// It is being ended.
    Ending,
    /// Nothing of it runs any more.
    Stopped,
    /// Nothing runs, and what it used is given back.
    Ended,
}

/// What to do now, and what is waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In the order in which they are begun.
    pub(crate) actions: Vec<Action>,
    /// Why containers that do not run do not run.
    pub(crate) waiting: BTreeMap<String, Why>,
    /// When to plan again, if nothing happens before.
    pub(crate) wake: Option<Timestamp>,
    /// How far the pod is.
    pub(crate) stage: Stage,
}

impl Plan {
    /// Plan again at `time`, or before.
    fn wake_at(&mut self, time: Timestamp) {
        self.wake = Some(self.wake.map_or(time, |wake| wake.min(time)));
    }

    /// Ends an instance, unless that is under way, or has failed just now.
    fn kill(&mut self, view: View<'_>, container: &str, instance: &str, grace: Duration, killing: Killing) {
        if let Some(failed) = view.memory.failed_kills.get(instance).filter(|failed| failed.retry > view.now)
        {
            self.wake_at(failed.retry);
            return;
        }
        let (container, instance) = (container.to_owned(), instance.to_owned());
        self.add(view, Action::Kill { container, instance, grace, killing });
    }

    /// Adds an action that is not under way.
    fn add(&mut self, view: View<'_>, action: Action) {
        if !view.memory.busy(&action.task()) {
            self.actions.push(action);
        }
    }
}

/// Dead instances and sandboxes that nobody asks for any more: of each container the newest dead one stays, for its
/// log and its last state.
fn garbage(view: View<'_>) -> Option<Action> {
    let observed = view.observed;
    let mut kept: Vec<&str> = Vec::new();
    let mut instances = Vec::new();
    for one in observed.containers.iter().filter(|one| !one.is_running()) {
        // Made just now, or to be discarded: no end to be kept.
        if one.state == ContainerState::Created {
            continue;
        }
        if kept.contains(&one.name.as_str()) {
            instances.push(one.id.clone());
        } else {
            kept.push(&one.name);
        }
    }
    let empty =
        |id: &str| observed.containers.iter().all(|one| one.sandbox != id || instances.contains(&one.id));
    let old = observed.sandboxes.iter().skip(1).filter(|sandbox| !sandbox.ready && empty(&sandbox.id));
    let sandboxes: Vec<String> = old.map(|sandbox| sandbox.id.clone()).collect();
    let nothing = instances.is_empty() && sandboxes.is_empty();
    (!nothing).then_some(Action::Remove { instances, sandboxes })
}

/// The plan for a pod.
pub(crate) fn plan(view: View<'_>) -> Plan {
    match &view.memory.termination {
        Some(termination) => ending::plan(view, termination),
        None => running(view),
    }
}

/// A sandbox without an address is of no use, but on the node's network.
fn usable(view: View<'_>) -> Option<(&str, &[String])> {
    let sandbox = view.observed.ready_sandbox()?;
    let reachable = view.pod.host_network() || !sandbox.ips.is_empty();
    reachable.then_some((sandbox.id.as_str(), sandbox.ips.as_slice()))
}

/// While there is no network for a pod that needs one, nothing of it starts, is started again or is ended for another to start. The
/// worker learns when there is one.
fn waits_for_network(view: View<'_>, plan: &mut Plan) -> bool {
    let Some(fault) = &view.memory.network_fault else { return false };
    plan.wake_at(fault.tell_again);
    true
}

fn running(view: View<'_>) -> Plan {
    let mut plan = Plan::default();
    if renewal::is_due(view) {
        if !waits_for_network(view, &mut plan) {
            renewal::plan(view, &mut plan);
        }
        return plan;
    }
    let fates: Vec<Fate> = view.pod.of(Kind::Regular).map(|member| fate(view, member)).collect();
    let init_failed = view.pod.of(Kind::Init).any(|member| fate(view, member).is_failed_for_good());
    if init_failed || (!fates.is_empty() && fates.iter().all(Fate::is_over)) {
        plan.stage = Stage::Complete;
        return plan;
    }
    if let Some(action) = garbage(view).filter(|_| retry_reached(view, &mut plan)) {
        plan.add(view, action);
    }
    let idle = if view.pod.init().next().is_some() { "PodInitializing" } else { "ContainerCreating" };
    for member in &view.pod.members {
        let reason = if matches!(member.kind, Kind::Regular) { idle } else { "PodInitializing" };
        plan.waiting.insert(member.name().to_owned(), Why::new(reason, ""));
    }
    let waits = waits_for_network(view, &mut plan);
    // Nothing is made for it before it can run.
    if !waits || view.memory.mounted {
        match &view.memory.volumes {
            Step::Done => {}
            Step::Failed { retry, .. } if *retry > view.now => plan.wake_at(*retry),
            Step::Open | Step::Failed { .. } => plan.add(view, Action::SetUpVolumes),
        }
    }
    if waits {
        return plan;
    }
    // Once they are there, containers do not wait for their next content.
    if !view.memory.mounted {
        return plan;
    }
    if stale_sandboxes(view, &mut plan) {
        return plan;
    }
    match usable(view) {
        Some((sandbox, ips)) => {
            container::start(view, &mut plan, sandbox, ips);
            resize(view, &mut plan);
        }
        None => new_sandbox(view, &mut plan),
    }
    plan
}

/// Instances for which other limits are in force than they have been given, and that take those as they run.
fn resize(view: View<'_>, plan: &mut Plan) {
    let differs = |one: &&std::sync::Arc<crate::runtime_view::Instance>| {
        let Some(member) = view.pod.member(&one.name).filter(|_| one.is_running()) else { return false };
        let found = allocation::difference(view.pod, member, one.resources.as_ref());
        found.any() && !found.restarts(&member.container)
    };
    let instances: Vec<String> =
        view.observed.containers.iter().filter(differs).map(|one| one.id.clone()).collect();
    if instances.is_empty() && !view.memory.resize_due {
        return;
    }
    match &view.memory.resize_failed {
        Some((_, retry)) if *retry > view.now => plan.wake_at(*retry),
        Some(_) | None => plan.add(view, Action::Resize { instances }),
    }
}

/// Whether a stop or removal that failed may be tried again.
fn retry_reached(view: View<'_>, plan: &mut Plan) -> bool {
    match view.memory.retry {
        Some(retry) if retry > view.now => {
            plan.wake_at(retry);
            false
        }
        Some(_) | None => true,
    }
}

/// Stops sandboxes that are not the pod's any more, and what runs in them.
fn stale_sandboxes(view: View<'_>, plan: &mut Plan) -> bool {
    let usable = usable(view).map(|(id, _)| id);
    let stale: Vec<&str> = view
        .observed
        .sandboxes
        .iter()
        .filter(|sandbox| sandbox.ready && Some(sandbox.id.as_str()) != usable)
        .map(|sandbox| sandbox.id.as_str())
        .collect();
    let outlived = view
        .observed
        .containers
        .iter()
        .filter(|one| one.is_running() && Some(one.sandbox.as_str()) != usable);
    let mut any = false;
    for one in outlived {
        any = true;
        plan.kill(view, &one.name, &one.id, view.pod.grace(), Killing::Sandbox);
    }
    if !any && view.memory.busy(&Task::RunSandbox) {
        // One that is just coming up has no address yet.
        return true;
    }
    if !any && !stale.is_empty() && retry_reached(view, plan) {
        for id in &stale {
            plan.add(view, Action::StopSandbox { id: (*id).to_owned() });
        }
    }
    any || !stale.is_empty()
}

fn new_sandbox(view: View<'_>, plan: &mut Plan) {
    if let Step::Failed { retry, .. } = &view.memory.sandbox
        && *retry > view.now
    {
        plan.wake_at(*retry);
        return;
    }
    // What a dead sandbox still holds, as its address, is given back first; StopPodSandbox may be repeated.
    if let Some(dead) = view.observed.sandboxes.first()
        && !view.memory.stopped_sandboxes.contains(&dead.id)
    {
        if retry_reached(view, plan) {
            plan.add(view, Action::StopSandbox { id: dead.id.clone() });
        }
        return;
    }
    let attempt = view.observed.sandboxes.iter().map(|sandbox| sandbox.attempt + 1).max().unwrap_or(0);
    plan.add(view, Action::RunSandbox { attempt });
}

/// A duration in Go's words.
pub(crate) fn go_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds % 3600 / 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests;
