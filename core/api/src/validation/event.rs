//! Events. The version that is asked for decides how strict the rules are: `v1` is lenient, `events.k8s.io/v1` is not.

use serde_json::Value;

use super::{ErrorKind, FieldError};
use crate::names;
use crate::object::Object;

/// A `v1` Event, or the stored form of either.
pub(super) fn core(event: &Object, errors: &mut Vec<FieldError>) {
    let own = event.namespace().unwrap_or("");
    let about = event.get_str(&["involvedObject", "namespace"]).unwrap_or("");
    let fits = if about.is_empty() { matches!(own, "default" | "kube-system") } else { about == own };
    if !fits {
        errors.push(FieldError::invalid("involvedObject.namespace", about, "does not match event.namespace"));
    }
}

/// A new `events.k8s.io/v1` Event.
pub(super) fn create(event: &Object, errors: &mut Vec<FieldError>) {
    let text = |field: &str| event.get_str(&[field]).unwrap_or("");
    if text("eventTime").is_empty() {
        errors.push(FieldError::required("eventTime", ""));
    }
    match text("reportingController") {
        "" => errors.push(FieldError::required("reportingController", "")),
        name => errors.extend(
            names::qualified_name(name)
                .into_iter()
                .map(|fault| FieldError::invalid("reportingController", name, fault)),
        ),
    }
    for (field, limit) in [("reportingInstance", 128), ("action", 128), ("reason", 128)] {
        match text(field) {
            "" => errors.push(FieldError::required(field, "")),
            long if long.len() > limit => {
                let detail = format!("can have at most {limit} characters");
                errors.push(FieldError::invalid(field, "", detail));
            }
            _ => {}
        }
    }
    if text("note").len() > 1024 {
        errors.push(FieldError::invalid("note", "", "can have at most 1024 characters"));
    }
    if !matches!(text("type"), "Normal" | "Warning") {
        let detail = format!("has invalid value: {}", text("type"));
        errors.push(FieldError { path: "type".into(), kind: ErrorKind::Invalid, value: "".into(), detail });
    }
    for field in ["deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedCount"] {
        if event.get(&[field]).is_some_and(|value| !matches!(value, Value::Null) && value != 0) {
            errors.push(FieldError::invalid(field, "", "needs to be unset"));
        }
    }
}
