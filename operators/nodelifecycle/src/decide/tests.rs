use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::ObjectKey;
use pretty_assertions::assert_eq;
use serde_json::{from_value, json};

use super::{GRACE, Plan, decide, loses_pods};
use crate::node::NodeView;
use crate::zones::{Reach, reach};

fn node(ready: &str, taints: &[(&str, &str)]) -> NodeView {
    let taints: Vec<_> = taints.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
    let conditions = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"].map(|type_| {
        let status = if type_ == "Ready" || ready == "Unknown" { ready } else { "False" };
        json!({"type": type_, "status": status, "reason": "KubeletReady"})
    });
    let node: Node = from_value(json!({
        "metadata": {"name": "n", "uid": "n", "resourceVersion": "1"},
        "spec": {"taints": taints},
        "status": {"conditions": conditions},
    }))
    .unwrap();
    NodeView::read(node).unwrap()
}

fn at(node: &NodeView, silence: Duration, reach: Reach) -> (Plan, Option<Duration>) {
    decide(node, silence, reach, Timestamp::UNIX_EPOCH)
}

fn keys(taints: &[Taint]) -> Vec<(&str, &str)> {
    taints.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect()
}

fn taints(node: &NodeView, reach: Reach) -> (Vec<Taint>, Option<Vec<Taint>>) {
    match at(node, Duration::ZERO, reach).0 {
        Plan::Taints { taints, until_turn } => (taints, until_turn),
        plan @ Plan::Silent(_) => panic!("{plan:?}"),
    }
}

const SILENT: [(&str, &str); 2] =
    [("node.kubernetes.io/unreachable", "NoSchedule"), ("node.kubernetes.io/unreachable", "NoExecute")];

#[test]
fn nothing_is_known_of_a_node_that_is_silent_for_forty_seconds() {
    let node = node("True", &[]);
    let (plan, next) = at(&node, GRACE - Duration::from_secs(1), Reach::Node);
    assert_eq!(plan, Plan::Taints { taints: Vec::new(), until_turn: None });
    assert_eq!(next, Some(Duration::from_secs(1)));
    let Plan::Silent(conditions) = at(&node, GRACE, Reach::Node).0 else { panic!("not silent") };
    assert_eq!(conditions.len(), 4);
    assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
    assert_eq!(conditions[0].message.as_deref(), Some("Kubelet stopped posting node status."));
}

#[test]
fn a_silent_node_is_tainted_once_and_its_pods_go_when_it_is_its_turn() {
    let silent = node("Unknown", &[("mine", "NoSchedule")]);
    let (all, until_turn) = taints(&silent, Reach::Node);
    assert_eq!(keys(&all)[1..], SILENT);
    assert_eq!(keys(&until_turn.unwrap()), [("mine", "NoSchedule"), SILENT[0]]);
    let tainted = node("Unknown", &SILENT);
    assert_eq!(taints(&tainted, Reach::Node), (tainted.taints.clone(), None));
}

#[test]
fn a_node_that_works_again_loses_its_taints_but_not_those_of_others() {
    let back = node("True", &[SILENT[0], ("mine", "NoExecute"), SILENT[1]]);
    assert_eq!(keys(&taints(&back, Reach::Node).0), [("mine", "NoExecute")]);
}

#[test]
fn where_everything_fails_no_pod_has_to_go() {
    let tainted = node("Unknown", &SILENT);
    assert_eq!(keys(&taints(&tainted, Reach::Everything).0), SILENT[..1]);
    assert_eq!(keys(&taints(&node("Unknown", &[]), Reach::Zone).0), SILENT[..1]);
    assert_eq!(keys(&taints(&tainted, Reach::Zone).0), SILENT);
}

#[test]
fn a_failure_reaches_as_far_as_most_of_the_zone() {
    let nodes = |states: &[&str]| -> Vec<_> {
        let all = states.iter().enumerate();
        all.map(|(at, ready)| (ObjectKey::cluster(&at.to_string()), Arc::new(node(ready, &[])))).collect()
    };
    assert_eq!(reach(&nodes(&["Unknown"]), ":"), Reach::Everything);
    assert_eq!(reach(&nodes(&["True", "Unknown"]), ":"), Reach::Node);
    assert_eq!(reach(&nodes(&["True", "True", "Unknown", "Unknown", "Unknown"]), ":"), Reach::Zone);
    assert_eq!(reach(&nodes(&["True", "True", "True", "Unknown", "Unknown"]), ":"), Reach::Node);
}

#[test]
fn pods_of_a_node_that_falls_silent_are_called_not_ready() {
    assert!(loses_pods(None, &node("Unknown", &[])));
    assert!(loses_pods(Some(&node("True", &[])), &node("False", &[])));
    assert!(!loses_pods(None, &node("False", &[])));
}
