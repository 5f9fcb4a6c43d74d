//! What has to be written of a node (pure).

use std::time::Duration;

use k8s_openapi::api::core::v1::{NodeCondition, Taint};
use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::condition::UNKNOWN;
use keelson_operator_kit::time::api_time;

use crate::node::{NodeView, READY, Readiness};
use crate::taints;
use crate::zones::Reach;

/// How long a node may be silent.
pub const GRACE: Duration = Duration::from_secs(40);
/// How long a new node may be silent.
pub const STARTUP_GRACE: Duration = Duration::from_secs(60);

/// What nodes say of themselves, and nobody knows when they are silent.
const REPORTED: [&str; 4] = [READY, "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What has to be written of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// It is silent: these conditions are unknown.
    Silent(Vec<NodeCondition>),
    /// These are its taints; with `takes_pods`, the zone's next turn is needed first.
    Taints {
        /// All taints, also those of others.
        taints: Vec<Taint>,
        /// The same without the one that newly takes pods away; `None` where none does.
        until_turn: Option<Vec<Taint>>,
    },
}

/// Decides what is to be written of a node that has been silent for some time, and when to look again.
pub fn decide(node: &NodeView, silence: Duration, reach: Reach, now: Timestamp) -> (Plan, Option<Duration>) {
    let grace = if node.condition(READY).is_some() { GRACE } else { STARTUP_GRACE };
    let unknown = unknown(node, now);
    if silence >= grace && !unknown.is_empty() {
        return (Plan::Silent(unknown), None);
    }
    let next = (silence < grace).then(|| grace - silence);
    let no_schedule = taints::no_schedule(node);
    let has_ours = node.taints.iter().any(taints::is_our_no_execute);
    let wanted = taints::no_execute(node);
    let no_execute = match reach {
        Reach::Node => wanted,
        // Where pods go already, they go on; no others follow.
        Reach::Zone => wanted.filter(|_| has_ours),
        Reach::Everything => None,
    };
    let taints = taints::replace(node, &no_schedule, no_execute, now);
    let is_new = no_execute.is_some() && !has_ours;
    let until_turn = is_new.then(|| taints::replace(node, &no_schedule, None, now));
    (Plan::Taints { taints, until_turn }, next)
}

/// The conditions that have to become unknown.
fn unknown(node: &NodeView, now: Timestamp) -> Vec<NodeCondition> {
    let silent = |type_: &&str| match node.condition(type_) {
        None => Some(NodeCondition {
            type_: (*type_).to_owned(),
            status: UNKNOWN.to_owned(),
            reason: Some("NodeStatusNeverUpdated".to_owned()),
            message: Some("Kubelet never posted node status.".to_owned()),
            last_heartbeat_time: Some(api_time(node.created)),
            last_transition_time: Some(api_time(now)),
        }),
        Some(condition) if condition.status == UNKNOWN => None,
        Some(condition) => Some(NodeCondition {
            type_: (*type_).to_owned(),
            status: UNKNOWN.to_owned(),
            reason: Some("NodeStatusUnknown".to_owned()),
            message: Some("Kubelet stopped posting node status.".to_owned()),
            last_heartbeat_time: condition.last_heartbeat_time.clone(),
            last_transition_time: Some(api_time(now)),
        }),
    };
    REPORTED.iter().filter_map(silent).collect()
}

/// Whether the pods of a node are to be called not ready: when it falls silent, or says that it does not work.
pub fn loses_pods(old: Option<&NodeView>, new: &NodeView) -> bool {
    match new.readiness() {
        Readiness::Ready => false,
        Readiness::Unknown => true,
        Readiness::NotReady => old.is_some_and(|old| old.readiness() == Readiness::Ready),
    }
}

#[cfg(test)]
mod tests;
