use super::*;
use crate::memory::{Memory, Termination, Why};
use crate::pod::PodModel;
use crate::runtime_view::{ContainerState, Instance, Observed, Sandbox, fixture};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn pod(spec: Value) -> PodModel {
    let pod =
        json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u", "generation": 2 }, "spec": spec });
    PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
}

fn running() -> ContainerState {
    ContainerState::Running { started_at: at(50) }
}

fn exited(exit_code: i32) -> ContainerState {
    let reason = if exit_code == 0 { "Completed" } else { "Error" };
    ContainerState::Exited {
        started_at: at(50),
        finished_at: at(60),
        exit_code,
        reason: reason.to_owned(),
        message: String::new(),
    }
}

fn observed(containers: Vec<Instance>) -> Observed {
    let sandbox =
        Sandbox { id: "s0".into(), attempt: 0, ready: true, ips: vec!["10.42.0.7".into()], created_at: 0 };
    let containers = containers.into_iter().map(Arc::new).collect();
    Observed { runtime: "keelson".into(), sandboxes: vec![sandbox], containers }
}

fn status_of(pod: &PodModel, observed: &Observed, memory: &Memory) -> Value {
    let view = View { pod, observed, memory, now: at(99), wall: at(99) };
    let plan = crate::plan::plan(view);
    serde_json::to_value(status(view, &plan, "192.0.2.1".parse().unwrap())).unwrap()
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let all = status["conditions"].as_array().unwrap();
    all.iter().find(|one| one["type"] == kind).unwrap()
}

#[test]
fn a_pod_whose_container_runs_is_running_and_ready_with_its_address() {
    let pod = pod(json!({ "containers": [{ "name": "a", "image": "img" }] }));
    let memory = Memory { volumes: crate::memory::Step::Done, mounted: true, ..Memory::default() };
    let got = status_of(&pod, &observed(vec![fixture("c1", "a", 0, running())]), &memory);
    assert_eq!((got["phase"].as_str(), got["podIP"].as_str()), (Some("Running"), Some("10.42.0.7")));
    assert_eq!(got["hostIP"], "192.0.2.1");
    assert_eq!(condition(&got, "Ready")["status"], "True");
    assert_eq!(condition(&got, "PodReadyToStartContainers")["status"], "True");
    assert_eq!(condition(&got, "Ready")["observedGeneration"], 2);
    let container = &got["containerStatuses"][0];
    assert_eq!(container["containerID"], "keelson://c1");
    assert_eq!(container["state"]["running"]["startedAt"], "1970-01-01T00:00:50Z");
}

