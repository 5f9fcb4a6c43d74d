use std::time::Duration;

use serde_json::json;

use super::super::threshold::{Observation, Value};
use super::*;
use crate::disk_usage::{ContainerUsage, VolumeUsage};

fn pod(name: &str, priority: i32, request: &str) -> PodModel {
    let requests = json!({ "memory": request, "ephemeral-storage": request });
    let pod = json!({ "metadata": { "name": name, "namespace": "n", "uid": name }, "spec": { "priority": priority,
        "containers": [{ "name": "a", "resources": { "requests": requests } }] } });
    PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
}

fn uses(mebibytes: u64) -> Measure {
    let usage = Usage { bytes: mebibytes << 20, inodes: mebibytes };
    let container = ContainerUsage { logs: usage, layer: Some(Usage::default()) };
    let disk = PodUsage { containers: [("a".to_owned(), container)].into(), ..PodUsage::default() };
    Measure {
        memory: mebibytes << 20,
        processes: mebibytes,
        containers: [("a".to_owned(), mebibytes << 20)].into(),
        disk: Arc::new(disk),
    }
}

/// Names in the order of their end.
fn order(signal: Signal, pods: &[(&PodModel, Option<u64>)]) -> Vec<String> {
    let mut candidates: Vec<_> =
        pods.iter().map(|(pod, used)| Candidate { pod, measure: used.map(uses) }).collect();
    rank(&mut candidates, signal, false);
    candidates.iter().map(|one| one.pod.name.clone()).collect()
}

#[test]
fn pods_above_their_requests_end_first_then_lower_priorities_then_who_is_furthest_above() {
    let within = pod("within", -10, "100Mi");
    let high = pod("high", 10, "10Mi");
    let little = pod("little", 0, "10Mi");
    let much = pod("much", 0, "10Mi");
    let unknown = pod("unknown", 100, "10Mi");
    let all =
        [(&within, Some(99)), (&high, Some(500)), (&little, Some(11)), (&much, Some(30)), (&unknown, None)];
    for signal in [Signal::Memory, Signal::AllocatableMemory, Signal::Nodefs] {
        assert_eq!(order(signal, &all), ["unknown", "much", "little", "high", "within"], "{signal:?}");
    }
    assert_eq!(order(Signal::Pid, &all), ["within", "much", "little", "high", "unknown"]);
    assert_eq!(order(Signal::NodefsInodes, &all), ["unknown", "within", "much", "little", "high"]);
}

#[test]
fn on_a_disk_of_their_own_images_compete_with_writable_layers_alone() {
    let usage = |bytes| Usage { bytes, inodes: 1 };
    let pod = PodUsage {
        containers: [("a".to_owned(), ContainerUsage { logs: usage(1), layer: Some(usage(10)) })].into(),
        volumes: [("v".to_owned(), VolumeUsage { usage: usage(100), in_memory: false })].into(),
        ..PodUsage::default()
    };
    let bytes = |signal, own| on_disk(&pod, signal, own).bytes;
    assert_eq!((bytes(Signal::Imagefs, true), bytes(Signal::Nodefs, true)), (10, 101));
    assert_eq!((bytes(Signal::Imagefs, false), bytes(Signal::Nodefs, false)), (111, 111));
}

#[test]
fn a_message_says_what_was_short_and_who_used_more_than_it_asked_for() {
    let pod = pod("p", 0, "10Mi");
    let candidate = Candidate { pod: &pod, measure: Some(uses(30)) };
    let value = Value::Amount(Amount::parse("100Mi").unwrap());
    let due = [Threshold { signal: Signal::Memory, value, grace: Duration::ZERO, reclaim: None }];
    let left = Observation { available: 77 << 20, capacity: 1 << 30 };
    let observed = Observations::from([(Signal::Memory, left)]);
    let (text, annotations) = message(&candidate, &due, &observed, Resource::Memory);
    assert_eq!(
        text,
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 77Mi. Container a was using 30Mi, \
         request is 10Mi, has larger consumption of memory. "
    );
    assert_eq!(annotations["offending_containers"], "a");
    assert_eq!(annotations["offending_containers_usage"], "30Mi");
    assert_eq!(annotations["starved_resource"], "memory");
}

#[test]
fn bytes_are_written_with_the_largest_suffix_that_leaves_a_whole_number() {
    let cases = [(0, "0"), (1000, "1k"), (1023, "1023"), (1024, "1Ki"), (1025, "1025"), (3 << 30, "3Gi")];
    for (bytes, text) in cases {
        assert_eq!(bytes_text(bytes), text);
    }
}
