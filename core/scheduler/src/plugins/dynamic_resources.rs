//! DynamicResources: a pod that claims devices is placed on no node, because nobody here allocates them to it.

use crate::cache::View;
use crate::framework::{FilterPlugin, PreFilter, Rejection};
use crate::pod::PendingPod;
use crate::queue::event::ClusterEvents;

/// The plugin.
pub(super) struct DynamicResources;

const REASON: &str = "claims to devices are not allocated by this scheduler";

impl FilterPlugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn helped_by(&self) -> ClusterEvents {
        ClusterEvents::NONE
    }

    fn pre_filter<'a>(&self, pod: &'a PendingPod, _view: View<'a>) -> Result<PreFilter<'a>, Rejection> {
        if pod.claims_devices { Err(Rejection::unresolvable(REASON)) } else { Ok(PreFilter::skip()) }
    }
}
