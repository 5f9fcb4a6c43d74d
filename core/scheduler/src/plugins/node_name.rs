//! NodeName: a pod that names its node goes nowhere else.

use crate::cache::View;
use crate::framework::{FilterPlugin, PreFilter, Rejection};
use crate::pod::PendingPod;
use crate::queue::event::ClusterEvents;

/// The plugin.
pub(super) struct NodeName;

const REASON: &str = "node(s) didn't match the requested node name";

impl FilterPlugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn helped_by(&self) -> ClusterEvents {
        ClusterEvents::NODE_ADDED
    }

    fn pre_filter<'a>(&self, pod: &'a PendingPod, _view: View<'a>) -> Result<PreFilter<'a>, Rejection> {
        let Some(wanted) = &pod.node_name else { return Ok(PreFilter::skip()) };
        Ok(PreFilter::check(
            move |node| {
                if node.name == *wanted { Ok(()) } else { Err(Rejection::unresolvable(REASON)) }
            },
        ))
    }
}
