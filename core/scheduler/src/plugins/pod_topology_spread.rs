//! PodTopologySpread: pods that a constraint counts are spread evenly over the values of a node label. A pod without
//! constraints is still spread from its siblings - pods with the same controller - over zones and nodes, softly.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cache::View;
use crate::framework::{FilterPlugin, MAX_SCORE, PreFilter, Rejection, ScorePlugin, Scorer};
use crate::node::NodeInfo;
use crate::pod::topology_spread::SpreadConstraint;
use crate::pod::{ControllerId, PendingPod};
use crate::queue::event::ClusterEvents;

/// The plugin.
pub(super) struct PodTopologySpread;

const UNEVEN: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Marks a node that lacks a label while scores are gathered.
const IGNORED: i64 = -1;

impl FilterPlugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn helped_by(&self) -> ClusterEvents {
        ClusterEvents::NODE_ADDED
            | ClusterEvents::NODE_GONE
            | ClusterEvents::NODE_LABELS
            | ClusterEvents::NODE_TAINTS
            | ClusterEvents::POD_PLACED
            | ClusterEvents::POD_GONE
            | ClusterEvents::POD_LABELS
    }

    fn pre_filter<'a>(&self, pod: &'a PendingPod, view: View<'a>) -> Result<PreFilter<'a>, Rejection> {
        let required: Vec<&SpreadConstraint> = pod.spread.iter().filter(|it| it.required).collect();
        if required.is_empty() {
            return Ok(PreFilter::skip());
        }
        let domains = required_domains(&required, pod, view);
        Ok(PreFilter::check(move |node| {
            required.iter().zip(&domains).try_for_each(|(constraint, domains)| {
                let Some(value) = node.labels.get(&constraint.topology_key) else {
                    return Err(Rejection::unresolvable(NO_LABEL));
                };
                let here = domains.pods.get(value).copied().unwrap_or(0);
                if here + domains.itself - domains.fewest > constraint.max_skew {
                    return Err(Rejection::resolvable(UNEVEN));
                }
                Ok(())
            })
        }))
    }
}

/// How the pods that a constraint counts are spread now.
struct Domains<'a> {
    pods: HashMap<&'a str, i64>,
    fewest: i64,
    /// One where the constraint counts the pod itself.
    itself: i64,
}

fn has_all_labels(node: &NodeInfo, constraints: &[&SpreadConstraint]) -> bool {
    constraints.iter().all(|constraint| node.labels.contains(&constraint.topology_key))
}

fn required_domains<'a>(
    required: &[&SpreadConstraint],
    pod: &PendingPod,
    view: View<'a>,
) -> Vec<Domains<'a>> {
    let eligible: Vec<&NodeInfo> = view.nodes().filter(|node| has_all_labels(node, required)).collect();
    let domains_of = |constraint: &&SpreadConstraint| {
        let mut pods: HashMap<&str, i64> = HashMap::new();
        for node in eligible.iter().filter(|node| constraint.includes(pod, node)) {
            if let Some(value) = node.labels.get(&constraint.topology_key) {
                *pods.entry(value).or_insert(0) += constraint.count(pod, node);
            }
        }
        let too_few = pods.len() < constraint.min_domains;
        let fewest = if too_few { 0 } else { pods.values().copied().min().unwrap_or(0) };
        let itself = i64::from(constraint.selector.matches(&pod.info.labels));
        Domains { pods, fewest, itself }
    };
    required.iter().map(domains_of).collect()
}

/// A constraint that only scores.
struct Soft<'a> {
    topology_key: Arc<str>,
    max_skew: i64,
    counts: Counts<'a>,
    /// Pods by value of the label; empty where each node is its own domain and is counted when it is scored.
    pods: HashMap<&'a str, i64>,
    weight: f64,
}

enum Counts<'a> {
    Selected(&'a SpreadConstraint),
    Siblings(ControllerId),
}

