//! What a node does with pods from their first to their last moment, as upstream's node conformance tests say, in both runtimes.
//!
//! Each topic is a function; those of one cluster run side by side, for most of their time is spent waiting.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "node_lifecycle/conditions.rs"]
mod conditions;
#[path = "node_lifecycle/debugging.rs"]
mod debugging;
#[path = "node_lifecycle/endings.rs"]
mod endings;
#[path = "node_lifecycle/faults.rs"]
mod faults;
#[path = "node_lifecycle/hooks.rs"]
mod hooks;
#[path = "node_lifecycle/init_containers.rs"]
mod init_containers;
#[path = "node_lifecycle/last_words.rs"]
mod last_words;
#[path = "node_lifecycle/restarts.rs"]
mod restarts;
#[path = "node_lifecycle/sidecars.rs"]
mod sidecars;

use keelson_e2e::{Cluster, Engine, Node, Objects, Pod};
use serde_json::Value;

/// Keeps an object whose pod has ended, so that its last status can be read.
const HOLD: &str = "finalizers: [test.keelson.io/hold]";

/// What topics are put to.
struct Subject<'a> {
    engine: Engine,
    cluster: &'a Cluster,
    objects: &'a Objects,
}

impl Subject<'_> {
    fn apply(&self, pods: &[Pod]) {
        let all: String = pods.iter().map(Pod::to_string).collect();
        self.cluster.apply(&all).unwrap();
    }

    /// Asks for the end of a pod, and does not wait for it.
    fn delete(&self, pod: &str) {
        self.cluster.kubectl(&["delete", "pod", pod, "--wait=false"]).unwrap();
    }

    /// Lets a pod go that has [`HOLD`].
    fn release(&self, pod: &str) {
        let none = r#"{"metadata":{"finalizers":null}}"#;
        self.cluster.kubectl(&["patch", "pod", pod, "--type=merge", "-p", none]).unwrap();
        self.objects.until_gone(pod).unwrap();
    }

    /// The pod, as soon as it has this phase.
    fn until_phase(&self, pod: &str, phase: &str) -> Value {
        self.objects.until_is(pod, "/status/phase", phase).unwrap()
    }

    /// The pod, as soon as its first container runs.
    fn until_runs(&self, pod: &str) -> Value {
        let runs = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["running"].is_object();
        self.objects.until(pod, "its container runs", runs).unwrap()
    }

    /// Waits until the log of a container has this in it.
    fn until_says(&self, arguments: &[&str], part: &str) -> String {
        let what = format!("logs {arguments:?} to have {part:?}");
        let said = keelson_e2e::eventually(&what, keelson_e2e::LONG, || {
            let said = self.cluster.kubectl(&[&["logs"], arguments].concat())?;
            anyhow::ensure!(said.contains(part), "{said}");
            Ok(Some(said))
        });
        said.unwrap()
    }
}

/// The condition of a type.
fn condition<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    let mut all = pod["status"]["conditions"].as_array().into_iter().flatten();
    all.find(|one| one["type"] == kind).unwrap_or(&Value::Null)
}

/// The status of a container of any kind.
fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    let all = lists.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    all.into_iter().find(|one| one["name"] == name).unwrap_or(&Value::Null)
}

/// How a container has ended: exit code and reason.
fn end(status: &Value) -> (i64, &str) {
    let ended = &status["terminated"];
    (ended["exitCode"].as_i64().unwrap_or(-1), ended["reason"].as_str().unwrap_or_default())
}

const TOPICS: &[fn(&Subject<'_>)] = &[
    init_containers::they_run_in_order_and_hold_the_others_back,
    sidecars::they_start_before_and_end_after_the_others,
    sidecars::they_are_started_again_and_end_with_a_job,
    debugging::containers_are_added_to_a_pod_and_its_copies,
    restarts::policies_of_pods_and_of_containers_decide_who_begins_again,
    restarts::a_container_that_ends_again_and_again_waits_longer_and_longer,
    hooks::they_run_after_the_start_and_before_the_end,
    hooks::a_failing_one_ends_its_container,
    endings::a_pod_has_its_grace_and_the_codes_of_its_end,
    endings::a_grace_is_shortened_and_a_deadline_ends_a_pod,
    last_words::they_are_a_file_s_or_a_log_s,
    conditions::they_tell_of_a_life,
    conditions::containers_tell_what_they_have_and_how_they_died,
    faults::images_that_are_not_to_be_had_say_why,
    faults::commands_and_references_that_are_wrong_say_why,
];

/// Containers that end again and again wait 10 and 15 seconds.
const SETTINGS: &str = "crashLoopBackOff: {maxContainerRestartPeriod: 15s}\n";

fn all(engine: Engine) {
    let node = Node::up(engine, SETTINGS).unwrap();
    let objects = Objects::of(&node).unwrap();
    let subject = Subject { engine, cluster: &node, objects: &objects };
    std::thread::scope(|scope| {
        for topic in TOPICS {
            scope.spawn(|| topic(&subject));
        }
    });
}

#[test]
fn pods_of_the_embedded_runtime_live_as_upstream_says() {
    all(Engine::Embedded);
}

#[test]
fn pods_of_containerd_live_as_upstream_says() {
    all(Engine::Containerd);
}
