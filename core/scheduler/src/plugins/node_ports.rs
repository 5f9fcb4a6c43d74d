//! NodePorts: a port of a node belongs to one pod.

use crate::cache::View;
use crate::framework::{FilterPlugin, PreFilter, Rejection};
use crate::pod::PendingPod;
use crate::queue::event::ClusterEvents;

/// The plugin.
pub(super) struct NodePorts;

const REASON: &str = "node(s) didn't have free ports for the requested pod ports";

impl FilterPlugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn helped_by(&self) -> ClusterEvents {
        ClusterEvents::NODE_ADDED | ClusterEvents::POD_GONE
    }

    fn pre_filter<'a>(&self, pod: &'a PendingPod, _view: View<'a>) -> Result<PreFilter<'a>, Rejection> {
        let wanted = &pod.info.ports;
        if wanted.is_empty() {
            return Ok(PreFilter::skip());
        }
        Ok(PreFilter::check(move |node| {
            let taken = |port| node.ports.iter().any(|taken| taken.conflicts(port));
            if wanted.iter().any(taken) { Err(Rejection::resolvable(REASON)) } else { Ok(()) }
        }))
    }
}
