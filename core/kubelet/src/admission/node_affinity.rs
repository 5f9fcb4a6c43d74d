//! (pure) Whether a pod wants to be on this node, by its labels, and bears its taints.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};

type Labels = BTreeMap<String, String>;

fn holds(one: &NodeSelectorRequirement, labels: &Labels) -> bool {
    let value = labels.get(&one.key);
    let listed = |value: &String| one.values.iter().flatten().any(|known| known == value);
    let number = |text: &String| text.parse::<i64>().ok();
    let bound = one.values.iter().flatten().next().and_then(number);
    match one.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value > bound),
        "Lt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value < bound),
        // The API admits no other.
        _ => false,
    }
}

/// A term without conditions holds nowhere.
fn fits(term: &NodeSelectorTerm, node: &Labels, labels: &Labels) -> bool {
    let mut expressions = term.match_expressions.iter().flatten().peekable();
    let mut fields = term.match_fields.iter().flatten().peekable();
    let empty = expressions.peek().is_none() && fields.peek().is_none();
    !empty && expressions.all(|one| holds(one, labels)) && fields.all(|one| holds(one, node))
}

/// Whether the node of this name, with these labels, is one that the pod may be on.
pub(super) fn selects(spec: &PodSpec, node: &str, labels: &Labels) -> bool {
    let mut plain = spec.node_selector.iter().flatten();
    if !plain.all(|(key, value)| labels.get(key) == Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
    let Some(required) = required else { return true };
    let name = BTreeMap::from([("metadata.name".to_owned(), node.to_owned())]);
    required.node_selector_terms.iter().any(|term| fits(term, &name, labels))
}

/// Whether a toleration tolerates a taint, by what most of them say: key, value, effect.
pub(super) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    let (own, theirs) = (text(&toleration.value), text(&taint.value));
    let numbers = || own.parse::<i64>().ok().zip(theirs.parse::<i64>().ok());
    let fits = match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => own == theirs,
        Some("Gt") => numbers().is_some_and(|(bound, value)| value > bound),
        Some("Lt") => numbers().is_some_and(|(bound, value)| value < bound),
        Some(_) => false,
    };
    fits && (key.is_empty() || key == taint.key) && (effect.is_empty() || effect == taint.effect)
}

/// Whether the pod bears all taints for which pods have to leave.
pub(super) fn bears(spec: &PodSpec, taints: &[Taint]) -> bool {
    let mut serious = taints.iter().filter(|taint| taint.effect == "NoExecute");
    serious.all(|taint| spec.tolerations.iter().flatten().any(|one| tolerates(one, taint)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn spec(fields: &Value) -> PodSpec {
        let mut spec = json!({ "containers": [] });
        for (key, value) in fields.as_object().unwrap() {
            spec[key] = value.clone();
        }
        from_value(spec).unwrap()
    }

    #[test]
    fn a_pod_is_where_its_selector_and_one_of_its_terms_hold() {
        let labels =
            BTreeMap::from([("disk".to_owned(), "ssd".to_owned()), ("size".to_owned(), "7".to_owned())]);
        let affinity = |terms: Value| {
            spec(&json!({ "affinity": { "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } } } }))
        };
        let one = |key: &str, operator: &str, values: Value| json!([{ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] }]);
        let cases = [
            (spec(&json!({})), true),
            (spec(&json!({ "nodeSelector": { "disk": "ssd" } })), true),
            (spec(&json!({ "nodeSelector": { "disk": "hdd" } })), false),
            (affinity(one("disk", "In", json!(["hdd", "ssd"]))), true),
            (affinity(one("disk", "NotIn", json!(["ssd"]))), false),
            (affinity(one("gpu", "DoesNotExist", json!([]))), true),
            (affinity(one("size", "Gt", json!(["6"]))), true),
            (affinity(one("size", "Lt", json!(["7"]))), false),
            (affinity(json!([{}])), false),
            (
                affinity(
                    json!([{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["n"] }] }]),
                ),
                true,
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(selects(&spec, "n", &labels), expected, "{spec:?}");
        }
    }

    #[test]
    fn only_taints_for_which_pods_have_to_leave_count() {
        let taints = |effect: &str| -> Vec<Taint> {
            from_value(json!([{ "key": "k", "value": "v", "effect": effect }])).unwrap()
        };
        let tolerant = spec(&json!({ "tolerations": [{ "key": "k", "value": "v", "effect": "NoExecute" }] }));
        assert!(bears(&spec(&json!({})), &taints("NoSchedule")));
        assert!(!bears(&spec(&json!({})), &taints("NoExecute")));
        assert!(bears(&tolerant, &taints("NoExecute")));
        assert!(bears(&spec(&json!({ "tolerations": [{ "operator": "Exists" }] })), &taints("NoExecute")));
    }
}
