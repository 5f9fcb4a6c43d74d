use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::memory::{End, Image, NetworkFault, Termination};
use crate::runtime_view::{ContainerState, Instance, Sandbox, fixture};

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

pub(super) fn pod(spec: Value) -> PodModel {
    let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" }, "spec": spec });
    PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
}

pub(super) fn running() -> ContainerState {
    ContainerState::Running { started_at: at(50) }
}

pub(super) fn exited(exit_code: i32) -> ContainerState {
    ContainerState::Exited {
        started_at: at(50),
        finished_at: at(60),
        exit_code,
        reason: String::new(),
        message: String::new(),
    }
}

fn sandbox(ready: bool) -> Sandbox {
    Sandbox { id: "s0".into(), attempt: 0, ready, ips: vec!["10.42.0.7".into()], created_at: 0 }
}

pub(super) fn observed(containers: Vec<Instance>) -> Observed {
    let containers = containers.into_iter().map(Arc::new).collect();
    Observed { runtime: "keelson".into(), sandboxes: vec![sandbox(true)], containers }
}

/// A worker whose volumes are there, and whose images are found.
pub(super) fn memory(names: &[&str]) -> Memory {
    let mut memory = Memory { volumes: Step::Done, mounted: true, ..Memory::default() };
    for name in names {
        memory.container(name).image = Image::Present { id: "i".into(), uid: None, username: String::new() };
    }
    memory
}

pub(super) fn plan_at(now: i64, pod: &PodModel, observed: &Observed, memory: &Memory) -> Plan {
    plan(View { pod, observed, memory, now: at(now), wall: at(now) })
}

pub(super) fn start(container: &str, restart_count: u32) -> Action {
    let ips = vec!["10.42.0.7".to_owned()];
    Action::Start { container: container.to_owned(), sandbox: "s0".to_owned(), restart_count, ips }
}

#[test]
fn a_new_pod_gets_volumes_then_a_sandbox_then_images_and_containers() {
    let pod = pod(json!({ "containers": [{ "name": "a" }, { "name": "b" }] }));
    let (mut memory, nothing) = (Memory::default(), Observed::default());
    assert_eq!(plan_at(100, &pod, &nothing, &memory).actions, [Action::SetUpVolumes]);
    (memory.volumes, memory.mounted) = (Step::Done, true);
    assert_eq!(plan_at(100, &pod, &nothing, &memory).actions, [Action::RunSandbox { attempt: 0 }]);
    memory.tasks.insert(Task::RunSandbox);
    assert_eq!(plan_at(100, &pod, &nothing, &memory).actions, []);
    let find = |container: &str| Action::FindImage { container: container.to_owned() };
    let memory = self::memory(&["a"]);
    assert_eq!(plan_at(100, &pod, &observed(vec![]), &memory).actions, [start("a", 0), find("b")]);
}

#[test]
fn init_containers_run_one_after_the_other_and_sidecars_stay() {
    let init = json!([{ "name": "i" }, { "name": "s", "restartPolicy": "Always" }]);
    let pod = pod(json!({ "initContainers": init, "containers": [{ "name": "a" }] }));
    let memory = memory(&["i", "s", "a"]);
    let actions = |containers: Vec<Instance>| plan_at(100, &pod, &observed(containers), &memory).actions;
    let one = |name: &str, state: ContainerState| fixture(name, name, 0, state);
    assert_eq!(actions(vec![]), [start("i", 0)]);
    assert_eq!(actions(vec![one("i", running())]), []);
    assert_eq!(actions(vec![one("i", exited(0))]), [start("s", 0)]);
    assert_eq!(actions(vec![one("i", exited(0)), one("s", running())]), [start("a", 0)]);
    let all = vec![one("i", exited(0)), one("s", exited(0)), one("a", running())];
    assert_eq!(actions(all), [start("s", 1)]);
}

