use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::memory::{End, Image, Termination};
use crate::runtime_view::{ContainerState, Instance, Sandbox, fixture};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn pod(spec: Value) -> PodModel {
    let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" }, "spec": spec });
    PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
}

fn running() -> ContainerState {
    ContainerState::Running { started_at: at(50) }
}

fn exited(exit_code: i32) -> ContainerState {
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

fn observed(containers: Vec<Instance>) -> Observed {
    Observed { sandboxes: vec![sandbox(true)], containers: containers.into_iter().map(Arc::new).collect() }
}

/// A worker whose volumes are there, and whose images are found.
fn memory(names: &[&str]) -> Memory {
    let mut memory = Memory { volumes: Step::Done, ..Memory::default() };
    for name in names {
        memory.container(name).image = Image::Present { id: "i".into(), uid: None, username: String::new() };
    }
    memory
}

fn plan_at(now: i64, pod: &PodModel, observed: &Observed, memory: &Memory) -> Plan {
    plan(View { pod, observed, memory, now: at(now) })
}

fn start(container: &str, restart_count: u32) -> Action {
    let ips = vec!["10.42.0.7".to_owned()];
    Action::Start { container: container.to_owned(), sandbox: "s0".to_owned(), restart_count, ips }
}

#[test]
fn a_new_pod_gets_volumes_then_a_sandbox_then_images_and_containers() {
    let pod = pod(json!({ "containers": [{ "name": "a" }, { "name": "b" }] }));
    let (mut memory, nothing) = (Memory::default(), Observed::default());
    assert_eq!(plan_at(100, &pod, &nothing, &memory).actions, [Action::SetUpVolumes]);
    memory.volumes = Step::Done;
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
