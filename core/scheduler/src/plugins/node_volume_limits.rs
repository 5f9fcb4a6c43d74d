//! NodeVolumeLimits: a node has no more volumes of a storage driver than the driver says that it can have. A volume counts from when its
//! pod has the node, and until it is detached.

use std::collections::HashSet;

use crate::cache::View;
use crate::framework::{FilterPlugin, PreFilter, Rejection};
use crate::pod::PendingPod;
use crate::queue::event::ClusterEvents;
use crate::volume::limits::Attachable;

/// The plugin.
pub(super) struct NodeVolumeLimits;

const REASON: &str = "node(s) exceed max volume count";

impl FilterPlugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn helped_by(&self) -> ClusterEvents {
        ClusterEvents::VOLUME | ClusterEvents::NODE_ADDED | ClusterEvents::POD_GONE
    }

    fn pre_filter<'a>(&self, pod: &'a PendingPod, view: View<'a>) -> Result<PreFilter<'a>, Rejection> {
        let volumes = view.volumes();
        let wanted: HashSet<Attachable> = volumes.attachable(&pod.info).collect();
        if wanted.is_empty() {
            return Ok(PreFilter::skip());
        }
        Ok(PreFilter::check(move |node| {
            let Some(limits) = volumes.limits.get(&node.name) else { return Ok(()) };
            let of_pods = node.pods.iter().flat_map(|pod| volumes.attachable(pod));
            let has: HashSet<Attachable> = of_pods.chain(volumes.attached(&node.name)).collect();
            if limits.allow(&wanted, &has) { Ok(()) } else { Err(Rejection::resolvable(REASON)) }
        }))
    }
}
