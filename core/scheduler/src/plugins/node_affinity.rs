//! NodeAffinity: `nodeSelector` and the required node affinity decide which nodes can take a pod, the preferred one
//! which of them it likes.

use crate::cache::View;
use crate::framework::{FilterPlugin, PreFilter, Rejection, ScorePlugin, Scorer, in_proportion};
use crate::pod::PendingPod;
use crate::queue::event::ClusterEvents;

/// The plugin.
pub(super) struct NodeAffinity;

const REASON: &str = "node(s) didn't match Pod's node affinity/selector";

impl FilterPlugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn helped_by(&self) -> ClusterEvents {
        ClusterEvents::NODE_ADDED | ClusterEvents::NODE_LABELS
    }

    fn pre_filter<'a>(&self, pod: &'a PendingPod, _view: View<'a>) -> Result<PreFilter<'a>, Rejection> {
        let required = &pod.required_nodes;
        if required.is_empty() {
            return Ok(PreFilter::skip());
        }
        let only = required.names();
        if only.as_ref().is_some_and(Vec::is_empty) {
            return Err(Rejection::unresolvable("pod affinity terms conflict"));
        }
        let check = PreFilter::check(|node| {
            if required.matches(node.name.as_str(), &node.labels) {
                Ok(())
            } else {
                Err(Rejection::unresolvable(REASON))
            }
        });
        Ok(PreFilter { only, ..check })
    }
}

impl ScorePlugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn pre_score<'a>(&self, pod: &'a PendingPod, _view: View<'a>, _nodes: &[usize]) -> Option<Scorer<'a>> {
        if pod.preferred_nodes.is_empty() {
            return None;
        }
        let score = |node: &crate::node::NodeInfo| {
            let liked = pod.preferred_nodes.iter();
            liked
                .filter(|(_, term)| term.matches(node.name.as_str(), &node.labels))
                .map(|(weight, _)| weight)
                .sum()
        };
        Some(Scorer { score: Box::new(score), normalize: in_proportion })
    }
}
