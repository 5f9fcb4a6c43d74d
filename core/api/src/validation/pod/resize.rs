//! What may change of the resources of a pod that runs.

use serde_json::{Map, Value};

use super::super::FieldError;
use super::super::at::At;
use super::super::rules;
use crate::object::Object;

/// The rules of a write through `resize`: CPU and memory of containers and of the pod as a whole, and nothing is taken away.
pub(in super::super) fn change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let (spec, before) = (At::of(new, "spec"), At::of(old, "spec"));
    let whole = |detail: &str| vec![FieldError::forbidden("", detail)];
    if old.annotation("kubernetes.io/config.mirror").is_some() {
        *errors = whole("static pods cannot be resized");
        return;
    }
    if before.field("os").field("name").text() == "windows" {
        *errors = whole("windows pods cannot be resized");
        return;
    }
    rules::newly(super::pod, new, old, errors);
    let class = old.get_str(&["status", "qosClass"]).unwrap_or_default();
    if class != crate::quality_of_service::quality_of_service(new) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid("spec", class, detail));
    }
    if !is_supported(old) {
        errors.push(spec.forbidden("Pod running on node without support for resize"));
    }
    removed(&spec.field("resources"), &before.field("resources"), errors);
    if without_compute(spec.value, before.value).get("resources") != before.value.get("resources") {
        errors.push(spec.forbidden("only cpu and memory resources are mutable"));
    }
    for list in ["initContainers", "containers"] {
        for (it, was) in spec.field(list).items().zip(before.field(list).items()) {
            let lasting = list == "containers" || was.field("restartPolicy").text() == "Always";
            if lasting {
                removed(&it.field("resources"), &was.field("resources"), errors);
                memory(&it, &was, errors);
            }
            if without_compute(it.value, was.value) == *was.value {
                continue;
            }
            let detail = match (list, lasting) {
                ("containers", _) => "only cpu and memory resources are mutable",
                (_, true) => "only cpu and memory resources for sidecar containers are mutable",
                (_, false) => "resources for non-sidecar init containers are immutable",
            };
            errors.push(spec.forbidden(detail));
        }
    }
}

/// Whether the node has said what its containers have got, where any of them runs.
fn is_supported(pod: &Object) -> bool {
    let statuses = At::of(pod, "status").field("containerStatuses");
    let mut running = statuses.items().filter(|it| it.field("state").field("running").is_set());
    running.next().is_none_or(|it| it.field("resources").is_set())
}

fn removed(new: &At<'_>, old: &At<'_>, errors: &mut Vec<FieldError>) {
    for (kind, text) in [("requests", "resource requests"), ("limits", "resource limits")] {
        let (now, was) = (new.field(kind), old.field(kind));
        if was.entries().any(|(name, _)| now.value.get(name).is_none()) {
            errors.push(now.forbidden(format!("{text} cannot be removed")));
        }
    }
}

/// A first limit of memory is one below what was there, which the container must take by beginning anew.
fn memory(new: &At<'_>, old: &At<'_>, errors: &mut Vec<FieldError>) {
    let limit = |it: &At<'_>| it.field("resources").field("limits").field("memory").is_set();
    let policies = new.field("resizePolicy");
    let restarts = policies.items().any(|policy| {
        policy.field("resourceName").text() == "memory"
            && policy.field("restartPolicy").text() == "RestartContainer"
    });
    if limit(new) && !limit(old) && !restarts {
        let path = format!("{}.resources.limits[memory]", new.path);
        let detail = "memory limits cannot be added unless resizePolicy is RestartContainer";
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// A container with the CPU and memory that it had before.
fn without_compute(new: &Value, old: &Value) -> Value {
    let mut container = new.clone();
    for kind in ["limits", "requests"] {
        let before = old.get("resources").and_then(|it| it.get(kind)).and_then(Value::as_object);
        let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else { break };
        let Some(before) = before else {
            resources.remove(kind);
            continue;
        };
        let entry = resources.entry(kind).or_insert_with(|| Value::Object(Map::new()));
        let Some(amounts) = entry.as_object_mut() else { continue };
        for name in ["cpu", "memory"] {
            amounts.remove(name);
            if let Some(amount) = before.get(name) {
                amounts.insert(name.to_owned(), amount.clone());
            }
        }
    }
    container
}