#[test]
fn who_looks_for_a_fault_does_not_wait_for_init_containers_or_images() {
    let debug = json!([{ "name": "d" }]);
    let pod = pod(json!({ "initContainers": [{ "name": "i" }], "containers": [{ "name": "a" }],
        "ephemeralContainers": debug }));
    let mut memory = memory(&["d"]);
    memory.tasks.insert(Task::Image("i".to_owned()));
    assert_eq!(plan_at(100, &pod, &observed(vec![]), &memory).actions, [start("d", 0)]);
    let ran = observed(vec![fixture("c1", "d", 0, exited(0))]);
    assert_eq!(plan_at(100, &pod, &ran, &memory).actions, []);
}

#[test]
fn containers_do_not_wait_for_the_next_content_of_their_volumes() {
    let pod = pod(json!({ "containers": [{ "name": "a" }] }));
    let mut memory = memory(&["a"]);
    memory.volumes = Step::Open;
    let ended = observed(vec![fixture("c1", "a", 1, exited(1))]);
    assert_eq!(plan_at(100, &pod, &ended, &memory).actions, [Action::SetUpVolumes, start("a", 2)]);
    memory.volumes = Step::Failed { retry: at(110), failures: 3 };
    let plan = plan_at(100, &pod, &ended, &memory);
    assert_eq!((plan.actions, plan.wake), (vec![start("a", 2)], Some(at(110))));
}

#[test]
fn a_container_that_is_ended_for_a_new_image_starts_whatever_its_policy() {
    let pod = pod(json!({ "restartPolicy": "Never", "containers": [{ "name": "a" }] }));
    let mut memory = memory(&["a"]);
    let ended = observed(vec![fixture("c1", "a", 0, exited(0))]);
    assert_eq!(plan_at(100, &pod, &ended, &memory).stage, Stage::Complete);
    memory.container("a").redefined = Some("c1".to_owned());
    assert_eq!(plan_at(100, &pod, &ended, &memory).actions, [start("a", 1)]);
}

#[test]
fn a_container_that_ends_again_and_again_waits_before_it_is_started() {
    let pod = pod(json!({ "containers": [{ "name": "a" }] }));
    let mut memory = memory(&["a"]);
    let ended = observed(vec![fixture("c1", "a", 1, exited(1))]);
    assert_eq!(plan_at(61, &pod, &ended, &memory).actions, [start("a", 2)]);
    memory.container("a").restarts.advance(at(40), at(41));
    let plan = plan_at(61, &pod, &ended, &memory);
    assert_eq!((plan.actions.len(), plan.wake), (0, Some(at(70))));
    assert_eq!(plan.waiting["a"].message, "back-off 10s restarting failed container=a pod=p_n(u)");
    assert_eq!(plan_at(70, &pod, &ended, &memory).actions, [start("a", 2)]);
}

#[test]
fn an_instance_that_was_never_started_does_not_count() {
    let pod = pod(json!({ "containers": [{ "name": "a" }] }));
    let mut memory = memory(&["a"]);
    let made = observed(vec![fixture("c1", "a", 0, ContainerState::Created)]);
    let discard = Action::Remove { instances: vec!["c1".to_owned()], sandboxes: Vec::new() };
    assert_eq!(plan_at(100, &pod, &made, &memory).actions, [discard]);
    assert_eq!(plan_at(100, &pod, &observed(vec![]), &memory).actions, [start("a", 0)]);
    memory.tasks.insert(Task::Start("a".to_owned()));
    assert_eq!(plan_at(100, &pod, &made, &memory).actions, []);
}

#[test]
fn of_dead_instances_the_newest_one_is_kept_beside_the_living() {
    let pod = pod(json!({ "containers": [{ "name": "a" }] }));
    let all = vec![
        fixture("c3", "a", 3, running()),
        fixture("c2", "a", 2, exited(1)),
        fixture("c1", "a", 1, exited(1)),
    ];
    let expected = Action::Remove { instances: vec!["c1".to_owned()], sandboxes: Vec::new() };
    assert_eq!(plan_at(100, &pod, &observed(all), &memory(&[])).actions, [expected]);
}

