//! A pod's topology spread constraints.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::PendingPod;
use crate::labels::Labels;
use crate::node::NodeInfo;
use crate::selector::LabelSelector;
use crate::taint::tolerated;

/// How evenly pods are to be spread over the values of a node label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpreadConstraint {
    /// How many more pods than the emptiest domain another may have.
    pub max_skew: i64,
    /// The node label whose values are the domains.
    pub topology_key: Arc<str>,
    /// Whether a node that breaks it is refused, or only liked less.
    pub required: bool,
    /// With fewer domains than this, the emptiest counts as empty.
    pub min_domains: usize,
    /// Which pods are counted.
    pub selector: LabelSelector,
    honor_affinity: bool,
    honor_taints: bool,
}

impl SpreadConstraint {
    /// Reads a constraint of a pod with `labels`.
    pub fn read(constraint: &core::TopologySpreadConstraint, labels: &Labels) -> Self {
        SpreadConstraint {
            max_skew: i64::from(constraint.max_skew),
            topology_key: constraint.topology_key.as_str().into(),
            required: constraint.when_unsatisfiable == "DoNotSchedule",
            min_domains: constraint.min_domains.and_then(|it| usize::try_from(it).ok()).unwrap_or(1),
            selector: LabelSelector::read(constraint.label_selector.as_ref())
                .with_values_of(constraint.match_label_keys.as_ref(), labels),
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// Whether the node is among those over which the pod is spread.
    pub fn includes(&self, pod: &PendingPod, node: &NodeInfo) -> bool {
        let admitted = || {
            let mut forbidding = node.taints.iter().filter(|taint| taint.effect.forbids());
            forbidding.all(|taint| tolerated(taint, &pod.tolerations))
        };
        (!self.honor_affinity || pod.required_nodes.matches(node.name.as_str(), &node.labels))
            && (!self.honor_taints || admitted())
    }

    /// How many pods on the node it counts.
    pub fn count(&self, pod: &PendingPod, node: &NodeInfo) -> i64 {
        let counted = node.pods.iter().filter(|other| {
            !other.deleting
                && other.name.namespace == pod.info.name.namespace
                && self.selector.matches(&other.labels)
        });
        i64::try_from(counted.count()).unwrap_or(i64::MAX)
    }
}
