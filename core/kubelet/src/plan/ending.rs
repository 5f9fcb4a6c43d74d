//! How a pod ends: its containers, then the sidecars in reverse order, then the sandbox, then what it used.

use std::time::Duration;

use jiff::SignedDuration;

use super::{Action, Killing, Plan, Stage, View, retry_reached};
use crate::memory::{End, Task, Termination};
use crate::pod::Kind;

/// A container always has this much between its stop signal and its end.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// An end that is under way is hastened when that saves as much.
const WORTH_ASKING: SignedDuration = SignedDuration::from_secs(1);

pub(super) fn plan(view: View<'_>, termination: &Termination) -> Plan {
    let mut plan = Plan { stage: Stage::Ending, ..Plan::default() };
    // A container or sandbox that is just coming up is waited for: it ends right after.
    let coming = |task: &Task| matches!(task, Task::Start(_) | Task::RunSandbox | Task::Volumes);
    let any_coming = view.memory.tasks.iter().any(coming);
    if kill(view, termination, &mut plan) || any_coming {
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
    plan.stage = Stage::Stopped;
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
    let mut end = |name: &str, id: &str| {
        let before = view.memory.kill_deadlines.get(id);
        let hastened = before.zip(sooner).is_some_and(|(before, sooner)| *before > sooner);
        let action = Action::Kill {
            container: name.to_owned(),
            instance: id.to_owned(),
            grace: remaining,
            killing: Killing::PodEnds,
        };
        // One that was asked to end later is asked again.
        if hastened { plan.actions.push(action) } else { plan.add(view, action) }
    };
    for one in &others {
        end(&one.name, &one.id);
    }
    if others.is_empty() {
        let last = view.pod.of(Kind::Sidecar).rev();
        let mut sidecars = last.filter_map(|member| running.iter().find(|one| one.name == member.name()));
        if let Some(one) = sidecars.next() {
            end(&one.name, &one.id);
        }
    }
    !running.is_empty()
}