#[test]
fn a_dead_sandbox_is_stopped_and_made_anew_and_what_ran_in_it_counts_on() {
    let pod = pod(json!({ "containers": [{ "name": "a" }] }));
    let mut memory = memory(&["a"]);
    let mut dead = observed(vec![fixture("c1", "a", 0, exited(137))]);
    dead.sandboxes[0].ready = false;
    assert_eq!(plan_at(100, &pod, &dead, &memory).actions, [Action::StopSandbox { id: "s0".into() }]);
    memory.stopped_sandboxes.insert("s0".into());
    assert_eq!(plan_at(100, &pod, &dead, &memory).actions, [Action::RunSandbox { attempt: 1 }]);
}

fn ending(end: End, deadline: i64, grace: u64) -> Memory {
    let termination = Termination { end, deadline: at(deadline), grace: Duration::from_secs(grace) };
    Memory { termination: Some(termination), ..memory(&[]) }
}

#[test]
fn a_pod_ends_with_its_containers_then_its_sidecars_then_its_sandbox() {
    let init = json!([{ "name": "s", "restartPolicy": "Always" }]);
    let pod = pod(json!({ "initContainers": init, "containers": [{ "name": "a" }] }));
    let memory = ending(End::Deleted, 130, 30);
    let actions = |a: ContainerState, s: ContainerState| {
        let all = vec![fixture("c1", "a", 0, a), fixture("c2", "s", 0, s)];
        plan_at(100, &pod, &observed(all), &memory).actions
    };
    let kill = |name: &str, id: &str| Action::Kill {
        container: name.to_owned(),
        instance: id.to_owned(),
        grace: Duration::from_secs(30),
        killing: Killing::PodEnds,
    };
    assert_eq!(actions(running(), running()), [kill("a", "c1")]);
    assert_eq!(actions(exited(0), running()), [kill("s", "c2")]);
    assert_eq!(actions(exited(0), exited(0)), [Action::StopSandbox { id: "s0".into() }]);
}

#[test]
fn hooks_of_sidecars_do_not_wait_for_their_turn_and_nothing_waits_when_the_time_is_over() {
    let hook = json!({ "preStop": { "exec": { "command": ["true"] } } });
    let init = json!([{ "name": "s", "restartPolicy": "Always", "lifecycle": hook },
        { "name": "t", "restartPolicy": "Always" }]);
    let pod = pod(json!({ "initContainers": init, "containers": [{ "name": "a" }] }));
    let mut memory = ending(End::Deleted, 130, 30);
    let of = |name: &str, id: &str, state: ContainerState| fixture(id, name, 0, state);
    let all = |a: ContainerState, t: ContainerState| {
        observed(vec![of("a", "c1", a), of("s", "c2", running()), of("t", "c3", t)])
    };
    let seconds = Duration::from_secs;
    let kill = |name: &str, id: &str, grace: Duration| Action::Kill {
        container: name.to_owned(),
        instance: id.to_owned(),
        grace,
        killing: Killing::PodEnds,
    };
    let hook = Action::PreStop { container: "s".into(), instance: "c2".into(), grace: seconds(30) };
    let plan = plan_at(100, &pod, &all(running(), running()), &memory);
    assert_eq!(plan.actions, [kill("a", "c1", seconds(30)), hook]);
    memory.tasks.insert(Task::PreStop("c2".to_owned()));
    assert_eq!(plan_at(100, &pod, &all(exited(0), exited(0)), &memory).actions, []);
    memory.tasks.clear();
    memory.prepared.insert("c2".to_owned());
    let last = plan_at(110, &pod, &all(exited(0), exited(0)), &memory).actions;
    assert_eq!(last, [kill("s", "c2", seconds(20))]);
    memory.prepared.clear();
    let late = plan_at(130, &pod, &all(running(), running()), &memory).actions;
    let names = [("a", "c1"), ("t", "c3"), ("s", "c2")];
    assert_eq!(late, names.map(|(name, id)| kill(name, id, seconds(2))));
}

