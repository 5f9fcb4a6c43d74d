//! InterPodAffinity: pods that must be near others, must not be, or would rather (not) be. The terms of pods that
//! run already bind a new pod as well.

use std::collections::HashMap;

use crate::cache::View;
use crate::framework::{FilterPlugin, MAX_SCORE, PreFilter, Rejection, ScorePlugin, Scorer};
use crate::node::NodeInfo;
use crate::pod::affinity::{AffinityTerm, Namespaces, PodAffinity};
use crate::pod::{PendingPod, PodInfo};
use crate::queue::event::ClusterEvents;

/// The plugin.
pub(super) struct InterPodAffinity;

const NOT_NEAR: &str = "node(s) didn't match pod affinity rules";
const TOO_NEAR: &str = "node(s) didn't match pod anti-affinity rules";
const FORBIDDEN: &str = "node(s) didn't satisfy existing pods anti-affinity rules";
/// How much a running pod that requires pods like the new one near it counts.
const REQUIRED_WEIGHT: i64 = 1;

/// Amounts by the key of a node label and then by its value.
#[derive(Default)]
struct Topology<'a>(HashMap<&'a str, HashMap<&'a str, i64>>);

impl<'a> Topology<'a> {
    fn count(&mut self, term: &'a AffinityTerm, node: &'a NodeInfo, amount: i64) {
        if let Some(value) = node.labels.get(&term.topology_key) {
            *self.0.entry(&term.topology_key).or_default().entry(value).or_insert(0) += amount;
        }
    }

    /// The amount where the node is, for a term.
    fn of_term(&self, term: &AffinityTerm, node: &NodeInfo) -> i64 {
        self.0.get(&*term.topology_key).map_or(0, |values| at(&term.topology_key, values, node))
    }

    /// The amounts where the node is, for each key.
    fn all(&self, node: &NodeInfo) -> impl Iterator<Item = i64> {
        self.0.iter().map(|(key, values)| at(key, values, node))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn at(key: &str, values: &HashMap<&str, i64>, node: &NodeInfo) -> i64 {
    node.labels.get(key).and_then(|value| values.get(value)).copied().unwrap_or(0)
}

impl FilterPlugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn helped_by(&self) -> ClusterEvents {
        ClusterEvents::NODE_ADDED
            | ClusterEvents::NODE_LABELS
            | ClusterEvents::POD_PLACED
            | ClusterEvents::POD_GONE
            | ClusterEvents::POD_LABELS
            | ClusterEvents::NAMESPACE
    }

    fn pre_filter<'a>(&self, pod: &'a PendingPod, view: View<'a>) -> Result<PreFilter<'a>, Rejection> {
        let forbidding = forbidding(pod, view);
        let own =
            pod.info.affinity.as_deref().filter(|own| !own.required.is_empty() || !own.forbidden.is_empty());
        if own.is_none() && forbidding.is_empty() {
            return Ok(PreFilter::skip());
        }
        let near = own.map(|own| Near::of(own, pod, view));
        Ok(PreFilter::check(move |node| {
            if let Some(near) = &near {
                near.check(node)?;
            }
            if forbidding.all(node).any(|amount| amount > 0) {
                return Err(Rejection::resolvable(FORBIDDEN));
            }
            Ok(())
        }))
    }
}

/// Where running pods forbid this one.
fn forbidding<'a>(pod: &PendingPod, view: View<'a>) -> Topology<'a> {
    let mut topology = Topology::default();
    if !view.any_forbidden() {
        return topology;
    }
    for node in view.nodes().filter(|node| node.with_forbidden > 0) {
        for affinity in node.pods.iter().filter_map(|other| other.affinity.as_deref()) {
            for term in affinity.forbidden.iter().filter(|term| term.matches(&pod.info, view.namespaces())) {
                topology.count(term, node, 1);
            }
        }
    }
    topology
}

/// Where the pods are that a new pod requires or forbids near it.
struct Near<'a> {
    own: &'a PodAffinity,
    required: Topology<'a>,
    forbidden: Topology<'a>,
    /// Whether no pod anywhere is as required, but the new one itself is: then it may be the first.
    may_be_first: bool,
}

impl<'a> Near<'a> {
    fn of(own: &'a PodAffinity, pod: &PendingPod, view: View<'a>) -> Self {
        let namespaces = view.namespaces();
        let (mut required, mut forbidden) = (Topology::default(), Topology::default());
        for node in view.nodes() {
            for other in &node.pods {
                if matches_all(&own.required, other, namespaces) {
                    own.required.iter().for_each(|term| required.count(term, node, 1));
                }
                for term in own.forbidden.iter().filter(|term| term.matches(other, namespaces)) {
                    forbidden.count(term, node, 1);
                }
            }
        }
        let may_be_first = required.is_empty() && matches_all(&own.required, &pod.info, namespaces);
        Near { own, required, forbidden, may_be_first }
    }

    fn check(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let has_label = |term: &AffinityTerm| node.labels.contains(&term.topology_key);
        let near = |term: &AffinityTerm| self.may_be_first || self.required.of_term(term, node) > 0;
        if !self.own.required.iter().all(|term| has_label(term) && near(term)) {
            return Err(Rejection::unresolvable(NOT_NEAR));
        }
        if self.own.forbidden.iter().any(|term| self.forbidden.of_term(term, node) > 0) {
            return Err(Rejection::resolvable(TOO_NEAR));
        }
        Ok(())
    }
}

fn matches_all(terms: &[AffinityTerm], pod: &PodInfo, namespaces: &Namespaces) -> bool {
    !terms.is_empty() && terms.iter().all(|term| term.matches(pod, namespaces))
}

impl ScorePlugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn pre_score<'a>(&self, pod: &'a PendingPod, view: View<'a>, _nodes: &[usize]) -> Option<Scorer<'a>> {
        let own = pod.info.affinity.as_deref().map(|own| own.preferred.as_slice()).unwrap_or_default();
        if own.is_empty() && !view.any_affinity() {
            return None;
        }
        let mut topology = Topology::default();
        for node in view.nodes().filter(|node| !own.is_empty() || node.with_affinity > 0) {
            for other in &node.pods {
                for (weight, term) in own.iter().filter(|(_, term)| term.matches(other, view.namespaces())) {
                    topology.count(term, node, *weight);
                }
                if let Some(affinity) = other.affinity.as_deref() {
                    count_existing(&mut topology, affinity, pod, node, view.namespaces());
                }
            }
        }
        if topology.is_empty() {
            return None;
        }
        let score = move |node: &NodeInfo| topology.all(node).sum();
        Some(Scorer { score: Box::new(score), normalize: from_least_to_most })
    }
}

fn count_existing<'a>(
    topology: &mut Topology<'a>,
    affinity: &'a PodAffinity,
    pod: &PendingPod,
    node: &'a NodeInfo,
    namespaces: &Namespaces,
) {
    for term in affinity.required.iter().filter(|term| term.matches(&pod.info, namespaces)) {
        topology.count(term, node, REQUIRED_WEIGHT);
    }
    for (weight, term) in affinity.preferred.iter().filter(|(_, term)| term.matches(&pod.info, namespaces)) {
        topology.count(term, node, *weight);
    }
}

fn from_least_to_most(scores: &mut [i64]) {
    let least = scores.iter().copied().min().unwrap_or(0);
    let range = scores.iter().copied().max().unwrap_or(0) - least;
    for score in scores {
        *score = if range > 0 { (*score - least) * MAX_SCORE / range } else { 0 };
    }
}