impl Counts<'_> {
    fn on(&self, pod: &PendingPod, node: &NodeInfo) -> i64 {
        match self {
            Counts::Selected(constraint) => constraint.count(pod, node),
            Counts::Siblings(controller) => node.siblings(*controller),
        }
    }

    fn include(&self, pod: &PendingPod, node: &NodeInfo) -> bool {
        match self {
            Counts::Selected(constraint) => constraint.includes(pod, node),
            Counts::Siblings(_) => pod.required_nodes.matches(node.name.as_str(), &node.labels),
        }
    }
}

fn soft_constraints<'a>(pod: &'a PendingPod) -> Vec<Soft<'a>> {
    let soft = |topology_key: Arc<str>, max_skew: i64, counts: Counts<'a>| Soft {
        topology_key,
        max_skew,
        counts,
        pods: HashMap::new(),
        weight: 0.0,
    };
    if pod.spread.is_empty() {
        let Some(controller) = pod.info.controller else { return Vec::new() };
        return [(HOSTNAME, 3), (ZONE, 5)]
            .map(|(key, max_skew)| soft(key.into(), max_skew, Counts::Siblings(controller)))
            .into();
    }
    let wished = pod.spread.iter().filter(|constraint| !constraint.required);
    wished.map(|it| soft(it.topology_key.clone(), it.max_skew, Counts::Selected(it))).collect()
}

impl<'a> Soft<'a> {
    /// Counts the pods in the domains of the nodes that are left.
    fn prepare(&mut self, pod: &PendingPod, view: View<'a>, left: &[&'a NodeInfo]) {
        if *self.topology_key == *HOSTNAME {
            self.weight = ((left.len() + 2) as f64).ln();
            return;
        }
        self.pods =
            left.iter().filter_map(|node| node.labels.get(&self.topology_key)).map(|it| (it, 0)).collect();
        self.weight = ((self.pods.len() + 2) as f64).ln();
        if self.pods.is_empty() {
            return;
        }
        for node in view.nodes() {
            let value = node.labels.get(&self.topology_key);
            if let Some(sum) = value.and_then(|value| self.pods.get_mut(value))
                && self.counts.include(pod, node)
            {
                *sum += self.counts.on(pod, node);
            }
        }
    }

    fn score(&self, pod: &PendingPod, node: &NodeInfo) -> f64 {
        let Some(value) = node.labels.get(&self.topology_key) else { return 0.0 };
        let pods = match self.pods.get(value) {
            Some(pods) => *pods,
            None => self.counts.on(pod, node),
        };
        pods as f64 * self.weight + (self.max_skew - 1) as f64
    }
}

impl ScorePlugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn pre_score<'a>(&self, pod: &'a PendingPod, view: View<'a>, nodes: &[usize]) -> Option<Scorer<'a>> {
        let mut constraints = soft_constraints(pod);
        if constraints.is_empty() {
            return None;
        }
        // Nodes without the labels are scored by the default constraints, and left out by a pod's own ones.
        let all_labels = !pod.spread.is_empty();
        let keys: Vec<Arc<str>> = constraints.iter().map(|it| it.topology_key.clone()).collect();
        let ignored = move |node: &NodeInfo| all_labels && keys.iter().any(|key| !node.labels.contains(key));
        let left: Vec<&NodeInfo> =
            nodes.iter().filter_map(|at| view.node(*at)).filter(|node| !ignored(node)).collect();
        for constraint in &mut constraints {
            constraint.prepare(pod, view, &left);
        }
        let score = move |node: &NodeInfo| {
            if ignored(node) {
                return IGNORED;
            }
            let sum: f64 = constraints.iter().map(|constraint| constraint.score(pod, node)).sum();
            sum.round() as i64
        };
        Some(Scorer { score: Box::new(score), normalize: fewest_is_best })
    }
}

fn fewest_is_best(scores: &mut [i64]) {
    let counted = || scores.iter().copied().filter(|score| *score != IGNORED);
    let (fewest, most) = (counted().min().unwrap_or(0), counted().max().unwrap_or(0));
    for score in scores {
        *score = match *score {
            IGNORED => 0,
            _ if most == 0 => MAX_SCORE,
            score => MAX_SCORE * (most + fewest - score) / most,
        };
    }
}
