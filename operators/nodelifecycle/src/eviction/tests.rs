use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use pretty_assertions::assert_eq;
use serde_json::{Value, from_value, json};

use super::{Cause, QUARANTINE, Verdict, judge};
use crate::node::NodeView;
use crate::pod::PodView;

fn pod(tolerations: Value) -> PodView {
    let spec = json!({"nodeName": "n", "containers": [], "tolerations": tolerations});
    let pod: Pod = from_value(json!({"metadata": {"name": "p", "uid": "p"}, "spec": spec})).unwrap();
    PodView::read(pod).unwrap()
}

fn silent() -> NodeView {
    let taints = json!([
        {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
    ]);
    let metadata = json!({"name": "n", "uid": "n", "resourceVersion": "1"});
    let node: Node = from_value(json!({"metadata": metadata, "spec": {"taints": taints}})).unwrap();
    NodeView::read(node).unwrap()
}

#[test]
fn a_pod_stays_as_long_as_it_bears_the_taint() {
    let bears = |seconds: Value| json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
    let of = |tolerations| judge(&pod(tolerations), Some(&silent()));
    assert_eq!(of(json!([])), Verdict::Leave(Cause::Taint, Duration::ZERO));
    assert_eq!(of(bears(json!(300))), Verdict::Leave(Cause::Taint, Duration::from_secs(300)));
    assert_eq!(of(bears(json!(-1))), Verdict::Leave(Cause::Taint, Duration::ZERO));
    assert_eq!(of(bears(Value::Null)), Verdict::Stay);
    assert_eq!(of(json!([{"operator": "Exists"}])), Verdict::Stay);
    assert_eq!(
        of(json!([{"key": "other", "operator": "Exists"}])),
        Verdict::Leave(Cause::Taint, Duration::ZERO)
    );
}

#[test]
fn a_pod_of_a_node_that_is_gone_goes_after_quarantine() {
    assert_eq!(judge(&pod(json!([])), None), Verdict::Leave(Cause::NodeGone, QUARANTINE));
    let mut waiting = pod(json!([]));
    waiting.node = None;
    assert_eq!(judge(&waiting, None), Verdict::Stay);
    waiting.terminating = true;
    assert_eq!(judge(&waiting, None), Verdict::Leave(Cause::NeverScheduled, Duration::ZERO));
}

#[test]
fn a_pod_that_is_being_deleted_waits_for_its_node_unless_that_is_out_of_service() {
    let mut leaving = pod(json!([]));
    leaving.terminating = true;
    assert_eq!(judge(&leaving, Some(&silent())), Verdict::Stay);
    let mut out = silent();
    out.taints[1].key = "node.kubernetes.io/out-of-service".to_owned();
    assert_eq!(judge(&leaving, Some(&out)), Verdict::Leave(Cause::OutOfService, Duration::ZERO));
}
