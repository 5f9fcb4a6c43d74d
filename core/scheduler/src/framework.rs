//! The extension points at which plugins decide.
//!
//! A decision about a pod goes through them in this order: **pre-filter** (once: look at the whole cluster, and give
//! a check), **filter** (the check, for each node), **pre-score** (once: look at the nodes that are left, and give a
//! scorer), **score** (the scorer, for each of them), **normalize** (bring a plugin's scores to 0 to 100). Plugins
//! hold no state: what one computes for a pod lives in its check or scorer.

use std::borrow::Cow;

use crate::cache::View;
use crate::node::NodeInfo;
use crate::plugins;
use crate::pod::PendingPod;
use crate::queue::event::ClusterEvents;

/// The best score.
pub const MAX_SCORE: i64 = 100;

/// Why a node, or all of them, cannot take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// One or more reasons; they are counted over the nodes.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether it could help if other pods left the node.
    pub resolvable: bool,
}

impl Rejection {
    /// A reason that goes away when other pods do.
    pub fn resolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Rejection { reasons: vec![reason.into()], resolvable: true }
    }

    /// A reason that stays even without other pods.
    pub fn unresolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Rejection { reasons: vec![reason.into()], resolvable: false }
    }
}

/// Whether a node can take the pod that the check was made for.
pub type Check<'a> = Box<dyn Fn(&NodeInfo) -> Result<(), Rejection> + 'a>;

/// What a filter plugin has found out before it sees single nodes.
#[derive(Default)]
pub struct PreFilter<'a> {
    /// The only nodes that can do, by name; `None` where any might.
    pub only: Option<Vec<&'a str>>,
    /// The check for each node; `None` where every node passes.
    pub check: Option<Check<'a>>,
}

impl<'a> PreFilter<'a> {
    /// Every node passes.
    pub fn skip() -> Self {
        PreFilter::default()
    }

    /// Nodes pass by `check`.
    pub fn check(check: impl Fn(&NodeInfo) -> Result<(), Rejection> + 'a) -> Self {
        PreFilter { only: None, check: Some(Box::new(check)) }
    }
}

/// Decides which nodes can take a pod.
pub trait FilterPlugin: Send + Sync {
    /// Its name, as in upstream's configuration.
    fn name(&self) -> &'static str;

    /// What may help a pod that it has refused.
    fn helped_by(&self) -> ClusterEvents;

    /// Looks at the pod and the cluster once; an error refuses all nodes.
    fn pre_filter<'a>(&self, pod: &'a PendingPod, view: View<'a>) -> Result<PreFilter<'a>, Rejection>;
}

/// Scores the nodes for one pod.
pub struct Scorer<'a> {
    /// The raw score of a node.
    pub score: Box<dyn Fn(&NodeInfo) -> i64 + 'a>,
    /// Brings the raw scores of all nodes to 0 to 100.
    pub normalize: fn(&mut [i64]),
}

/// Decides which of the nodes that can take a pod suits best.
pub trait ScorePlugin: Send + Sync {
    /// Its name, as in upstream's configuration.
    fn name(&self) -> &'static str;

    /// By what its scores are multiplied.
    fn weight(&self) -> i64;

    /// Looks at the pod and the nodes that are left once; `None` where it likes all of them the same.
    fn pre_score<'a>(&self, pod: &'a PendingPod, view: View<'a>, nodes: &[usize]) -> Option<Scorer<'a>>;
}

/// Leaves scores that are between 0 and 100 already.
pub fn as_it_is(_scores: &mut [i64]) {}

/// The largest becomes 100, the others in proportion.
pub fn in_proportion(scores: &mut [i64]) {
    let largest = scores.iter().copied().max().unwrap_or(0);
    if largest > 0 {
        scores.iter_mut().for_each(|score| *score = *score * MAX_SCORE / largest);
    }
}

/// The largest becomes 0, none becomes 100.
pub fn reversed(scores: &mut [i64]) {
    in_proportion(scores);
    scores.iter_mut().for_each(|score| *score = MAX_SCORE - *score);
}

