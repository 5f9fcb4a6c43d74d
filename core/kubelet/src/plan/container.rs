//! Which container starts, waits or is killed next.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Action, Killing, Plan, View, go_duration, retry_reached};
use crate::allocation;
use crate::image::failure;
use crate::memory::{Hook, Image, POST_START_HOOK_ERROR, Task, Why};
use crate::pod::{Kind, Member};
use crate::probe;
use crate::runtime_view::{ContainerState, Instance};

/// A container that could not be made is tried again after this.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

/// The exit code of a container that nobody saw end.
pub(crate) const LOST: i32 = 137;

/// What has become of a container, over all its instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// No instance has ended yet, or none is known.
    Open,
    /// An instance runs.
    Running,
    /// The newest instance has ended, and another one follows.
    Restarting,
    /// The newest instance has ended for good.
    Over {
        /// Its exit code.
        exit_code: i32,
    },
}

impl Fate {
    /// It ended for good.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Over { .. })
    }

    /// It ended for good, and not well.
    pub(crate) fn is_failed_for_good(&self) -> bool {
        matches!(self, Self::Over { exit_code } if *exit_code != 0)
    }
}

/// The fate of a container.
pub(crate) fn fate(view: View<'_>, member: &Member) -> Fate {
    let Some(newest) = view.observed.newest(member.name()) else {
        return known_end(view, member).map_or(Fate::Open, |exit_code| Fate::Over { exit_code });
    };
    match newest.state {
        ContainerState::Running { .. } => Fate::Running,
        ContainerState::Created | ContainerState::Unknown => Fate::Open,
        ContainerState::Exited { exit_code, .. } => {
            if restarts(view, member, newest, exit_code) {
                Fate::Restarting
            } else {
                Fate::Over { exit_code }
            }
        }
    }
}

/// Whether an instance that has ended is followed by another: as the policy says, or since it was ended for a new image.
fn restarts(view: View<'_>, member: &Member, instance: &Instance, exit_code: i32) -> bool {
    let memory = view.memory.containers.get(member.name());
    let redefined = memory.and_then(|memory| memory.redefined.as_ref()) == Some(&instance.id);
    redefined || view.pod.restarts(member, exit_code)
}

/// The exit code of a container that has ended for good, of which only the API still knows. One that ran when it was
/// last seen was lost.
pub(crate) fn known_end(view: View<'_>, member: &Member) -> Option<i32> {
    let statuses = view.pod.status().container_statuses.iter().flatten();
    let known = statuses.into_iter().find(|one| one.name == member.name() && crate::status::has_run(one))?;
    let state = known.state.clone().unwrap_or_default();
    let last = known.last_state.clone().unwrap_or_default();
    let lost = state.running.is_some().then_some(LOST);
    let ended = state.terminated.or(last.terminated).map(|ended| ended.exit_code);
    let code = lost.or(ended)?;
    if view.memory.renewed.contains_key(member.name()) || super::renewal::is_known(view) {
        return None;
    }
    (member.kind == Kind::Regular && !view.pod.restarts(member, code)).then_some(code)
}

/// What one container needs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    /// It runs and is well.
    Runs,
    /// It has ended for good.
    Over,
    /// Something is being done for it.
    Busy,
    /// It waits.
    Wait { why: Why, until: Timestamp },
    /// Its image has to be found.
    Image,
    /// It can start.
    Start { restart_count: u32 },
    /// An instance that was made and never started makes room.
    Discard { instance: String },
    /// An instance has to end.
    Kill { instance: String, killing: Killing },
}

fn next(view: View<'_>, member: &Member, sandbox: &str) -> Next {
    if view.memory.busy(&Task::Start(member.name().to_owned())) {
        return Next::Busy;
    }
    let Some(newest) = view.observed.newest(member.name()) else {
        return match known_end(view, member) {
            Some(_) => Next::Over,
            None => before_start(view, member, known_restarts(view, member)),
        };
    };
    let again = newest.restart_count + 1;
    match newest.state {
        ContainerState::Running { .. } => runs(view, member, newest),
        ContainerState::Unknown => Next::Kill { instance: newest.id.clone(), killing: Killing::Lost },
        // The one who made it was interrupted: another one is made in its place.
        ContainerState::Created => Next::Discard { instance: newest.id.clone() },
        ContainerState::Exited { exit_code, .. } => {
            let init = matches!(member.kind, Kind::Init | Kind::Sidecar);
            if init && newest.sandbox != sandbox {
                return before_start(view, member, again);
            }
            if !restarts(view, member, newest, exit_code) {
                return Next::Over;
            }
            let memory = view.memory.containers.get(member.name());
            let wait = memory.and_then(|memory| memory.restarts.waiting(newest.since, view.now));
            match wait {
                Some((wait, until)) => Next::Wait { why: crash_loop(view, member, wait), until },
                None => before_start(view, member, again),
            }
        }
    }
}

