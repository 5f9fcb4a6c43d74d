//! Which pods of lower priority have to go so that one of higher priority fits (pure).
//!
//! On each node where it could help, all pods of lower priority are thought away; if the pod then fits, as many of
//! them as possible are put back, the most important first. Of the nodes, the one is taken where the least
//! important pods have to go, then the fewest.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::fit_error::FitError;
use crate::cache::View;
use crate::framework::Framework;
use crate::names::NodeName;
use crate::node::NodeInfo;
use crate::pod::{PendingPod, PodInfo};

/// The smallest number of nodes that are tried.
const CANDIDATES_AT_LEAST: usize = 100;
/// The share of nodes that are tried, in percent.
const CANDIDATES_SHARE: usize = 10;

/// A node, and who has to go from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// The node.
    pub node: NodeName,
    /// The pods that have to go, the most important first.
    pub victims: Vec<Arc<PodInfo>>,
}

/// Why no pod is displaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPreemption {
    /// The pod does not want it.
    Never,
    /// Pods on the node that is reserved for it are on their way out.
    Terminating,
    /// It would help on no node.
    NoHelp,
}

/// Finds the node on which the fewest and least important pods have to go.
pub fn preempt(
    framework: &Framework,
    view: View<'_>,
    pod: &PendingPod,
    failure: &FitError,
    nomination: Option<&NodeName>,
) -> Result<Preemption, NoPreemption> {
    if !pod.preempts {
        return Err(NoPreemption::Never);
    }
    let lower = |other: &Arc<PodInfo>| other.priority < pod.info.priority;
    let reserved = nomination.and_then(|name| view.position(name.as_str())).and_then(|at| view.node(at));
    if reserved.is_some_and(|node| node.pods.iter().any(|other| other.deleting && lower(other))) {
        return Err(NoPreemption::Terminating);
    }
    let most = (view.len() * CANDIDATES_SHARE / 100).max(CANDIDATES_AT_LEAST);
    let candidates = failure.resolvable().filter_map(|at| {
        let node = view.node(at)?;
        let victims = victims(framework, view, pod, at, node)?;
        Some(Preemption { node: node.name.clone(), victims })
    });
    candidates.take(most).min_by_key(cost).ok_or(NoPreemption::NoHelp)
}

/// What is to be said where no pod is displaced.
pub fn refusal(failure: &FitError, why: NoPreemption) -> String {
    let mut reasons = Vec::new();
    let resolvable = failure.resolvable().count();
    match why {
        NoPreemption::Never => return "preemption: not eligible due to preemptionPolicy=Never.".to_owned(),
        NoPreemption::Terminating => {
            return "preemption: not eligible due to a terminating pod on the nominated node.".to_owned();
        }
        NoPreemption::NoHelp => {
            for (count, text) in [
                (resolvable, "No preemption victims found for incoming pod"),
                (failure.nodes.saturating_sub(resolvable), "Preemption is not helpful for scheduling"),
            ] {
                if count > 0 {
                    reasons.push(format!("{count} {text}"));
                }
            }
        }
    }
    reasons.sort();
    format!("preemption: 0/{} nodes are available: {}.", failure.nodes, reasons.join(", "))
}

/// Importance: the higher priority, and of equal ones the pod that has run longer.
fn importance(pod: &PodInfo) -> (Reverse<i32>, Timestamp) {
    (Reverse(pod.priority), pod.started)
}

fn victims(
    framework: &Framework,
    view: View<'_>,
    pod: &PendingPod,
    at: usize,
    node: &NodeInfo,
) -> Option<Vec<Arc<PodInfo>>> {
    let fits = |node: &NodeInfo| {
        framework.pre_filter(pod, view.with(at, node)).is_ok_and(|checks| checks.check(node).is_ok())
    };
    let mut lower: Vec<Arc<PodInfo>> =
        node.pods.iter().filter(|other| other.priority < pod.info.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    lower.sort_by_key(|other| importance(other));
    let mut rest = node.clone();
    for other in &lower {
        rest.remove(&other.uid);
    }
    if !fits(&rest) {
        return None;
    }
    lower.retain(|other| {
        rest.add(other.clone());
        let stays = fits(&rest);
        if !stays {
            rest.remove(&other.uid);
        }
        !stays
    });
    (!lower.is_empty()).then_some(lower)
}

/// The highest priority among the victims, the sum of their priorities, their number, and how long the most
/// important of them has run: the lower the better, the younger the better.
fn cost(preemption: &Preemption) -> (i32, i64, usize, Reverse<Timestamp>) {
    let highest = preemption.victims.first().map_or(i32::MIN, |pod| pod.priority);
    // Priorities may be negative: shifted, so that more victims never weigh less.
    let sum = preemption.victims.iter().map(|pod| i64::from(pod.priority) - i64::from(i32::MIN)).sum();
    let oldest = preemption.victims.iter().filter(|pod| pod.priority == highest).map(|pod| pod.started).min();
    (highest, sum, preemption.victims.len(), Reverse(oldest.unwrap_or(Timestamp::MAX)))
}
