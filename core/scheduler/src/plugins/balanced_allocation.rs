//! NodeResourcesBalancedAllocation: a node whose CPU and memory fill up together is better than one where a half
//! will be left over.

use crate::cache::View;
use crate::framework::{MAX_SCORE, ScorePlugin, Scorer, as_it_is};
use crate::node::NodeInfo;
use crate::pod::PendingPod;

/// The plugin.
pub(super) struct BalancedAllocation;

impl ScorePlugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn pre_score<'a>(&self, pod: &'a PendingPod, _view: View<'a>, _nodes: &[usize]) -> Option<Scorer<'a>> {
        let wanted = pod.requests();
        if wanted.milli_cpu == 0 && wanted.memory == 0 {
            return None;
        }
        let score = |node: &NodeInfo| {
            let (all, taken) = (&node.allocatable, &node.requested);
            let cpu = share(all.milli_cpu, taken.milli_cpu + wanted.milli_cpu);
            let memory = share(all.memory, taken.memory + wanted.memory);
            let deviation = match (cpu, memory) {
                (Some(cpu), Some(memory)) => ((cpu - memory) / 2.0).abs(),
                (_, None) | (None, _) => 0.0,
            };
            ((1.0 - deviation) * MAX_SCORE as f64) as i64
        };
        Some(Scorer { score: Box::new(score), normalize: as_it_is })
    }
}

fn share(all: i64, taken: i64) -> Option<f64> {
    (all > 0).then(|| (taken as f64 / all as f64).min(1.0))
}