pub(super) fn crash_loop(view: View<'_>, member: &Member, wait: SignedDuration) -> Why {
    let pod = view.pod;
    let message = format!(
        "back-off {} restarting failed container={} pod={}_{}({})",
        go_duration(wait),
        member.name(),
        pod.name,
        pod.namespace,
        pod.uid
    );
    Why::new("CrashLoopBackOff", message)
}

/// When the runtime knows no instance, the API may know of some.
fn known_restarts(view: View<'_>, member: &Member) -> u32 {
    let status = view.pod.status();
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let known = all.into_iter().find(|one| one.name == member.name() && crate::status::has_run(one));
    known.map_or(0, |one| u32::try_from(one.restart_count).unwrap_or(0) + 1)
}

fn runs(view: View<'_>, member: &Member, newest: &Instance) -> Next {
    let kill = |killing: Killing| Next::Kill { instance: newest.id.clone(), killing };
    let is_other = !newest.hash.is_empty() && newest.hash != member.hash;
    // An init container has its work to do, and ends by itself.
    if is_other && matches!(member.kind, Kind::Sidecar | Kind::Regular) {
        return kill(Killing::Definition);
    }
    if allocation::difference(view.pod, member, newest.resources.as_ref()).restarts(&member.container) {
        return kill(Killing::Resize);
    }
    let Some(memory) = view.memory.containers.get(member.name()) else { return Next::Runs };
    match memory.hook.as_ref().filter(|(instance, _)| *instance == newest.id) {
        Some((_, Hook::Failed(_))) => return kill(Killing::Hook),
        Some((_, Hook::Running)) => return Next::Busy,
        Some((_, Hook::Done)) | None => {}
    }
    match memory.probes.failed(&newest.id) {
        Some(kind) => kill(Killing::Probe(kind)),
        None => Next::Runs,
    }
}

fn before_start(view: View<'_>, member: &Member, restart_count: u32) -> Next {
    let Some(memory) = view.memory.containers.get(member.name()) else {
        return if view.memory.busy(&Task::Image(member.name().to_owned())) {
            Next::Busy
        } else {
            Next::Image
        };
    };
    if view.memory.busy(&Task::Image(member.name().to_owned())) {
        return Next::Busy;
    }
    if let Some((why, at)) = &memory.failed {
        let until = at.checked_add(RETRY).unwrap_or(Timestamp::MAX);
        if until > view.now {
            return Next::Wait { why: why.clone(), until };
        }
    }
    match &memory.image {
        Image::Unknown => Next::Image,
        Image::Present { .. } => Next::Start { restart_count },
        Image::Failed { why, at } => match memory.pulls.waiting(*at, view.now) {
            None => Next::Image,
            Some((wait, end)) => image_wait(view, member, why, *at, wait, end),
        },
    }
}

/// At first the fault itself is shown, then that it is waited.
fn image_wait(
    view: View<'_>,
    member: &Member,
    why: &Why,
    at: Timestamp,
    wait: SignedDuration,
    end: Timestamp,
) -> Next {
    let turn = at.checked_add((wait / 2).min(RETRY)).unwrap_or(end);
    if !failure::is_of_pull(&why.reason) {
        return Next::Wait { why: why.clone(), until: end };
    }
    if view.now < turn {
        return Next::Wait { why: why.clone(), until: turn };
    }
    Next::Wait { why: pull_back_off(member, why), until: end }
}

fn pull_back_off(member: &Member, why: &Why) -> Why {
    let image = member.container.image.as_deref().unwrap_or("");
    let message = format!("Back-off pulling image {image:?}: {}: {}", why.reason, why.message);
    Why::new("ImagePullBackOff", message)
}

