//! How a pod begins anew when a container ends by a rule `RestartAllContainers`: what runs is ended, all instances are
//! removed, and the init containers run again, in the same sandbox and with the same volumes.

use std::time::Duration;

use super::{Action, Killing, Plan, View, retry_reached};
use crate::memory::Task;
use crate::pod::{Kind, Member};
use crate::runtime_view::Instance;
use crate::status::RENEWING;

/// Between the stop signal and the end; hooks do not run.
const GRACE: Duration = Duration::from_secs(2);

/// The newest instances whose end begins the pod anew, with their containers.
fn triggers<'a>(view: View<'a>) -> impl Iterator<Item = (&'a Member, &'a Instance)> {
    view.pod.members.iter().filter_map(move |member| {
        let newest = view.observed.newest(member.name())?;
        let code = newest.exit_code()?;
        view.pod.restarts_all(member, code).then_some((member, &**newest))
    })
}

/// Whether the API knows that the pod is beginning anew.
pub(super) fn is_known(view: View<'_>) -> bool {
    let known = view.pod.status().conditions.iter().flatten();
    known.into_iter().any(|one| one.type_ == RENEWING && one.status == "True")
}

/// Whether the pod is beginning anew, and nothing has started again.
pub(crate) fn is_under_way(view: View<'_>) -> bool {
    triggers(view).next().is_some()
        || (!view.memory.renewed.is_empty() && view.observed.containers.is_empty())
}

/// Whether there is a way to go to the new beginning.
pub(super) fn is_due(view: View<'_>) -> bool {
    triggers(view).next().is_some()
}

/// Plans that way.
pub(super) fn plan(view: View<'_>, plan: &mut Plan) {
    let triggers: Vec<_> = triggers(view).collect();
    if view.memory.busy(&Task::Remove) {
        return;
    }
    let is_debug = |name: &str| view.pod.member(name).is_some_and(|member| member.kind == Kind::Ephemeral);
    let others: Vec<_> = view.observed.containers.iter().filter(|one| !is_debug(&one.name)).collect();
    let mut runs = false;
    for one in others.iter().filter(|one| one.is_running()) {
        runs = true;
        plan.kill(view, &one.name, &one.id, GRACE, Killing::Renewal);
    }
    let waits = triggers.iter().filter_map(|(member, newest)| {
        let memory = view.memory.containers.get(member.name())?;
        let (wait, until) = memory.restarts.waiting(newest.since, view.now)?;
        Some((*member, wait, until))
    });
    let mut is_early = false;
    for (member, wait, until) in waits {
        is_early = true;
        plan.wake_at(until);
        plan.waiting.insert(member.name().to_owned(), super::container::crash_loop(view, member, wait));
    }
    if runs || is_early || !retry_reached(view, plan) {
        return;
    }
    // What tells that the pod begins anew goes last.
    let is_trigger = |id: &str| triggers.iter().any(|(_, newest)| newest.id == id);
    let mut instances: Vec<String> = others.iter().map(|one| one.id.clone()).collect();
    instances.sort_by_key(|id| is_trigger(id));
    let triggers = triggers.iter().map(|(member, _)| member.name().to_owned()).collect();
    plan.add(view, Action::Renew { instances, triggers });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, exited, memory, observed, plan_at, pod, running, start};
    use super::*;
    use crate::runtime_view::fixture;

    #[test]
    fn the_end_of_one_container_begins_the_whole_pod_anew() {
        let rule =
            json!([{ "action": "RestartAllContainers", "exitCodes": { "operator": "In", "values": [42] } }]);
        let pod = pod(json!({ "restartPolicy": "Never", "initContainers": [{ "name": "i" }],
            "containers": [{ "name": "a" }, { "name": "b", "restartPolicy": "Never", "restartPolicyRules": rule }] }));
        let mut memory = memory(&["i", "a", "b"]);
        let of = |a, b| {
            observed(vec![
                fixture("c0", "i", 0, exited(0)),
                fixture("c1", "a", 0, a),
                fixture("c2", "b", 0, b),
            ])
        };
        assert_eq!(plan_at(100, &pod, &of(running(), exited(1)), &memory).actions, []);
        let kill = plan_at(100, &pod, &of(running(), exited(42)), &memory).actions;
        assert!(matches!(kill.as_slice(), [Action::Kill { killing: Killing::Renewal, .. }]), "{kill:?}");
        let renew = plan_at(100, &pod, &of(exited(137), exited(42)), &memory).actions;
        let instances = ["c0", "c1", "c2"].map(str::to_owned).to_vec();
        assert_eq!(renew, [Action::Renew { instances, triggers: vec!["b".to_owned()] }]);
        memory.tasks.insert(Task::Remove);
        assert_eq!(plan_at(100, &pod, &of(exited(137), exited(42)), &memory).actions, []);
        memory.tasks.clear();
        // Again and again it waits as any container does.
        memory.container("b").restarts.advance(at(50), at(51));
        let early = plan_at(61, &pod, &of(exited(137), exited(42)), &memory);
        assert_eq!((early.actions.len(), early.wake), (0, Some(at(70))));
        assert_eq!(plan_at(100, &pod, &observed(vec![]), &memory).actions, [start("i", 0)]);
    }
}
