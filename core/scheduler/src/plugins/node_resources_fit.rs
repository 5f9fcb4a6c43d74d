//! NodeResourcesFit: what a pod asks for must be left on the node; the emptier node is the better one.

use std::borrow::Cow;

use crate::cache::View;
use crate::framework::{FilterPlugin, MAX_SCORE, PreFilter, Rejection, ScorePlugin, Scorer, as_it_is};
use crate::node::NodeInfo;
use crate::pod::PendingPod;
use crate::queue::event::ClusterEvents;

/// The plugin.
pub(super) struct NodeResourcesFit;

impl FilterPlugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn helped_by(&self) -> ClusterEvents {
        ClusterEvents::NODE_ADDED
            | ClusterEvents::NODE_ALLOCATABLE
            | ClusterEvents::POD_GONE
            | ClusterEvents::POD_SCALED_DOWN
    }

    fn pre_filter<'a>(&self, pod: &'a PendingPod, _view: View<'a>) -> Result<PreFilter<'a>, Rejection> {
        Ok(PreFilter::check(|node| fits(pod, node)))
    }
}

fn fits(pod: &PendingPod, node: &NodeInfo) -> Result<(), Rejection> {
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut resolvable = true;
    let pods = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
    if pods >= node.allocatable_pods {
        reasons.push("Too many pods".into());
    }
    let (wanted, all, taken) = (pod.requests(), &node.allocatable, &node.requested);
    let mut check = |wanted: i64, all: i64, taken: i64, reason: &dyn Fn() -> Cow<'static, str>| {
        if wanted > 0 && wanted > all.saturating_sub(taken) {
            reasons.push(reason());
            resolvable &= wanted <= all;
        }
    };
    check(wanted.milli_cpu, all.milli_cpu, taken.milli_cpu, &|| "Insufficient cpu".into());
    check(wanted.memory, all.memory, taken.memory, &|| "Insufficient memory".into());
    check(wanted.ephemeral_storage, all.ephemeral_storage, taken.ephemeral_storage, &|| {
        "Insufficient ephemeral-storage".into()
    });
    for (name, wanted) in &wanted.others {
        check(*wanted, all.other(name), taken.other(name), &|| format!("Insufficient {name}").into());
    }
    if reasons.is_empty() { Ok(()) } else { Err(Rejection { reasons, resolvable }) }
}

impl ScorePlugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn pre_score<'a>(&self, pod: &'a PendingPod, _view: View<'a>, _nodes: &[usize]) -> Option<Scorer<'a>> {
        let requests = &pod.info.requests;
        let score = |node: &NodeInfo| {
            let cpu = left(node.allocatable.milli_cpu, node.scored_milli_cpu + requests.scored_milli_cpu);
            let memory = left(node.allocatable.memory, node.scored_memory + requests.scored_memory);
            match (cpu, memory) {
                (Some(cpu), Some(memory)) => i64::midpoint(cpu, memory),
                (one, None) | (None, one) => one.unwrap_or(0),
            }
        };
        Some(Scorer { score: Box::new(score), normalize: as_it_is })
    }
}

/// The share that would be left, of 100; `None` where the node has none of it.
fn left(all: i64, taken: i64) -> Option<i64> {
    if all <= 0 {
        return None;
    }
    let share = i128::from(all.saturating_sub(taken).max(0)) * i128::from(MAX_SCORE) / i128::from(all);
    i64::try_from(share).ok()
}