/// Until a try has come out, what is shown is how the last one did.
fn still_failing(view: View<'_>, plan: &mut Plan, member: &Member) {
    let Some(memory) = view.memory.containers.get(member.name()) else { return };
    let newest = view.observed.newest(member.name()).filter(|one| one.exit_code().is_some());
    let hooked = match &memory.hook {
        Some((instance, Hook::Failed(text))) if newest.is_some_and(|one| one.id == *instance) => Some(text),
        Some(_) | None => None,
    };
    let why = match (&memory.failed, &memory.image) {
        (Some((why, _)), _) => why.clone(),
        (None, Image::Failed { why, .. }) if failure::is_of_pull(&why.reason) => pull_back_off(member, why),
        (None, Image::Failed { why, .. }) => why.clone(),
        (None, Image::Unknown | Image::Present { .. }) => match hooked {
            Some(text) => Why::new(POST_START_HOOK_ERROR, text.as_str()),
            None => return,
        },
    };
    plan.waiting.insert(member.name().to_owned(), why);
}

/// The grace of a kill: the probe's own, or the pod's.
fn grace(view: View<'_>, member: &Member, killing: Killing) -> Duration {
    let own = match killing {
        Killing::Probe(kind) => {
            probe::specification(member, kind).and_then(|probe| probe.termination_grace_period_seconds)
        }
        Killing::PodEnds
        | Killing::Definition
        | Killing::Resize
        | Killing::Hook
        | Killing::Sandbox
        | Killing::Lost
        | Killing::Renewal => None,
    };
    own.map_or_else(|| view.pod.grace(), |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(1)))
}

/// Takes up what one container needs; says whether the ones after it may start.
fn take(
    view: View<'_>,
    plan: &mut Plan,
    member: &Member,
    next: Next,
    sandbox: (&str, &[String]),
    may: bool,
) -> bool {
    let container = member.name().to_owned();
    match next {
        Next::Runs | Next::Over => true,
        Next::Busy => {
            still_failing(view, plan, member);
            false
        }
        Next::Wait { why, until } => {
            plan.wake_at(until);
            plan.waiting.insert(container, why);
            true
        }
        Next::Image => {
            still_failing(view, plan, member);
            plan.add(view, Action::FindImage { container });
            false
        }
        Next::Start { restart_count } => {
            still_failing(view, plan, member);
            let (id, ips) = (sandbox.0.to_owned(), sandbox.1.to_vec());
            if may {
                plan.add(view, Action::Start { container, sandbox: id, restart_count, ips });
            }
            false
        }
        Next::Discard { instance } => {
            if retry_reached(view, plan) {
                plan.add(view, Action::Remove { instances: vec![instance], sandboxes: Vec::new() });
            }
            false
        }
        Next::Kill { instance, killing } => {
            plan.kill(view, &container, &instance, grace(view, member, killing), killing);
            true
        }
    }
}

/// Starts and restarts containers: the init containers one after the other, then the others in their order.
pub(super) fn start(view: View<'_>, plan: &mut Plan, sandbox: &str, ips: &[String]) {
    let here = |member: &Member| view.observed.instances(member.name()).any(|one| one.sandbox == sandbox);
    let initialized = view.pod.of(Kind::Regular).any(here);
    // Who looks for a fault does not wait for what may have it. They run once.
    for member in view.pod.of(Kind::Ephemeral).filter(|member| !here(member)) {
        take(view, plan, member, next(view, member, sandbox), (sandbox, ips), true);
    }
    for member in view.pod.init() {
        if initialized && member.kind == Kind::Init {
            continue;
        }
        let newest = view.observed.newest(member.name()).filter(|one| one.sandbox == sandbox);
        if member.kind == Kind::Init && newest.and_then(|one| one.exit_code()) == Some(0) {
            continue;
        }
        let next = next(view, member, sandbox);
        take(view, plan, member, next.clone(), (sandbox, ips), true);
        let up = match next {
            Next::Runs if member.kind == Kind::Sidecar => {
                let memory = view.memory.containers.get(member.name());
                newest.is_some_and(|one| memory.is_none_or(|memory| memory.probes.started(member, one)))
                    && (memory.is_some() || member.container.startup_probe.is_none())
            }
            Next::Runs | Next::Over | Next::Busy | Next::Wait { .. } => false,
            Next::Image | Next::Start { .. } | Next::Discard { .. } | Next::Kill { .. } => false,
        };
        if !up && !initialized {
            return;
        }
    }
    let mut may = true;
    for member in view.pod.of(Kind::Regular) {
        let next = next(view, member, sandbox);
        may &= take(view, plan, member, next, (sandbox, ips), may);
    }
}
