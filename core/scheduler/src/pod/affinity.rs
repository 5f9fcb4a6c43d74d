//! A pod's affinity to other pods.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::PodInfo;
use crate::labels::Labels;
use crate::names::NamespaceName;
use crate::selector::LabelSelector;

/// The terms of a pod's affinity and anti-affinity to other pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodAffinity {
    /// There must be such pods in the same topology domain.
    pub required: Vec<AffinityTerm>,
    /// There must be no such pod in the same topology domain.
    pub forbidden: Vec<AffinityTerm>,
    /// Such pods are liked, by weight; of the disliked ones the weight is negative.
    pub preferred: Vec<(i64, AffinityTerm)>,
}

/// Pods, and the extent to which they are near.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AffinityTerm {
    namespaces: Vec<NamespaceName>,
    namespace_selector: Option<LabelSelector>,
    selector: LabelSelector,
    /// The node label whose value says what is near.
    pub topology_key: Arc<str>,
}

/// The labels of the cluster's namespaces.
pub type Namespaces = HashMap<NamespaceName, Labels>;

impl AffinityTerm {
    fn read(term: &core::PodAffinityTerm, namespace: &str, labels: &Labels) -> Self {
        let mut namespaces: Vec<NamespaceName> =
            term.namespaces.iter().flatten().map(|name| NamespaceName::new(name)).collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(NamespaceName::new(namespace));
        }
        AffinityTerm {
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(|it| LabelSelector::read(Some(it))),
            selector: LabelSelector::read(term.label_selector.as_ref())
                .with_values_of(term.match_label_keys.as_ref(), labels)
                .without_values_of(term.mismatch_label_keys.as_ref(), labels),
            topology_key: term.topology_key.as_str().into(),
        }
    }

    /// Whether the term means this pod.
    pub fn matches(&self, pod: &PodInfo, namespaces: &Namespaces) -> bool {
        let in_namespace = || {
            let name = &pod.name.namespace;
            self.namespaces.contains(name)
                || self.namespace_selector.as_ref().is_some_and(|selector| match namespaces.get(name) {
                    Some(labels) => selector.matches(labels),
                    None => false,
                })
        };
        in_namespace() && self.selector.matches(&pod.labels)
    }
}

impl PodAffinity {
    /// Reads the affinities of a pod in `namespace` with `labels`; `None` where it has none.
    pub fn read(spec: &core::PodSpec, namespace: &str, labels: &Labels) -> Option<Self> {
        let affinity = spec.affinity.as_ref()?;
        let read = |term: &core::PodAffinityTerm| AffinityTerm::read(term, namespace, labels);
        let weighted = |sign: i64, term: &core::WeightedPodAffinityTerm| {
            (sign * i64::from(term.weight), read(&term.pod_affinity_term))
        };
        let mut all = PodAffinity::default();
        if let Some(near) = &affinity.pod_affinity {
            let required = near.required_during_scheduling_ignored_during_execution.iter().flatten();
            let preferred = near.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            all.required.extend(required.map(read));
            all.preferred.extend(preferred.map(|term| weighted(1, term)));
        }
        if let Some(far) = &affinity.pod_anti_affinity {
            let required = far.required_during_scheduling_ignored_during_execution.iter().flatten();
            let preferred = far.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            all.forbidden.extend(required.map(read));
            all.preferred.extend(preferred.map(|term| weighted(-1, term)));
        }
        let empty = all.required.is_empty() && all.forbidden.is_empty() && all.preferred.is_empty();
        (!empty).then_some(all)
    }
}
