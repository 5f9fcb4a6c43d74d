//! What may change in what makes pods.

use serde_json::{Map, Value};

use super::super::FieldError;
use super::super::at::At;
use crate::object::Object;

const FIXED: &str = "field is immutable";
const STATEFUL: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

/// A spec without some of its fields, and without what says nothing.
fn without(spec: &At<'_>, fields: &[&str]) -> Map<String, Value> {
    let all = spec.value.as_object().into_iter().flatten();
    all.filter(|(name, value)| {
        let empty = At { path: String::new(), value }.is_empty();
        !empty && !fields.contains(&name.as_str())
    })
    .map(|(name, value)| (name.clone(), value.clone()))
    .collect()
}

/// A StatefulSet keeps what its pods are bound by.
pub(in super::super) fn stateful_set(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let open = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let (spec, before) = (At::of(new, "spec"), At::of(old, "spec"));
    if without(&spec, &open) != without(&before, &open) {
        errors.push(spec.forbidden(STATEFUL));
    }
}

/// A Job keeps its work: completions but for indexed jobs that grow or shrink as a whole, its selector, its template
/// but for where suspended pods go, its mode and its policies.
pub(in super::super) fn job(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let (spec, before) = (At::of(new, "spec"), At::of(old, "spec"));
    let differs = |field: &str| spec.field(field).value != before.field(field).value;
    let elastic = spec.field("completionMode").text() == "Indexed"
        && spec.field("completions").is_set()
        && before.field("completions").is_set();
    if differs("completions") {
        let completions = spec.field("completions");
        if !elastic {
            errors.push(completions.invalid(FIXED));
        } else if spec.field("parallelism").value != completions.value {
            let detail = "can only be modified in tandem with spec.parallelism";
            errors.push(completions.invalid(detail));
        }
    }
    if template(&spec, &before, old) {
        errors.push(spec.field("template").invalid(FIXED));
    }
    for field in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        if differs(field) {
            errors.push(spec.field(field).invalid(FIXED));
        }
    }
}

/// Whether a Job's template changed in more than a suspended one's scheduling directives.
fn template(spec: &At<'_>, before: &At<'_>, old: &Object) -> bool {
    const PLACES: [&str; 4] = ["nodeSelector", "affinity", "tolerations", "schedulingGates"];
    let (new, was) = (spec.field("template"), before.field("template"));
    if new.value == was.value {
        return false;
    }
    let status = At::of(old, "status");
    let suspended = before.field("suspend").is_true() && !status.field("startTime").is_set();
    if !suspended {
        return true;
    }
    let settled = |template: &At<'_>| {
        let mut value = template.value.clone();
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("labels");
            metadata.remove("annotations");
            metadata.retain(|_, value| !value.is_null());
        }
        if let Some(fields) = value.get_mut("spec").and_then(Value::as_object_mut) {
            PLACES.iter().for_each(|field| drop(fields.remove(*field)));
            for list in ["containers", "initContainers"] {
                for it in fields.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    if let Some(container) = it.as_object_mut() {
                        container.remove("resources");
                    }
                }
            }
        }
        value
    };
    settled(&new) != settled(&was)
}

/// A revision never changes.
pub(in super::super) fn revision(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let (data, before) = (At::of(new, "data"), At::of(old, "data"));
    if data.value != before.value {
        errors.push(data.invalid(FIXED));
    }
}
