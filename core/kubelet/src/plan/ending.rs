//! How a pod ends: its containers, then the sidecars in reverse order, then the sandbox, then its devices, then what else it used.

use std::time::Duration;

use jiff::SignedDuration;

use super::{Action, Killing, Plan, Stage, View, retry_reached};
use crate::memory::{End, Task, Termination};
use crate::pod::Kind;

/// A container always has this much between its stop signal and its end.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// An instance whose kill failed this often is left to the sandbox's end.
const KILL_TRIES: u32 = 3;
/// So is one that still runs this long after its time; a runtime waits half a minute for a killed process itself.
const KILL_MARGIN: SignedDuration = SignedDuration::from_secs(45);
/// An end that is under way is hastened when that saves as much.
const WORTH_ASKING: SignedDuration = SignedDuration::from_secs(1);

pub(super) fn plan(view: View<'_>, termination: &Termination) -> Plan {
    let mut plan = Plan { stage: Stage::Ending, ..Plan::default() };
    // A container or sandbox that is just coming up is waited for: it ends right after.
    let coming = |task: &Task| matches!(task, Task::Start(_) | Task::RunSandbox | Task::Volumes);
    let any_coming = view.memory.tasks.iter().any(coming);
    let running = kill(view, termination, &mut plan);
    if any_coming || (running && !given_up(view, &mut plan)) {
        return plan;
    }
    let ready: Vec<&str> =
        view.observed.sandboxes.iter().filter(|one| one.ready).map(|one| one.id.as_str()).collect();
    let unstopped =
        view.observed.sandboxes.iter().filter(|one| !view.memory.stopped_sandboxes.contains(&one.id));
    let unstopped: Vec<&str> = unstopped.map(|one| one.id.as_str()).collect();
    if !unstopped.is_empty() || !ready.is_empty() {
        if retry_reached(view, &mut plan) {
            for id in unstopped {
                plan.add(view, Action::StopSandbox { id: id.to_owned() });
            }
        }
        return plan;
    }
    if running {
        // Nothing more can be done than to try again.
        return plan;
    }
    plan.stage = Stage::Stopped;
    if view.pod.claims_devices() && !view.memory.unprepared {
        if retry_reached(view, &mut plan) {
            plan.add(view, Action::Unprepare);
        }
        return plan;
    }
    if !view.memory.cleaned {
        if retry_reached(view, &mut plan) {
            plan.add(view, Action::CleanUp);
        }
        return plan;
    }
    plan.stage = Stage::Ended;
    match termination.end {
        End::Deleted | End::Gone => remove_all(view, &mut plan),
        // Their logs are read until the object goes.
        End::Completed | End::Evicted(_) => {}
    }
    plan
}

/// Once the last status is with the API, nothing of the pod stays in the runtime.
fn remove_all(view: View<'_>, plan: &mut Plan) {
    let gone = view.memory.termination.as_ref().is_some_and(|one| one.end == End::Gone);
    let nothing = view.observed.sandboxes.is_empty() && view.observed.containers.is_empty();
    if nothing || !(gone || view.memory.last_status_written) || !retry_reached(view, plan) {
        return;
    }
    let instances = view.observed.containers.iter().map(|one| one.id.clone()).collect();
    let sandboxes = view.observed.sandboxes.iter().map(|one| one.id.clone()).collect();
    plan.add(view, Action::Remove { instances, sandboxes });
}

/// Whether none of what still runs can be killed by itself: the sandbox's end may take it along.
fn given_up(view: View<'_>, plan: &mut Plan) -> bool {
    let mut all = true;
    for one in view.observed.containers.iter().filter(|one| one.is_running()) {
        let failures = view.memory.failed_kills.get(&one.id).map_or(0, |failed| failed.count);
        let deadline = view.memory.kill_deadlines.get(&one.id);
        let limit = deadline.and_then(|deadline| deadline.checked_add(KILL_MARGIN).ok());
        if failures < KILL_TRIES && limit.is_none_or(|limit| limit > view.now) {
            all = false;
            limit.into_iter().for_each(|limit| plan.wake_at(limit));
        }
    }
    all
}

/// Kills what runs; says whether anything does.
fn kill(view: View<'_>, termination: &Termination, plan: &mut Plan) -> bool {
    let running: Vec<_> = view.observed.containers.iter().filter(|one| one.is_running()).collect();
    let is_sidecar = |name: &str| view.pod.member(name).is_some_and(|member| member.kind == Kind::Sidecar);
    let others: Vec<_> = running.iter().filter(|one| !is_sidecar(&one.name)).collect();
    let remaining = termination.deadline.duration_since(view.now);
    let remaining = Duration::try_from(remaining)
        .unwrap_or_default()
        .max(LEAST_GRACE)
        .min(termination.grace.max(LEAST_GRACE));
    let sooner = SignedDuration::try_from(remaining).ok().and_then(|remaining| {
        let end = view.now.checked_add(remaining).ok()?;
        end.checked_add(WORTH_ASKING).ok()
    });
    let end = |plan: &mut Plan, name: &str, id: &str| {
        let before = view.memory.kill_deadlines.get(id);
        let hastened = before.zip(sooner).is_some_and(|(before, sooner)| *before > sooner);
        let action = Action::Kill {
            container: name.to_owned(),
            instance: id.to_owned(),
            grace: remaining,
            killing: Killing::PodEnds,
        };
        // One that was asked to end later is asked again.
        if hastened && view.memory.busy(&action.task()) {
            plan.actions.push(action);
        } else {
            plan.kill(view, name, id, remaining, Killing::PodEnds);
        }
    };
    for one in &others {
        end(plan, &one.name, &one.id);
    }
    // The last one that started is the first one whose turn it is; their hooks do not wait for it.
    let is_overdue = termination.deadline <= view.now;
    let mut has_turn = others.is_empty();
    for member in view.pod.of(Kind::Sidecar).rev() {
        let Some(one) = running.iter().find(|one| one.name == member.name()) else { continue };
        let has_hook = member.container.lifecycle.as_ref().is_some_and(|all| all.pre_stop.is_some());
        let prepares = has_hook && !view.memory.prepared.contains(&one.id);
        if is_overdue || (has_turn && !prepares) {
            end(plan, &one.name, &one.id);
        } else if prepares {
            let (container, instance) = (one.name.clone(), one.id.clone());
            plan.add(view, Action::PreStop { container, instance, grace: remaining });
        }
        has_turn = false;
    }
    if !running.is_empty() && !is_overdue {
        plan.wake_at(termination.deadline);
    }
    !running.is_empty()
}
