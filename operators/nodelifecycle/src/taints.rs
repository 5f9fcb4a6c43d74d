//! The taints that a node's conditions give it (pure).

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::time::api_time;

use crate::node::{NodeView, Readiness};

/// The node says that it does not work.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The node is silent.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// No further pods come, until the node works.
pub const NO_SCHEDULE: &str = "NoSchedule";
/// Pods go.
pub const NO_EXECUTE: &str = "NoExecute";
/// The node has been shut down for good, somebody says: its pods cannot run there any more.
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that keep pods away while they are true.
const BY_CONDITION: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// The taints that keep further pods away.
pub fn no_schedule(node: &NodeView) -> Vec<&'static str> {
    let mut keys = Vec::new();
    match node.readiness() {
        Readiness::Ready => {}
        Readiness::NotReady => keys.push(NOT_READY),
        Readiness::Unknown => keys.push(UNREACHABLE),
    }
    let is_true = |type_: &str| node.condition(type_).is_some_and(|condition| condition.status == "True");
    keys.extend(BY_CONDITION.iter().filter(|(type_, _)| is_true(type_)).map(|(_, key)| *key));
    if node.unschedulable {
        keys.push(UNSCHEDULABLE);
    }
    keys
}

/// The taint that takes pods away.
pub fn no_execute(node: &NodeView) -> Option<&'static str> {
    match node.readiness() {
        Readiness::Ready => None,
        Readiness::NotReady => Some(NOT_READY),
        Readiness::Unknown => Some(UNREACHABLE),
    }
}

/// Whether a taint takes pods away because its node does not work.
pub fn is_our_no_execute(taint: &Taint) -> bool {
    taint.effect == NO_EXECUTE && (taint.key == NOT_READY || taint.key == UNREACHABLE)
}

/// The taints of a node with ours as they are to be; those of others stay.
pub fn replace(
    node: &NodeView,
    no_schedule: &[&'static str],
    no_execute: Option<&'static str>,
    now: Timestamp,
) -> Vec<Taint> {
    let wanted = |taint: &Taint| match taint.effect.as_str() {
        NO_SCHEDULE if is_our_no_schedule(&taint.key) => no_schedule.contains(&taint.key.as_str()),
        NO_EXECUTE if is_our_no_execute(taint) => no_execute == Some(&taint.key),
        _other => true,
    };
    let mut taints: Vec<Taint> = node.taints.iter().filter(|taint| wanted(taint)).cloned().collect();
    let ours = no_schedule.iter().map(|key| (*key, NO_SCHEDULE));
    for (key, effect) in ours.chain(no_execute.map(|key| (key, NO_EXECUTE))) {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(api_time(now)),
                value: None,
            });
        }
    }
    taints
}

fn is_our_no_schedule(key: &str) -> bool {
    [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key)
        || BY_CONDITION.iter().any(|(_, ours)| *ours == key)
}
