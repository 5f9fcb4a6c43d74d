//! Selectors, read once and matched often: label selectors, and the node selectors of affinities.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use crate::labels::Labels;

/// One condition on a key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(Box<str>, Vec<Box<str>>),
    NotIn(Box<str>, Vec<Box<str>>),
    Exists(Box<str>),
    Absent(Box<str>),
    Above(Box<str>, i64),
    Below(Box<str>, i64),
}

/// Selects by labels. One that is missing, or that has an operator nobody knows, selects nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSelector(Option<Vec<Requirement>>);

/// A `nodeSelector` together with the terms of a node affinity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSelector {
    terms: Vec<NodeSelectorTerm>,
}

/// All of its conditions must hold. One that is empty, or that has an unknown operator, matches no node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSelectorTerm(Option<TermConditions>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct TermConditions {
    labels: Vec<Requirement>,
    name_in: Vec<Vec<Box<str>>>,
    name_not_in: Vec<Vec<Box<str>>>,
}

fn boxed(values: &[String]) -> Vec<Box<str>> {
    values.iter().map(|value| value.as_str().into()).collect()
}

impl Requirement {
    fn read(key: &str, operator: &str, values: Option<&Vec<String>>) -> Option<Self> {
        let key = key.into();
        let values = values.map(Vec::as_slice).unwrap_or_default();
        let number = || values.first().and_then(|value| value.parse().ok());
        Some(match operator {
            "In" => Requirement::In(key, boxed(values)),
            "NotIn" => Requirement::NotIn(key, boxed(values)),
            "Exists" => Requirement::Exists(key),
            "DoesNotExist" => Requirement::Absent(key),
            "Gt" => Requirement::Above(key, number()?),
            "Lt" => Requirement::Below(key, number()?),
            _ => return None,
        })
    }

    fn matches(&self, labels: &Labels) -> bool {
        let known = |values: &[Box<str>], value: &str| values.iter().any(|known| **known == *value);
        let number = |key: &str| labels.get(key).and_then(|value| value.parse::<i64>().ok());
        match self {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| known(values, value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !known(values, value)),
            Requirement::Exists(key) => labels.contains(key),
            Requirement::Absent(key) => !labels.contains(key),
            Requirement::Above(key, bound) => number(key).is_some_and(|value| value > *bound),
            Requirement::Below(key, bound) => number(key).is_some_and(|value| value < *bound),
        }
    }
}

fn equalities(map: Option<&BTreeMap<String, String>>) -> Vec<Requirement> {
    map.into_iter()
        .flatten()
        .map(|(key, value)| Requirement::In(key.as_str().into(), vec![value.as_str().into()]))
        .collect()
}

impl LabelSelector {
    /// Reads a selector.
    pub fn read(selector: Option<&meta::LabelSelector>) -> Self {
        LabelSelector(selector.and_then(|selector| {
            let mut all = equalities(selector.match_labels.as_ref());
            for expression in selector.match_expressions.iter().flatten() {
                all.push(Requirement::read(
                    &expression.key,
                    &expression.operator,
                    expression.values.as_ref(),
                )?);
            }
            Some(all)
        }))
    }

    /// Narrows it to the values that `labels` has for `keys`; keys that are not there are left out.
    pub fn with_values_of(mut self, keys: Option<&Vec<String>>, labels: &Labels) -> Self {
        self.narrow(keys, labels, Requirement::In);
        self
    }

    /// Narrows it to other values than `labels` has for `keys`; keys that are not there are left out.
    pub fn without_values_of(mut self, keys: Option<&Vec<String>>, labels: &Labels) -> Self {
        self.narrow(keys, labels, Requirement::NotIn);
        self
    }

    fn narrow(
        &mut self,
        keys: Option<&Vec<String>>,
        labels: &Labels,
        make: fn(Box<str>, Vec<Box<str>>) -> Requirement,
    ) {
        let Some(all) = &mut self.0 else { return };
        for key in keys.into_iter().flatten() {
            if let Some(value) = labels.get(key) {
                all.push(make(key.as_str().into(), vec![value.into()]));
            }
        }
    }

    /// Whether all conditions hold.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.as_ref().is_some_and(|all| all.iter().all(|requirement| requirement.matches(labels)))
    }
}

impl NodeSelectorTerm {
    /// Reads a term.
    pub fn read(term: &core::NodeSelectorTerm) -> Self {
        let expressions = term.match_expressions.iter().flatten();
        let fields = term.match_fields.iter().flatten();
        let mut conditions =
            TermConditions { labels: Vec::new(), name_in: Vec::new(), name_not_in: Vec::new() };
        for it in expressions {
            match Requirement::read(&it.key, &it.operator, it.values.as_ref()) {
                Some(requirement) => conditions.labels.push(requirement),
                None => return NodeSelectorTerm(None),
            }
        }
        for it in fields {
            let values = boxed(it.values.as_deref().unwrap_or_default());
            match (it.key.as_str(), it.operator.as_str()) {
                ("metadata.name", "In") => conditions.name_in.push(values),
                ("metadata.name", "NotIn") => conditions.name_not_in.push(values),
                (_, _) => return NodeSelectorTerm(None),
            }
        }
        let empty = conditions.labels.is_empty()
            && conditions.name_in.is_empty()
            && conditions.name_not_in.is_empty();
        NodeSelectorTerm((!empty).then_some(conditions))
    }

