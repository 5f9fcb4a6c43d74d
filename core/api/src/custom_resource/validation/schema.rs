//! The constructs that a schema may not use, whatever its structure.

use serde_json::Value;

use super::structural;
use crate::schema::{Pattern, Schema};
use crate::validation::FieldError;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

pub(super) fn flag(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool).unwrap_or(false)
}

pub(super) fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Finds all faults of a version's schema.
pub(super) fn check(root: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let before = errors.len();
    node(root, path, errors);
    if errors.len() == before {
        structural::check(root, path, errors);
    }
    if errors.len() == before {
        defaults(root, path, errors);
    }
}

fn children<'a>(value: &'a Value, path: &str) -> Vec<(&'a Value, String)> {
    let mut found = Vec::new();
    for (name, property) in value.get("properties").and_then(Value::as_object).into_iter().flatten() {
        found.push((property, format!("{path}.properties[{name}]")));
    }
    for field in ["items", "additionalProperties", "not"] {
        if let Some(child) = value.get(field).filter(|child| child.is_object()) {
            found.push((child, format!("{path}.{field}")));
        }
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        for (at, child) in value.get(field).and_then(Value::as_array).into_iter().flatten().enumerate() {
            found.push((child, format!("{path}.{field}[{at}]")));
        }
    }
    found
}

fn node(value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if !value.is_object() {
        errors.push(FieldError::invalid(path, value.clone(), "must be a schema object"));
        return;
    }
    forbidden(value, path, errors);
    list_type(value, path, errors);
    let kind = kind(value);
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(format!("{path}.type"), kind, &TYPES));
    }
    if flag(value, "x-kubernetes-int-or-string") && !kind.is_empty() {
        let detail = "must be empty if x-kubernetes-int-or-string is true";
        errors.push(FieldError::forbidden(format!("{path}.type"), detail));
    }
    if value.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let path = format!("{path}.x-kubernetes-preserve-unknown-fields");
        errors.push(FieldError::invalid(path, false, "must be true or undefined"));
    }
    if value.get("x-kubernetes-map-type").is_some() && kind != "object" {
        let detail = "must be object if x-kubernetes-map-type is specified";
        errors.push(FieldError::invalid(format!("{path}.type"), kind, detail));
    }
    if let Some(text) = value.get("pattern").and_then(Value::as_str)
        && let Err(error) = Pattern::check(text)
    {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(format!("{path}.pattern"), text, detail));
    }
    for (child, path) in children(value, path) {
        node(child, &path, errors);
    }
}

fn forbidden(value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut forbid = |field: &str, detail: &str| {
        errors.push(FieldError::forbidden(format!("{path}.{field}"), detail));
    };
    if flag(value, "uniqueItems") {
        forbid(
            "uniqueItems",
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        );
    }
    let has_properties = value.get("properties").and_then(Value::as_object).is_some_and(|it| !it.is_empty());
    match value.get("additionalProperties") {
        None | Some(Value::Null) => {}
        Some(Value::Bool(false)) => {
            forbid("additionalProperties", "additionalProperties cannot be set to false");
        }
        Some(_) if has_properties => {
            forbid("additionalProperties", "additionalProperties and properties are mutual exclusive");
        }
        Some(_) => {}
    }
    if value.get("items").is_some_and(Value::is_array) {
        forbid("items", "items must be a schema object and not an array");
    }
    for field in ["$ref", "id", "definitions", "dependencies", "patternProperties", "additionalItems"] {
        if value.get(field).is_some_and(|value| !value.is_null()) {
            forbid(field, &format!("{field} is not supported"));
        }
    }
}

fn list_type(value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let keys = value.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
    let has_keys = keys.is_some_and(|keys| !keys.is_empty());
    let place = format!("{path}.x-kubernetes-list-type");
    let Some(list) = value.get("x-kubernetes-list-type").and_then(Value::as_str) else {
        if has_keys {
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            errors.push(FieldError::required(place, detail));
        }
        return;
    };
    if kind(value) != "array" {
        let detail = "must be array if x-kubernetes-list-type is specified";
        errors.push(FieldError::invalid(format!("{path}.type"), kind(value), detail));
    }
    let place_of_keys = format!("{path}.x-kubernetes-list-map-keys");
    match list {
        "atomic" | "set" if has_keys => {
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            errors.push(FieldError::invalid(place, list, detail));
        }
        "atomic" | "set" => {}
        "map" if !has_keys => {
            let detail = "must not be empty if x-kubernetes-list-type is map";
            errors.push(FieldError::required(place_of_keys, detail));
        }
        "map" => {
            let items = value.get("items").unwrap_or(&Value::Null);
            if kind(items) != "object" {
                let detail = "must be object if parent array's x-kubernetes-list-type is map";
                errors.push(FieldError::invalid(format!("{path}.items.type"), kind(items), detail));
            }
            for (at, key) in keys.into_iter().flatten().enumerate() {
                if key.as_str().is_none_or(|key| items["properties"].get(key).is_none()) {
                    let detail = "entries must all be names of item properties";
                    errors.push(FieldError::invalid(format!("{place_of_keys}[{at}]"), key.clone(), detail));
                }
            }
        }
        other => errors.push(FieldError::not_supported(place, other, &["atomic", "map", "set"])),
    }
}

/// A default must be a value that the schema allows.
fn defaults(value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(default) = value.get("default").filter(|default| !default.is_null()) {
        let path = format!("{path}.default");
        match Schema::value_from_crd(value) {
            Ok(schema) => {
                let mut filled = default.clone();
                schema.apply_defaults(&mut filled);
                errors.extend(schema.validate(&filled).into_iter().map(|mut fault| {
                    let tail = if fault.path.is_empty() { String::new() } else { format!(".{}", fault.path) };
                    fault.path = format!("{path}{tail}");
                    fault
                }));
            }
            Err(error) => errors.push(FieldError::invalid(path, default.clone(), error.to_string())),
        }
    }
    for (child, path) in children(value, path) {
        defaults(child, &path, errors);
    }
}
