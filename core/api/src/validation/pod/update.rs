//! What may change in a pod that exists: little.

use serde_json::{Map, Value};

use super::super::FieldError;
use super::super::at::At;
use crate::object::Object;

const FIXED: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// The rules of an update through the pod itself.
pub(in super::super) fn pod(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let (spec, before) = (At::of(new, "spec"), At::of(old, "spec"));
    for list in ["containers", "initContainers"] {
        if spec.field(list).items().count() != before.field(list).items().count() {
            errors.push(spec.field(list).forbidden("pod updates may not add or remove containers"));
            return;
        }
    }
    deadline(&spec, &before, errors);
    if tolerations(&spec, &before, errors) | gates(&spec, &before, errors) {
        return;
    }
    let gated = !before.field("schedulingGates").is_empty();
    if gated {
        narrower(&spec, &before, errors);
    }
    let (Value::Object(spec), Value::Object(before)) = (spec.value, before.value) else { return };
    let mut rest = spec.clone();
    settle(&mut rest, before, gated);
    if &rest != before {
        let detail = format!("{FIXED}\n{}", differences(before, &rest));
        errors.push(FieldError::forbidden("spec", detail));
    }
}

fn deadline(spec: &At<'_>, before: &At<'_>, errors: &mut Vec<FieldError>) {
    let (new, old) = (spec.field("activeDeadlineSeconds"), before.field("activeDeadlineSeconds"));
    match (old.number(), new.number()) {
        (Some(old), Some(now)) if now > old => {
            errors.push(new.invalid("must be less than or equal to previous value"));
        }
        (Some(_), None) => errors.push(new.invalid("must not update from a positive integer to nil value")),
        (Some(_) | None, _) => {}
    }
}

/// Tolerations are added; of an existing one only its time may change.
fn tolerations(spec: &At<'_>, before: &At<'_>, errors: &mut Vec<FieldError>) -> bool {
    let timeless = |value: &Value| {
        let mut value = value.clone();
        if let Some(fields) = value.as_object_mut() {
            fields.remove("tolerationSeconds");
        }
        value
    };
    let list = spec.field("tolerations");
    let new: Vec<Value> = list.items().map(|it| timeless(it.value)).collect();
    let lost = before.field("tolerations").items().any(|it| !new.contains(&timeless(it.value)));
    if lost {
        errors.push(list.forbidden("existing toleration can not be modified except its tolerationSeconds"));
    }
    lost
}

/// Scheduling gates only go.
fn gates(spec: &At<'_>, before: &At<'_>, errors: &mut Vec<FieldError>) -> bool {
    let list = spec.field("schedulingGates");
    let gates = before.field("schedulingGates");
    let old: Vec<&str> = gates.items().map(|it| it.field("name").text()).collect();
    let added: Vec<At<'_>> =
        list.items().map(|gate| gate.field("name")).filter(|name| !old.contains(&name.text())).collect();
    for name in &added {
        let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", name.text());
        errors.push(name.forbidden(detail));
    }
    !added.is_empty()
}

fn terms<'a>(spec: &At<'a>) -> At<'a> {
    let node = spec.field("affinity").field("nodeAffinity");
    node.field("requiredDuringSchedulingIgnoredDuringExecution").field("nodeSelectorTerms")
}

/// A gated pod may be steered to fewer nodes, not to others.
fn narrower(spec: &At<'_>, before: &At<'_>, errors: &mut Vec<FieldError>) {
    let (new, old) = (spec.field("nodeSelector"), before.field("nodeSelector"));
    if old.entries().any(|(key, value)| new.value.get(key) != Some(value.value)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(new.invalid(detail));
    }
    let (new, old) = (terms(spec), terms(before));
    if old.is_empty() {
        return;
    }
    if new.items().count() != old.items().count() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(new.invalid(detail));
        return;
    }
    for (now, was) in new.items().zip(old.items()) {
        let grows = ["matchExpressions", "matchFields"].iter().all(|list| {
            let (now, was) = (now.field(list), was.field(list));
            now.items().count() >= was.items().count()
                && now.items().zip(was.items()).all(|(now, was)| now.value == was.value)
        });
        if !grows || (was.is_empty() && !now.is_empty()) {
            errors.push(now.invalid("only additions are allowed (no mutations or deletions)"));
        }
    }
}

