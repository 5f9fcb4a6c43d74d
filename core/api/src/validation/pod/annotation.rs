//! Annotations of pods that mean something: times before their fields had them, or a kubelet or a controller reads them.

use serde_json::Value;

use super::super::FieldError;
use super::super::at::At;
use super::container::local_path;
use super::scheduling;
use super::security::containers;
use crate::object::Object;

const MIRROR: &str = "kubernetes.io/config.mirror";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The annotations of a pod or of a template of pods.
pub(super) fn all(annotations: &At<'_>, spec: &At<'_>, errors: &mut Vec<FieldError>) {
    for (key, at) in annotations.entries() {
        one(key, &at, annotations, spec, errors);
    }
}

fn one(key: &str, at: &At<'_>, all: &At<'_>, spec: &At<'_>, errors: &mut Vec<FieldError>) {
    match key {
        MIRROR if spec.field("nodeName").is_empty() => {
            errors.push(at.invalid("must set spec.nodeName if mirror pod annotation is set"));
        }
        TOLERATIONS if !at.is_empty() => tolerations(at, all, errors),
        DELETION_COST if !is_cost(at.text()) => errors.push(at.invalid("must be a 32bit integer")),
        SECCOMP => seccomp(at, errors),
        _ if key.starts_with(SECCOMP_OF_CONTAINER) => seccomp(at, errors),
        _ => {
            if let Some(container) = key.strip_prefix(APP_ARMOR) {
                app_armor(at, container, spec, errors);
            }
        }
    }
}

fn tolerations(at: &At<'_>, all: &At<'_>, errors: &mut Vec<FieldError>) {
    match serde_json::from_str::<Value>(at.text()) {
        Ok(Value::Null) => {}
        Ok(list @ Value::Array(_)) => {
            scheduling::tolerations(
                &At { path: format!("{}.{TOLERATIONS}", all.path), value: &list },
                errors,
            );
        }
        Ok(_) => {
            errors.push(FieldError::invalid(all.path.as_str(), TOLERATIONS, "must be a list of tolerations"))
        }
        Err(error) => errors.push(FieldError::invalid(all.path.as_str(), TOLERATIONS, error.to_string())),
    }
}

/// What it costs to delete a pod before others: a number in its plain form.
fn is_cost(text: &str) -> bool {
    let plain = text == "0" || !text.trim_start_matches('-').starts_with('0');
    plain && !text.starts_with('+') && text.parse::<i32>().is_ok()
}

fn seccomp(at: &At<'_>, errors: &mut Vec<FieldError>) {
    match at.text() {
        "runtime/default" | "docker/default" | "unconfined" => {}
        text => match text.strip_prefix("localhost/") {
            Some(file) => local_path(&At { path: at.path.clone(), value: &file.into() }, errors),
            None => errors.push(at.invalid("must be a valid seccomp profile")),
        },
    }
}

fn app_armor(at: &At<'_>, container: &str, spec: &At<'_>, errors: &mut Vec<FieldError>) {
    if !containers(spec).any(|it| it.field("name").text() == container) {
        errors.push(FieldError::invalid(at.path.as_str(), container, "container not found"));
    }
    let text = at.text();
    if !matches!(text, "" | "runtime/default" | "unconfined") && !text.starts_with("localhost/") {
        errors.push(at.invalid(format!("invalid AppArmor profile name: {text:?}")));
    }
}

/// What may change of a pod's annotations, by whatever path: what others read once stays, and what is new is good.
pub(in super::super) fn change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let of = |object| At {
        path: "metadata.annotations".to_owned(),
        ..At::of(object, "metadata").field("annotations")
    };
    let (now, before) = (of(new), of(old));
    for (key, at) in before.entries() {
        if now.value.get(key) == Some(at.value) {
            continue;
        }
        if key.starts_with(APP_ARMOR) {
            errors.push(at.forbidden("may not remove or update AppArmor annotations"));
        } else if key == MIRROR {
            errors.push(at.forbidden("may not remove or update mirror pod annotation"));
        }
    }
    let spec = At::of(new, "spec");
    for (key, at) in now.entries().filter(|(key, at)| before.value.get(*key) != Some(at.value)) {
        if before.value.get(key).is_none() && key.starts_with(APP_ARMOR) {
            errors.push(at.forbidden("may not add AppArmor annotations"));
        } else if before.value.get(key).is_none() && key == MIRROR {
            errors.push(at.forbidden("may not add mirror pod annotation"));
        }
        one(key, &at, &now, &spec, errors);
    }
}
