//! One decision: which node runs a pod (pure).

pub mod fit_error;
pub mod preemption;

use crate::cache::View;
use crate::framework::{Checks, Framework, Rejection};
use crate::names::NodeName;
use crate::node::NodeInfo;
use crate::pod::PendingPod;
use fit_error::FitError;

/// With fewer nodes than this, and until this many are found, all are looked at.
const FEASIBLE_AT_LEAST: usize = 100;
/// The smallest share of a large cluster that is looked at, in percent.
const SHARE_AT_LEAST: usize = 5;

/// A node for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// The node.
    pub node: NodeName,
    /// How many nodes were looked at.
    pub evaluated: usize,
    /// How many of them could take the pod.
    pub feasible: usize,
}

/// Why there is no node for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The cluster has no node.
    NoNodes,
    /// No node can take it.
    Unfit(FitError),
}

/// Where the next search starts, so that in a large cluster each node gets its turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rotation {
    start: usize,
    turn: usize,
}

/// Searches a node for a pod. `share` is the percentage of nodes to find before they are scored; 0 adapts it to the
/// size of the cluster.
pub fn schedule(
    framework: &Framework,
    view: View<'_>,
    pod: &PendingPod,
    share: u8,
    rotation: &mut Rotation,
) -> Result<Suggestion, Failure> {
    if view.is_empty() {
        return Err(Failure::NoNodes);
    }
    let checks = framework.pre_filter(pod, view).map_err(|(plugin, rejection)| {
        Failure::Unfit(FitError::of_all_nodes(view.len(), plugin, rejection))
    })?;
    let search = Search { framework, view, pod, checks: &checks };
    let found = search.feasible(share, rotation).map_err(Failure::Unfit)?;
    let evaluated = found.evaluated;
    let best = match found.nodes.as_slice() {
        [one] => Some(*one),
        all => best(all, &framework.score(pod, view, all), rotation),
    };
    let node = best.and_then(|at| view.node(at)).ok_or(Failure::NoNodes)?;
    Ok(Suggestion { node: node.name.clone(), evaluated, feasible: found.nodes.len() })
}

/// The node with the highest score; among equals each gets its turn.
fn best(nodes: &[usize], scores: &[i64], rotation: &mut Rotation) -> Option<usize> {
    let highest = scores.iter().max()?;
    let equal: Vec<usize> =
        nodes.iter().zip(scores).filter(|(_, score)| *score == highest).map(|(at, _)| *at).collect();
    rotation.turn = rotation.turn.wrapping_add(1);
    equal.get(rotation.turn % equal.len().max(1)).copied()
}

/// How many feasible nodes are enough among `nodes`.
fn enough(nodes: usize, share: u8) -> usize {
    if nodes < FEASIBLE_AT_LEAST {
        return nodes;
    }
    let share = match usize::from(share) {
        0 => 50_usize.saturating_sub(nodes / 125).max(SHARE_AT_LEAST),
        share => share.min(100),
    };
    (nodes * share / 100).max(FEASIBLE_AT_LEAST)
}

struct Search<'a> {
    framework: &'a Framework,
    view: View<'a>,
    pod: &'a PendingPod,
    checks: &'a Checks<'a>,
}

struct Found {
    nodes: Vec<usize>,
    evaluated: usize,
}

impl Search<'_> {
    fn feasible(&self, share: u8, rotation: &mut Rotation) -> Result<Found, FitError> {
        let total = self.view.len();
        let nodes = self.checks.only.as_ref().map_or(self.view.order(), |(only, _)| only);
        let enough = enough(nodes.len(), share);
        let start = if nodes.is_empty() { 0 } else { rotation.start % nodes.len() };
        let mut found = Found { nodes: Vec::with_capacity(enough), evaluated: 0 };
        let mut rejections = Vec::new();
        let mut refused_by = self.checks.narrowed_by;
        let (before, from) = nodes.split_at(start);
        for at in from.iter().chain(before).copied() {
            if found.nodes.len() >= enough {
                break;
            }
            let Some(node) = self.view.node(at) else { continue };
            found.evaluated += 1;
            match self.check(at, node) {
                Ok(()) => found.nodes.push(at),
                Err((plugin, rejection)) => {
                    refused_by.insert(plugin);
                    rejections.push((at, rejection));
                }
            }
        }
        rotation.start = (start + found.evaluated) % total.max(1);
        if found.nodes.is_empty() {
            let narrowed_by = self.checks.only.as_ref().map(|(_, plugins)| plugins.as_slice());
            return Err(FitError::of_nodes(total, rejections, refused_by, narrowed_by));
        }
        Ok(found)
    }

    /// Checks a node as it is, and also as it will be when the pods have come for which room was made on it.
    fn check(&self, at: usize, node: &NodeInfo) -> Result<(), (usize, Rejection)> {
        let info = &self.pod.info;
        let coming = self.view.nominated(node);
        let before_us = |other: &&std::sync::Arc<crate::pod::PodInfo>| {
            other.uid != info.uid && other.priority >= info.priority
        };
        if coming.iter().any(|other| before_us(&other)) {
            let mut later = node.clone();
            coming.iter().filter(before_us).for_each(|other| later.add(other.clone()));
            let view = self.view.with(at, &later);
            self.framework.pre_filter(self.pod, view)?.check(&later)?;
        }
        self.checks.check(node)
    }
}

#[cfg(test)]
mod tests;