    /// Whether the node fulfils all of its conditions.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        let named = |names: &Vec<Box<str>>| names.iter().any(|it| **it == *name);
        self.0.as_ref().is_some_and(|conditions| {
            conditions.name_in.iter().all(named)
                && !conditions.name_not_in.iter().any(named)
                && conditions.labels.iter().all(|requirement| requirement.matches(labels))
        })
    }

    /// The only nodes that can match, where the term names them; `None` where any might.
    fn names(&self) -> Option<Vec<&str>> {
        let Some(conditions) = &self.0 else { return Some(Vec::new()) };
        let (first, rest) = conditions.name_in.split_first()?;
        let everywhere = |name: &&str| rest.iter().all(|names| names.iter().any(|it| **it == **name));
        Some(first.iter().map(|name| &**name).filter(everywhere).collect())
    }
}

impl NodeSelector {
    /// Reads a node selector; one of its terms must match.
    pub fn read(selector: &core::NodeSelector) -> Self {
        NodeSelector { terms: selector.node_selector_terms.iter().map(NodeSelectorTerm::read).collect() }
    }

    /// Whether a term matches.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.terms.iter().any(|term| term.matches(name, labels))
    }

    /// The only nodes that can match, where every term names them; `None` where any might.
    pub fn names(&self) -> Option<Vec<&str>> {
        let mut all = Vec::new();
        for term in &self.terms {
            all.extend(term.names()?);
        }
        all.sort_unstable();
        all.dedup();
        Some(all)
    }
}

/// What a pod demands of its node by labels: all of a `nodeSelector`, and a term of the required affinity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequiredNodeAffinity {
    equalities: Vec<Requirement>,
    selector: Option<NodeSelector>,
}

impl RequiredNodeAffinity {
    /// Reads what a pod demands.
    pub fn read(spec: &core::PodSpec) -> Self {
        let selector = spec
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref())
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())
            .map(NodeSelector::read);
        RequiredNodeAffinity { equalities: equalities(spec.node_selector.as_ref()), selector }
    }

    /// Whether the pod demands nothing.
    pub fn is_empty(&self) -> bool {
        self.equalities.is_empty() && self.selector.is_none()
    }

    /// Whether the node has what the pod demands.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.equalities.iter().all(|requirement| requirement.matches(labels))
            && self.selector.as_ref().is_none_or(|selector| selector.matches(name, labels))
    }

    /// The only nodes that can match, where the affinity names them; `None` where any might.
    pub fn names(&self) -> Option<Vec<&str>> {
        self.selector.as_ref().and_then(NodeSelector::names)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn selector(value: Value) -> LabelSelector {
        LabelSelector::read(Some(&from_value(value).unwrap()))
    }

    fn term(value: Value) -> NodeSelectorTerm {
        NodeSelectorTerm::read(&from_value(value).unwrap())
    }

    #[test]
    fn a_missing_selector_selects_nothing_and_an_empty_one_all() {
        let labels = Labels::from([("a", "1")]);
        assert!(!LabelSelector::read(None).matches(&labels));
        assert!(selector(json!({})).matches(&labels));
    }

    #[test]
    fn not_in_holds_for_an_absent_key() {
        let selector =
            selector(json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}));
        assert!(selector.matches(&Labels::default()));
        assert!(!selector.matches(&Labels::from([("a", "1")])));
        assert!(selector.matches(&Labels::from([("a", "2")])));
    }

    #[test]
    fn an_unknown_operator_selects_nothing() {
        let selector = selector(json!({"matchExpressions": [{"key": "a", "operator": "Like"}]}));
        assert!(!selector.matches(&Labels::from([("a", "1")])));
    }

    #[test]
    fn node_terms_compare_numbers_and_names() {
        let labels = Labels::from([("cores", "8")]);
        let above = |bound: &str| {
            term(json!({"matchExpressions": [{"key": "cores", "operator": "Gt", "values": [bound]}]}))
                .matches("n", &labels)
        };
        assert!(above("7"));
        assert!(!above("8"));
        assert!(!above("many"));
        let named =
            term(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}));
        assert!(named.matches("n", &labels));
        assert!(!named.matches("m", &labels));
        assert!(!term(json!({})).matches("n", &labels));
    }

    #[test]
    fn a_selector_names_its_nodes_only_where_every_term_does() {
        let field =
            json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b", "a"]}]});
        let label = json!({"matchExpressions": [{"key": "x", "operator": "Exists"}]});
        let read =
            |terms: Value| NodeSelector::read(&from_value(json!({"nodeSelectorTerms": terms})).unwrap());
        assert_eq!(read(json!([field])).names(), Some(vec!["a", "b"]));
        assert_eq!(read(json!([field, label])).names(), None);
    }
}