#[test]
fn an_end_under_way_is_hastened_once() {
    let pod = pod(json!({ "containers": [{ "name": "a" }] }));
    let all = observed(vec![fixture("c1", "a", 0, running())]);
    let mut memory = ending(End::Deleted, 101, 1);
    memory.tasks.insert(Task::Kill("c1".to_owned()));
    memory.kill_deadlines.insert("c1".to_owned(), at(130));
    assert_eq!(plan_at(100, &pod, &all, &memory).actions.len(), 1);
    memory.kill_deadlines.insert("c1".to_owned(), at(102));
    assert_eq!(plan_at(100, &pod, &all, &memory).actions, []);
    assert_eq!(plan_at(110, &pod, &all, &memory).actions, []);
}

#[test]
fn what_cannot_be_killed_is_tried_at_its_pace_and_goes_with_the_sandbox_at_last() {
    let pod = pod(json!({ "containers": [{ "name": "a" }] }));
    let all = observed(vec![fixture("c1", "a", 0, running())]);
    let mut memory = ending(End::Deleted, 130, 30);
    memory.kill_deadlines.insert("c1".to_owned(), at(130));
    let failed = |count: u32| crate::memory::FailedKills { count, retry: at(105) };
    memory.failed_kills.insert("c1".to_owned(), failed(1));
    let plan = plan_at(101, &pod, &all, &memory);
    assert_eq!((plan.actions.as_slice(), plan.wake), (&[][..], Some(at(105))));
    assert!(matches!(plan_at(105, &pod, &all, &memory).actions.as_slice(), [Action::Kill { .. }]));
    let stop = Action::StopSandbox { id: "s0".into() };
    memory.failed_kills.insert("c1".to_owned(), failed(3));
    assert_eq!(plan_at(101, &pod, &all, &memory).actions, std::slice::from_ref(&stop));
    // A kill that hangs is waited for no longer than its time and a margin.
    memory.failed_kills.clear();
    memory.tasks.insert(Task::Kill("c1".to_owned()));
    let plan = plan_at(140, &pod, &all, &memory);
    assert_eq!((plan.actions.as_slice(), plan.wake), (&[][..], Some(at(175))));
    assert_eq!(plan_at(175, &pod, &all, &memory).actions, [stop]);
    // Nothing is cleaned up under a container that still runs.
    memory.stopped_sandboxes.insert("s0".into());
    let mut dead = all.clone();
    dead.sandboxes[0].ready = false;
    assert_eq!(plan_at(180, &pod, &dead, &memory).stage, Stage::Ending);
}

#[test]
fn a_deleted_pod_leaves_the_runtime_after_its_last_status_is_written() {
    let pod = pod(json!({ "containers": [{ "name": "a" }] }));
    let mut over = observed(vec![fixture("c1", "a", 0, exited(0))]);
    over.sandboxes[0].ready = false;
    let mut memory = ending(End::Deleted, 130, 30);
    memory.stopped_sandboxes.insert("s0".into());
    let plan = plan_at(100, &pod, &over, &memory);
    assert_eq!((plan.stage, plan.actions), (Stage::Stopped, vec![Action::CleanUp]));
    memory.cleaned = true;
    assert_eq!(plan_at(100, &pod, &over, &memory).actions, []);
    memory.last_status_written = true;
    let remove = Action::Remove { instances: vec!["c1".into()], sandboxes: vec!["s0".into()] };
    assert_eq!(plan_at(100, &pod, &over, &memory).actions, [remove]);
}

#[test]
fn a_container_that_outlives_its_sandbox_ends_as_others_do() {
    let pod = pod(json!({ "terminationGracePeriodSeconds": 40, "containers": [{ "name": "a" }] }));
    let mut all = observed(vec![fixture("c1", "a", 0, running())]);
    all.sandboxes = vec![sandbox(false)];
    let (container, instance) = ("a".to_owned(), "c1".to_owned());
    let grace = Duration::from_secs(40);
    let kill = Action::Kill { container, instance, grace, killing: Killing::Sandbox };
    assert_eq!(plan_at(100, &pod, &all, &memory(&["a"])).actions, [kill]);
}

