//! Why no node can take a pod, in upstream's words.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::framework::{PluginSet, Rejection};

/// The text for a cluster without nodes.
pub(crate) const NO_NODES: &str = "no nodes available to schedule pods";

/// What each node had against a pod; shown as `0/3 nodes are available: 1 Insufficient cpu, 2 …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FitError {
    /// How many nodes there are.
    pub nodes: usize,
    /// What refused them.
    pub rejected: Rejected,
    /// The filter plugins that did.
    pub refused_by: PluginSet,
    /// What came of the attempt to make room.
    pub preemption: Option<String>,
}

/// What refused the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// The pod was refused before a node was looked at.
    All(Rejection),
    /// Each node was refused.
    Each {
        /// By position of the node.
        nodes: Vec<(usize, Rejection)>,
        /// What stands against the nodes that were not looked at.
        others: Option<String>,
    },
}

impl FitError {
    /// The pod was refused before a node was looked at.
    pub(super) fn of_all_nodes(nodes: usize, plugin: usize, rejection: Rejection) -> Self {
        let mut refused_by = PluginSet::default();
        refused_by.insert(plugin);
        FitError { nodes, rejected: Rejected::All(rejection), refused_by, preemption: None }
    }

    /// Each node was refused, or was not among those that some plugins allow.
    pub(super) fn of_nodes(
        total: usize,
        nodes: Vec<(usize, Rejection)>,
        refused_by: PluginSet,
        narrowed_by: Option<&[&'static str]>,
    ) -> Self {
        let others =
            narrowed_by.map(|plugins| format!("node(s) didn't satisfy plugin(s) [{}]", plugins.join(" ")));
        FitError { nodes: total, rejected: Rejected::Each { nodes, others }, refused_by, preemption: None }
    }

    /// The nodes where it could help if other pods left.
    pub(super) fn resolvable(&self) -> impl Iterator<Item = usize> {
        let nodes = match &self.rejected {
            Rejected::All(_) => [].as_slice(),
            Rejected::Each { nodes, .. } => nodes.as_slice(),
        };
        nodes.iter().filter(|(_, rejection)| rejection.resolvable).map(|(at, _)| *at)
    }

    fn reasons(&self) -> Vec<String> {
        let (nodes, others) = match &self.rejected {
            Rejected::All(rejection) => return vec![rejection.reasons.join(", ")],
            Rejected::Each { nodes, others } => (nodes, others),
        };
        let mut counts: BTreeMap<Cow<'_, str>, usize> = BTreeMap::new();
        for reason in nodes.iter().flat_map(|(_, rejection)| &rejection.reasons) {
            *counts.entry(Cow::Borrowed(reason)).or_insert(0) += 1;
        }
        let rest = self.nodes.saturating_sub(nodes.len());
        if let Some(reason) = others
            && rest > 0
        {
            *counts.entry(Cow::Borrowed(reason)).or_insert(0) += rest;
        }
        let mut texts: Vec<String> =
            counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        texts.sort();
        texts
    }
}

impl fmt::Display for FitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0/{} nodes are available:", self.nodes)?;
        let reasons = self.reasons();
        if !reasons.is_empty() {
            write!(f, " {}.", reasons.join(", "))?;
        }
        match &self.preemption {
            Some(text) => write!(f, " {text}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_and_sorted() {
        let cpu = Rejection::resolvable("Insufficient cpu");
        let both = Rejection {
            reasons: vec!["Insufficient cpu".into(), "Insufficient memory".into()],
            resolvable: true,
        };
        let taint = Rejection::unresolvable("node(s) had untolerated taint(s)");
        let nodes = vec![(0, cpu), (1, both), (2, taint)];
        let error = FitError::of_nodes(3, nodes, PluginSet::default(), None);
        assert_eq!(
            error.to_string(),
            "0/3 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint(s), \
             2 Insufficient cpu."
        );
        assert_eq!(error.resolvable().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn nodes_that_a_plugin_left_out_are_counted_too() {
        let nodes = vec![(0, Rejection::resolvable("Insufficient cpu"))];
        let error = FitError::of_nodes(3, nodes, PluginSet::default(), Some(&["NodeAffinity"]));
        assert_eq!(
            error.to_string(),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
        );
    }

    #[test]
    fn a_pod_refused_as_such_says_why_without_counting() {
        let rejection = Rejection::unresolvable("persistentvolumeclaim \"data\" not found");
        let error = FitError::of_all_nodes(2, 0, rejection);
        assert_eq!(error.to_string(), "0/2 nodes are available: persistentvolumeclaim \"data\" not found.");
    }
}
