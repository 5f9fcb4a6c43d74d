//! Where a pod may run: gates, affinity, spread, tolerations.

use std::collections::HashSet;

use super::super::FieldError;
use super::super::at::At;
use super::super::selector::label_selector;
use crate::names;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const TWICE: &str = "exists in both matchLabelKeys and labelSelector";

pub(super) fn gates(at: &At<'_>, errors: &mut Vec<FieldError>) {
    for gate in at.field("readinessGates").items() {
        let kind = gate.field("conditionType");
        kind.or_empty_for(names::qualified_name(kind.text()), errors);
    }
    let mut seen = HashSet::new();
    for gate in at.field("schedulingGates").items() {
        let name = gate.field("name").text();
        let faults = names::qualified_name(name).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(gate.path.as_str(), name, fault)));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(gate.path, name));
        }
    }
}

/// A list of terms of which one must fit a node.
pub(in super::super) fn node_selector(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let terms = at.field("nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(terms.required("must have at least one node selector term"));
    }
    for term in terms.items() {
        node_term(&term, Values::Labels, errors);
    }
}

/// Whether what is compared with must be good as a label's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Labels,
    Anything,
}

fn node_term(term: &At<'_>, checked: Values, errors: &mut Vec<FieldError>) {
    for expression in term.field("matchExpressions").items() {
        let (operator, values) = (expression.field("operator"), expression.field("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => errors
                .push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'")),
            "Gt" | "Lt" if values.items().count() != 1 => {
                errors
                    .push(values.required("must be specified single value when `operator` is 'Lt' or 'Gt'"));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => errors.push(operator.invalid("not a valid selector operator")),
        }
        let key = expression.field("key");
        key.invalid_for(names::qualified_name(key.text()), errors);
        if checked == Values::Labels {
            values.items().for_each(|value| value.invalid_for(names::label_value(value.text()), errors));
        }
    }
    for expression in term.field("matchFields").items() {
        let (operator, values) = (expression.field("operator"), expression.field("values"));
        match operator.text() {
            "In" | "NotIn" if values.items().count() != 1 => {
                let detail =
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.push(values.required(detail));
            }
            "In" | "NotIn" => {}
            _ => errors.push(operator.invalid("not a valid selector operator")),
        }
        let key = expression.field("key");
        if key.text() == "metadata.name" {
            let good = |value: &At<'_>| names::dns1123_subdomain(value.text());
            values.items().for_each(|value| value.invalid_for(good(&value), errors));
        } else {
            errors.push(key.invalid("not a valid field selector key"));
        }
    }
}

fn weight(term: &At<'_>, errors: &mut Vec<FieldError>) {
    let weight = term.field("weight");
    if !weight.number().is_some_and(|weight| (1..=100).contains(&weight)) {
        errors.push(weight.or_zero("must be in the range 1-100"));
    }
}

pub(super) fn affinity(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let node = at.field("nodeAffinity");
    if node.field(REQUIRED).is_set() {
        node_selector(&node.field(REQUIRED), errors);
    }
    for preferred in node.field(PREFERRED).items() {
        weight(&preferred, errors);
        node_term(&preferred.field("preference"), Values::Anything, errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"].map(|kind| at.field(kind)) {
        for term in kind.field(REQUIRED).items() {
            pod_term(&term, errors);
        }
        for term in kind.field(PREFERRED).items() {
            weight(&term, errors);
            pod_term(&term.field("podAffinityTerm"), errors);
        }
    }
}

fn pod_term(term: &At<'_>, errors: &mut Vec<FieldError>) {
    let selector = term.field("labelSelector");
    label_selector(&selector, errors);
    label_selector(&term.field("namespaceSelector"), errors);
    for name in term.field("namespaces").items() {
        let faults = names::dns1123_label(name.text()).into_iter();
        let path = format!("{}.namespace", term.path);
        errors.extend(faults.map(|fault| FieldError::invalid(path.as_str(), name.text(), fault)));
    }
    label_keys(term, errors);
    let topology = term.field("topologyKey");
    if topology.is_empty() {
        errors.push(topology.required("can not be empty"));
    }
    topology.or_empty_for(names::qualified_name(topology.text()), errors);
}

pub(super) fn spread(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let list = at.field("topologySpreadConstraints");
    for (place, constraint) in list.items().enumerate() {
        let skew = constraint.field("maxSkew");
        if skew.number().is_none_or(|skew| skew <= 0) {
            errors.push(skew.or_zero("must be greater than zero"));
        }
        let (key, action) = (constraint.field("topologyKey"), constraint.field("whenUnsatisfiable"));
        if key.is_empty() {
            errors.push(key.required("can not be empty"));
        }
        let known = ["DoNotSchedule", "ScheduleAnyway"];
        if !known.contains(&action.text()) {
            errors.push(FieldError::not_supported(action.path.as_str(), action.text(), &known));
        }
        let pair = |it: &At<'_>| {
            format!("{{{}, {}}}", it.field("topologyKey").text(), it.field("whenUnsatisfiable").text())
        };
        if list.items().skip(place + 1).any(|later| pair(&later) == pair(&constraint)) {
            let path = format!("{}.{{topologyKey, whenUnsatisfiable}}", constraint.path);
            errors.push(FieldError::duplicate(path, pair(&constraint)));
        }
        let domains = constraint.field("minDomains");
        if domains.number().is_some_and(|number| number <= 0) {
            errors.push(domains.invalid("must be greater than zero"));
        }
        if domains.is_set() && action.text() != "DoNotSchedule" {
            let detail =
                format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}", action.text());
            errors.push(domains.invalid(detail));
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"].map(|field| constraint.field(field)) {
            if policy.is_set() && !matches!(policy.text(), "Honor" | "Ignore") {
                let known = ["Honor", "Ignore"];
                errors.push(FieldError::not_supported(policy.path, policy.value.clone(), &known));
            }
        }
        label_keys(&constraint, errors);
        label_selector(&constraint.field("labelSelector"), errors);
    }
}

/// Labels of the pod itself that a term or constraint names by their keys. A new pod's are in the selector already.
fn label_keys(term: &At<'_>, errors: &mut Vec<FieldError>) {
    let selector = term.field("labelSelector");
    let (same, other) = (term.field("matchLabelKeys"), term.field("mismatchLabelKeys"));
    for list in [&same, &other] {
        if !list.is_empty() && !selector.is_set() {
            errors.push(list.forbidden("must not be specified when labelSelector is not set"));
            continue;
        }
        list.items().for_each(|key| key.invalid_for(names::qualified_name(key.text()), errors));
    }
    let labels = selector.field("matchLabels");
    let mut seen: Vec<&str> = labels.entries().map(|(key, _)| key).collect();
    for expression in selector.field("matchExpressions").items() {
        let key = expression.field("key").text();
        if let Some(place) = same.items().position(|it| it.text() == key)
            && seen.contains(&key)
        {
            errors.push(FieldError::invalid(format!("{}[{place}]", term.path), key, TWICE));
        }
        seen.push(key);
    }
    for key in same.items().filter(|key| other.items().any(|other| other.text() == key.text())) {
        errors.push(key.invalid("exists in both matchLabelKeys and mismatchLabelKeys"));
    }
}

pub(in super::super) fn tolerations(list: &At<'_>, errors: &mut Vec<FieldError>) {
    for it in list.items() {
        let (key, operator, effect) = (it.field("key"), it.field("operator"), it.field("effect"));
        let value = it.field("value");
        let fault = |value: &At<'_>, detail: String| {
            FieldError::invalid(operator.path.as_str(), value.text(), detail)
        };
        if !key.is_empty() {
            key.invalid_for(names::qualified_name(key.text()), errors);
        } else if operator.text() != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(fault(&operator, detail.into()));
        }
        if it.field("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(effect.path.as_str(), effect.text(), detail));
        }
        match operator.text() {
            "" | "Equal" => {
                let faults = names::label_value(value.text());
                if !faults.is_empty() {
                    errors.push(fault(&value, faults.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.push(fault(&value, "value must be empty when `operator` is 'Exists'".into()));
            }
            "Exists" => {}
            _ => errors.push(FieldError::not_supported(
                operator.path.as_str(),
                operator.text(),
                &["Equal", "Exists"],
            )),
        }
        if !effect.is_empty() {
            effect.one_of(&["NoSchedule", "PreferNoSchedule", "NoExecute"], errors);
        }
    }
}

impl At<'_> {
    /// A fault of a number that counts as zero where it is missing.
    pub(in super::super) fn or_zero(&self, detail: impl Into<String>) -> FieldError {
        match self.number() {
            None if !self.is_set() => FieldError::invalid(self.path.as_str(), 0, detail),
            Some(_) | None => self.invalid(detail),
        }
    }

    /// Faults of a text that counts as empty where it is missing.
    pub(in super::super) fn or_empty_for(&self, faults: Vec<String>, errors: &mut Vec<FieldError>) {
        let faults = faults.into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(self.path.as_str(), self.text(), fault)));
    }
}