#[test]
fn an_image_that_has_gone_since_it_was_found_is_looked_for_again() {
    let pod = pod(json!({ "containers": [{ "name": "a" }] }));
    let mut memory = memory(&["a"]);
    memory.container("a").start_failed(Why::new("CreateContainerError", "no such image"), at(100));
    let plan = plan_at(101, &pod, &observed(vec![]), &memory);
    assert_eq!((plan.actions, &plan.waiting["a"].message[..]), (vec![], "no such image"));
    let find = Action::FindImage { container: "a".to_owned() };
    assert_eq!(plan_at(110, &pod, &observed(vec![]), &memory).actions, [find]);
}

#[test]
fn a_container_whose_hook_failed_says_so_until_the_next_one_is_there_or_has_to_wait() {
    let pod = pod(json!({ "containers": [{ "name": "a" }] }));
    let mut memory = memory(&["a"]);
    memory.container("a").hook = Some(("c1".to_owned(), crate::memory::Hook::Failed("no".to_owned())));
    let ended = |id: &str| observed(vec![fixture(id, "a", 0, exited(137))]);
    let waits = |memory: &Memory, id: &str| plan_at(90, &pod, &ended(id), memory).waiting["a"].clone();
    assert_eq!(waits(&memory, "c1"), Why::new("PostStartHookError", "no"));
    assert_eq!(waits(&memory, "c2").reason, "ContainerCreating", "that was another one");
    for second in 57..60 {
        memory.container("a").restarts.advance(at(second), at(second));
    }
    assert_eq!(waits(&memory, "c1").reason, "CrashLoopBackOff");
}

fn without_network(memory: Memory) -> Memory {
    let fault = NetworkFault { text: "no bridge".to_owned(), tell_again: at(400) };
    Memory { network_fault: Some(fault), ..memory }
}

#[test]
fn nothing_is_made_for_a_pod_that_gets_no_network_yet() {
    let pod = pod(json!({ "containers": [{ "name": "a" }] }));
    let plan = plan_at(100, &pod, &Observed::default(), &without_network(Memory::default()));
    assert_eq!((plan.actions, plan.waiting["a"].reason.as_str()), (vec![], "ContainerCreating"));
    assert_eq!(plan.wake, Some(at(400)));
}

#[test]
fn of_a_pod_whose_network_is_gone_nothing_is_started_or_killed_but_it_ends() {
    let pod = pod(json!({ "restartPolicy": "OnFailure", "containers": [{ "name": "a" }, { "name": "b" }] }));
    let mut memory = memory(&["a", "b"]);
    let of = |a, b| observed(vec![fixture("c1", "a", 0, a), fixture("c2", "b", 0, b)]);
    memory.container("b").hook = Some(("c2".to_owned(), crate::memory::Hook::Failed("no".to_owned())));
    let there = plan_at(100, &pod, &of(exited(1), running()), &memory).actions;
    assert!(matches!(there.as_slice(), [Action::Start { .. }, Action::Kill { .. }]), "{there:?}");
    memory = without_network(memory);
    assert_eq!(plan_at(100, &pod, &of(exited(1), running()), &memory).actions, []);
    // Volumes that are there get their next content.
    memory.volumes = Step::Open;
    assert_eq!(plan_at(100, &pod, &of(exited(1), running()), &memory).actions, [Action::SetUpVolumes]);
    assert_eq!(plan_at(100, &pod, &of(exited(0), exited(0)), &memory).stage, Stage::Complete);
    // Nor does it begin anew as a whole.
    let rule =
        json!([{ "action": "RestartAllContainers", "exitCodes": { "operator": "In", "values": [42] } }]);
    let other = self::pod(json!({ "restartPolicy": "Never", "containers": [{ "name": "a" },
        { "name": "b", "restartPolicy": "Never", "restartPolicyRules": rule }] }));
    memory.volumes = Step::Done;
    let anew = plan_at(100, &other, &of(exited(0), exited(42)), &memory);
    assert_eq!((anew.actions, anew.stage), (vec![], Stage::Running));
}