/// The plugins that decide, in their order.
pub struct Framework {
    filters: Vec<Box<dyn FilterPlugin>>,
    scores: Vec<Box<dyn ScorePlugin>>,
}

/// Which filter plugins refused; bit by bit in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PluginSet(u32);

impl PluginSet {
    /// Adds the plugin at a position.
    pub fn insert(&mut self, at: usize) {
        self.0 |= 1 << at;
    }
}

/// The checks of all plugins for one pod.
pub struct Checks<'a> {
    /// The only nodes that can do, by position; with the names of the plugins that say so.
    pub only: Option<(Vec<usize>, Vec<&'static str>)>,
    /// The plugins that said so.
    pub narrowed_by: PluginSet,
    checks: Vec<(usize, Check<'a>)>,
}

impl Checks<'_> {
    /// Whether the node passes all; else the position of the first plugin that refuses it, and why.
    pub fn check(&self, node: &NodeInfo) -> Result<(), (usize, Rejection)> {
        self.checks.iter().try_for_each(|(at, check)| check(node).map_err(|rejection| (*at, rejection)))
    }
}

impl Default for Framework {
    fn default() -> Self {
        Framework { filters: plugins::filters(), scores: plugins::scores() }
    }
}

impl Framework {
    /// Runs the pre-filters. An error names the position of the plugin that refuses all nodes.
    pub fn pre_filter<'a>(
        &self,
        pod: &'a PendingPod,
        view: View<'a>,
    ) -> Result<Checks<'a>, (usize, Rejection)> {
        let mut all = Checks { only: None, narrowed_by: PluginSet::default(), checks: Vec::new() };
        for (at, plugin) in self.filters.iter().enumerate() {
            let found = plugin.pre_filter(pod, view).map_err(|rejection| (at, rejection))?;
            if let Some(check) = found.check {
                all.checks.push((at, check));
            }
            let Some(names) = found.only else { continue };
            let positions = names.iter().filter_map(|name| view.position(name));
            let (nodes, by) = match all.only.take() {
                Some((nodes, mut by)) => {
                    by.push(plugin.name());
                    (positions.filter(|at| nodes.contains(at)).collect(), by)
                }
                None => (positions.collect(), vec![plugin.name()]),
            };
            all.only = Some((nodes, by));
            all.narrowed_by.insert(at);
        }
        Ok(all)
    }

    /// The sum of all plugins' weighted scores for each of `nodes`.
    pub fn score(&self, pod: &PendingPod, view: View<'_>, nodes: &[usize]) -> Vec<i64> {
        let mut total = vec![0; nodes.len()];
        let mut scores = Vec::with_capacity(nodes.len());
        for plugin in &self.scores {
            let Some(scorer) = plugin.pre_score(pod, view, nodes) else { continue };
            scores.clear();
            scores.extend(nodes.iter().map(|at| view.node(*at).map_or(0, &scorer.score)));
            (scorer.normalize)(&mut scores);
            for (sum, score) in total.iter_mut().zip(&scores) {
                *sum += score * plugin.weight();
            }
        }
        total
    }

    /// What may help a pod that these plugins have refused.
    pub fn helped_by(&self, plugins: PluginSet) -> ClusterEvents {
        let refused = self.filters.iter().enumerate().filter(|(at, _)| plugins.0 & (1 << at) != 0);
        refused.fold(ClusterEvents::NONE, |events, (_, plugin)| events | plugin.helped_by())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(normalize: fn(&mut [i64]), mut scores: Vec<i64>) -> Vec<i64> {
        normalize(&mut scores);
        scores
    }

    #[test]
    fn scores_are_brought_to_the_scale() {
        assert_eq!(normalized(in_proportion, vec![0, 5, 10]), [0, 50, 100]);
        assert_eq!(normalized(in_proportion, vec![0, 0]), [0, 0]);
        assert_eq!(normalized(reversed, vec![0, 1, 4]), [100, 75, 0]);
        assert_eq!(normalized(reversed, vec![0, 0]), [100, 100]);
    }
}
