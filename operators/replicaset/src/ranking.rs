//! Which pods are deleted first (pure).

use std::collections::HashMap;

use k8s_openapi::jiff::Timestamp;

use crate::validate::Pod;

/// Sorts pods so that those whose loss matters least come first.
///
/// In this order count: pods without a node; those not yet running; those not ready; the lower deletion cost; more
/// pods of the same kind on the node; the shorter time of being ready; more restarts; the younger. Ages are compared by
/// their magnitude (powers of two), so that it is not always the newest that goes; at last the UID decides.
pub fn sort_by_loss(pods: &mut [Pod], related_on_node: &HashMap<String, usize>, now: Timestamp) {
    pods.sort_by(|(_, a), (_, b)| {
        let beside = |node: &Option<String>| {
            node.as_ref().and_then(|node| related_on_node.get(node)).copied().unwrap_or(0)
        };
        a.node
            .is_some()
            .cmp(&b.node.is_some())
            .then_with(|| a.phase.cmp(&b.phase))
            .then_with(|| a.ready.cmp(&b.ready))
            .then_with(|| a.deletion_cost.cmp(&b.deletion_cost))
            .then_with(|| beside(&b.node).cmp(&beside(&a.node)))
            .then_with(|| magnitude(a.ready_since, now).cmp(&magnitude(b.ready_since, now)))
            .then_with(|| b.restarts.cmp(&a.restarts))
            .then_with(|| magnitude(Some(a.created), now).cmp(&magnitude(Some(b.created), now)))
            .then_with(|| a.uid.cmp(&b.uid))
    });
}

/// The order of magnitude of an age; `None` sorts first.
fn magnitude(since: Option<Timestamp>, now: Timestamp) -> Option<u32> {
    u128::try_from(now.duration_since(since?).as_nanos()).ok()?.checked_ilog2()
}
