//! TaintToleration: a node takes no pod that does not tolerate its taints, and likes those less that do not
//! tolerate its soft ones.

use crate::cache::View;
use crate::framework::{FilterPlugin, PreFilter, Rejection, ScorePlugin, Scorer, reversed};
use crate::pod::PendingPod;
use crate::queue::event::ClusterEvents;
use crate::taint::{Effect, tolerated};

/// The plugin.
pub(super) struct TaintToleration;

const REASON: &str = "node(s) had untolerated taint(s)";

impl FilterPlugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn helped_by(&self) -> ClusterEvents {
        ClusterEvents::NODE_ADDED | ClusterEvents::NODE_TAINTS
    }

    fn pre_filter<'a>(&self, pod: &'a PendingPod, _view: View<'a>) -> Result<PreFilter<'a>, Rejection> {
        Ok(PreFilter::check(|node| {
            let mut forbidding = node.taints.iter().filter(|taint| taint.effect.forbids());
            if forbidding.all(|taint| tolerated(taint, &pod.tolerations)) {
                Ok(())
            } else {
                Err(Rejection::unresolvable(REASON))
            }
        }))
    }
}

impl ScorePlugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn pre_score<'a>(&self, pod: &'a PendingPod, _view: View<'a>, _nodes: &[usize]) -> Option<Scorer<'a>> {
        let score = |node: &crate::node::NodeInfo| {
            let soft = node.taints.iter().filter(|taint| taint.effect == Effect::PreferNoSchedule);
            soft.filter(|taint| !tolerated(taint, &pod.tolerations)).map(|_| 1).sum()
        };
        Some(Scorer { score: Box::new(score), normalize: reversed })
    }
}