/// Takes the fields that may change from the old spec, so that what is left must be equal.
fn settle(rest: &mut Map<String, Value>, before: &Map<String, Value>, gated: bool) {
    let seconds =
        |spec: &Map<String, Value>| spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64);
    let shortened = seconds(before).is_some_and(|old| old < 0) && seconds(rest) == Some(1);
    let mut take = |field: &str| match before.get(field) {
        Some(value) => drop(rest.insert(field.to_owned(), value.clone())),
        None => drop(rest.remove(field)),
    };
    ["activeDeadlineSeconds", "tolerations", "schedulingGates"].into_iter().for_each(&mut take);
    // A pod that nobody looks at yet may be steered to fewer nodes.
    if gated {
        take("nodeSelector");
    }
    if shortened {
        take("terminationGracePeriodSeconds");
    }
    if gated {
        let own = |spec: &Map<String, Value>| spec.get("affinity")?.get("nodeAffinity").cloned();
        let (new, old) = (own(rest), own(before));
        if new != old {
            let affinity = rest.entry("affinity").or_insert_with(|| Value::Object(Map::new()));
            if let Some(fields) = affinity.as_object_mut() {
                match old {
                    Some(old) => drop(fields.insert("nodeAffinity".to_owned(), old)),
                    None => drop(fields.remove("nodeAffinity")),
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        let Some(Value::Array(old)) = before.get(list) else { continue };
        let Some(Value::Array(new)) = rest.get_mut(list) else { continue };
        for (new, old) in new.iter_mut().zip(old) {
            if let (Some(fields), Some(image)) = (new.as_object_mut(), old.get("image")) {
                fields.insert("image".to_owned(), image.clone());
            }
        }
    }
    // Nothing and an empty list or map are the same.
    let is_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    rest.retain(|field, value| before.contains_key(field) || !is_nothing(value));
    for (field, value) in before.iter().filter(|(_, value)| is_nothing(value)) {
        rest.entry(field.clone()).or_insert_with(|| value.clone());
    }
}

/// The fields that differ, a line each for before and after.
fn differences(before: &Map<String, Value>, after: &Map<String, Value>) -> String {
    let mut lines = Vec::new();
    let fields: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for field in fields {
        let (old, new) = (before.get(field), after.get(field));
        if old != new {
            lines.extend(old.map(|value| format!("- {field}: {value}")));
            lines.extend(new.map(|value| format!("+ {field}: {value}")));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn faults(old: Value, new: Value) -> Vec<String> {
        let object = |spec: Value| Object::from_value(json!({"spec": spec})).unwrap();
        let mut errors = Vec::new();
        pod(&object(new), &object(old), &mut errors);
        errors.iter().map(|error| error.to_string().lines().next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn images_and_added_tolerations_and_removed_gates_may_change_and_nothing_else() {
        let old = json!({"containers": [{"name": "a", "image": "x:1", "env": []}], "schedulingGates": [{"name": "g"}],
            "tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": 5}]});
        let mut new = old.clone();
        new["containers"][0]["image"] = "x:2".into();
        new["tolerations"][0]["tolerationSeconds"] = 7.into();
        new["tolerations"].as_array_mut().unwrap().push(json!({"key": "more", "operator": "Exists"}));
        new["schedulingGates"] = json!([]);
        new["nodeSelector"] = json!({"a": "b"});
        assert!(faults(old.clone(), new.clone()).is_empty());
        let mut ungated = old.clone();
        ungated.as_object_mut().unwrap().remove("schedulingGates");
        new.as_object_mut().unwrap().remove("schedulingGates");
        assert_eq!(faults(ungated, new), [format!("spec: Forbidden: {FIXED}")]);
        let mut fewer = old.clone();
        fewer["tolerations"] = json!([]);
        assert_eq!(
            faults(old.clone(), fewer),
            [
                "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"
            ]
        );
        let mut more = old.clone();
        more["containers"].as_array_mut().unwrap().push(json!({"name": "b"}));
        assert_eq!(
            faults(old, more),
            ["spec.containers: Forbidden: pod updates may not add or remove containers"]
        );
    }
}
