//! NodeUnschedulable: a cordoned node takes no pod that does not tolerate it.

use crate::cache::View;
use crate::framework::{FilterPlugin, PreFilter, Rejection};
use crate::pod::PendingPod;
use crate::queue::event::ClusterEvents;
use crate::taint::{Effect, Taint, tolerated};

/// The plugin.
pub(super) struct NodeUnschedulable;

const REASON: &str = "node(s) were unschedulable";

impl FilterPlugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn helped_by(&self) -> ClusterEvents {
        ClusterEvents::NODE_ADDED | ClusterEvents::NODE_TAINTS
    }

    fn pre_filter<'a>(&self, pod: &'a PendingPod, _view: View<'a>) -> Result<PreFilter<'a>, Rejection> {
        let taint = Taint::new("node.kubernetes.io/unschedulable", Effect::NoSchedule);
        if tolerated(&taint, &pod.tolerations) {
            return Ok(PreFilter::skip());
        }
        Ok(PreFilter::check(
            |node| {
                if node.unschedulable { Err(Rejection::unresolvable(REASON)) } else { Ok(()) }
            },
        ))
    }
}