#[test]
fn a_container_that_waits_to_be_restarted_says_why_and_how_it_ended() {
    let pod = pod(json!({ "containers": [{ "name": "a", "image": "img" }] }));
    let mut memory = Memory { volumes: crate::memory::Step::Done, mounted: true, ..Memory::default() };
    memory.container("a").restarts.advance(at(55), at(58));
    memory.container("a").restarts.advance(at(58), at(59));
    memory.container("a").restarts.advance(at(59), at(60));
    memory.container("a").last_words.insert("c1".into(), "no disk".into());
    let got = status_of(&pod, &observed(vec![fixture("c1", "a", 3, exited(1))]), &memory);
    let container = &got["containerStatuses"][0];
    assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff", "{got:#}");
    let message = "back-off 40s restarting failed container=a pod=p_n(u)";
    assert_eq!(container["state"]["waiting"]["message"], message);
    assert_eq!(container["lastState"]["terminated"]["message"], "no disk");
    assert_eq!((container["restartCount"].as_i64(), got["phase"].as_str()), (Some(3), Some("Running")));
    let ready = condition(&got, "Ready");
    assert_eq!(ready["reason"], "ContainersNotReady");
    assert_eq!(ready["message"], "containers with unready status: [a]");
}

#[test]
fn a_pod_that_never_restarts_has_failed_when_one_container_has() {
    let pod = pod(json!({ "restartPolicy": "Never", "containers": [{ "name": "a" }, { "name": "b" }] }));
    let all = |b: ContainerState| observed(vec![fixture("c1", "a", 0, exited(0)), fixture("c2", "b", 0, b)]);
    let got = |b: ContainerState| status_of(&pod, &all(b), &Memory::default());
    assert_eq!(got(running())["phase"], "Running");
    assert_eq!(got(exited(0))["phase"], "Succeeded");
    assert_eq!(condition(&got(exited(0)), "Ready")["reason"], "PodCompleted");
    assert_eq!(got(exited(3))["phase"], "Failed");
}

#[test]
fn a_pod_runs_on_while_one_of_its_containers_restarts_by_a_policy_of_its_own() {
    let rules = json!([{ "action": "Restart", "exitCodes": { "operator": "In", "values": [42] } }]);
    let container = json!({ "name": "a", "restartPolicy": "Never", "restartPolicyRules": rules });
    let ruled = pod(json!({ "restartPolicy": "Never", "containers": [container] }));
    let phase = |pod: &PodModel, code: i32| {
        let ended = observed(vec![fixture("c1", "a", 0, exited(code))]);
        status_of(pod, &ended, &Memory::default())["phase"].take()
    };
    assert_eq!((phase(&ruled, 42), phase(&ruled, 1)), (json!("Running"), json!("Failed")));
    let own = |own: &str, pods: &str| {
        pod(json!({ "restartPolicy": pods, "containers": [{ "name": "a", "restartPolicy": own }] }))
    };
    assert_eq!(phase(&own("Always", "OnFailure"), 0), "Running");
    assert_eq!(phase(&own("OnFailure", "Never"), 1), "Running");
    assert_eq!(phase(&own("OnFailure", "Always"), 0), "Succeeded");
    assert_eq!(phase(&own("Never", "Always"), 1), "Failed");
}

#[test]
fn containers_wait_for_init_containers() {
    let pod = pod(json!({ "initContainers": [{ "name": "i" }], "containers": [{ "name": "a" }] }));
    let memory = Memory { volumes: crate::memory::Step::Done, mounted: true, ..Memory::default() };
    let got = status_of(&pod, &observed(vec![fixture("c1", "i", 0, running())]), &memory);
    assert_eq!(got["phase"], "Pending");
    assert_eq!(got["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    let initialized = condition(&got, "Initialized");
    assert_eq!(initialized["message"], "containers with incomplete status: [i]");
}

#[test]
fn a_pod_that_ran_too_long_has_failed_for_that_reason() {
    let pod = pod(json!({ "containers": [{ "name": "a" }] }));
    let end = crate::memory::End::Evicted(Why::new("DeadlineExceeded", "too long"));
    let termination = Termination { end, deadline: at(130), grace: Duration::from_secs(30) };
    let memory = Memory { termination: Some(termination), ..Memory::default() };
    let got = status_of(&pod, &observed(vec![fixture("c1", "a", 0, running())]), &memory);
    assert_eq!((got["phase"].as_str(), got.get("reason")), (Some("Running"), None));
    let got = status_of(&pod, &observed(vec![fixture("c1", "a", 0, exited(137))]), &memory);
    assert_eq!((got["phase"].as_str(), got["reason"].as_str()), (Some("Failed"), Some("DeadlineExceeded")));
}

#[test]
fn a_container_that_is_nowhere_any_more_keeps_its_count_and_says_that_it_is_lost() {
    let known = |statuses: &Value| {
        let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" },
            "spec": { "containers": [{ "name": "a" }] }, "status": { "containerStatuses": statuses } });
        PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    };
    let mut statuses = json!([{ "name": "a", "image": "i", "imageID": "", "containerID": "keelson://x",
        "ready": true, "restartCount": 2, "state": { "running": {} } }]);
    // What was written is read again before the container starts.
    for _ in 0..2 {
        let pod = known(&statuses);
        statuses = status_of(&pod, &observed(Vec::new()), &Memory::default())["containerStatuses"].take();
        assert_eq!(statuses[0]["lastState"]["terminated"]["reason"], "ContainerStatusUnknown");
        assert_eq!(statuses[0]["restartCount"], 2);
    }
    assert!(has_run(&known(&statuses).status().container_statuses.as_ref().unwrap()[0]));
}

#[test]
fn a_container_that_never_restarts_stays_ended_when_the_runtime_forgot_it() {
    let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" },
        "spec": { "restartPolicy": "Never", "containers": [{ "name": "a" }, { "name": "b" }] },
        "status": { "containerStatuses": [
            { "name": "a", "image": "i", "imageID": "", "containerID": "keelson://x", "ready": false, "restartCount": 0,
              "state": { "terminated": { "exitCode": 0, "reason": "Completed" } } },
            { "name": "b", "image": "i", "imageID": "", "containerID": "keelson://y", "ready": true, "restartCount": 0,
              "state": { "running": {} } }] } });
    let pod = PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
    let got = status_of(&pod, &observed(Vec::new()), &Memory::default());
    assert_eq!(got["phase"], "Failed");
    assert_eq!(got["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert_eq!(got["containerStatuses"][1]["state"]["terminated"]["reason"], "ContainerStatusUnknown");
}

#[test]
fn a_pod_is_over_once_its_devices_were_given_back_however_long_its_volumes_take() {
    let claims = json!([{ "name": "gpu", "resourceClaimName": "c" }]);
    let pod =
        pod(json!({ "restartPolicy": "Never", "resourceClaims": claims, "containers": [{ "name": "a" }] }));
    let mut ended = observed(vec![fixture("c1", "a", 0, exited(0))]);
    ended.sandboxes.clear();
    let termination =
        Termination { end: crate::memory::End::Completed, deadline: at(130), grace: Duration::from_secs(30) };
    let mut memory = Memory { termination: Some(termination), ..Memory::default() };
    let plan = |memory: &Memory| {
        crate::plan::plan(View { pod: &pod, observed: &ended, memory, now: at(99), wall: at(99) })
    };
    assert_eq!(plan(&memory).actions, [crate::plan::Action::Unprepare]);
    assert_eq!(status_of(&pod, &ended, &memory)["phase"], "Pending");
    memory.unprepared = true;
    assert_eq!(plan(&memory).actions, [crate::plan::Action::CleanUp]);
    assert_eq!(status_of(&pod, &ended, &memory)["phase"], "Succeeded");
}
