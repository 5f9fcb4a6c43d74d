//! Whether a schema is structural: it has a type at each level, and alternatives only limit what is specified outside
//! of them.

use serde_json::{Value, json};

use super::schema::{flag, kind};
use crate::validation::FieldError;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

pub(super) fn check(root: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut found = Vec::new();
    invariants(root, Level::Root, path, &mut found);
    completeness(root, path, &mut found);
    found.sort_by_cached_key(ToString::to_string);
    errors.extend(found);
}

fn properties(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.get("properties").and_then(Value::as_object).into_iter().flatten()
}

fn invariants(value: &Value, level: Level, path: &str, errors: &mut Vec<FieldError>) {
    match value.get("items") {
        Some(items) => invariants(items, Level::Item, &format!("{path}.items"), errors),
        None if kind(value) == "array" => {
            errors.push(FieldError::required(format!("{path}.items"), "must be specified"));
        }
        None => {}
    }
    for (name, property) in properties(value) {
        invariants(property, Level::Field, &format!("{path}.properties[{name}]"), errors);
    }
    let embedded = flag(value, "x-kubernetes-embedded-resource");
    if let Some(additional) = value.get("additionalProperties") {
        let path = format!("{path}.additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(path.as_str(), "must not be used at the root"));
        }
        if embedded {
            let detail = "must not be used if x-kubernetes-embedded-resource is set";
            errors.push(FieldError::forbidden(path.as_str(), detail));
        }
        if additional.is_object() {
            invariants(additional, Level::Field, &path, errors);
        }
    }
    typed(value, level, path, errors);
    metadata(value, level, path, errors);
    if embedded && !flag(value, "x-kubernetes-preserve-unknown-fields") && properties(value).next().is_none()
    {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(format!("{path}.properties"), detail));
    }
    alternatives(value, true, path, errors);
}

fn typed(value: &Value, level: Level, path: &str, errors: &mut Vec<FieldError>) {
    let kind = kind(value);
    let place = format!("{path}.type");
    let int_or_string = flag(value, "x-kubernetes-int-or-string");
    let preserve = flag(value, "x-kubernetes-preserve-unknown-fields");
    if flag(value, "x-kubernetes-embedded-resource") && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match kind {
            "" => FieldError::required(place, detail),
            other => FieldError::invalid(place, other, detail),
        });
    } else if kind.is_empty() && !int_or_string && !preserve {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(place, detail));
    } else if level == Level::Root && kind != "object" {
        errors.push(FieldError::invalid(place, kind, "must be object at the root"));
    }
    if int_or_string && flag(value, "x-kubernetes-embedded-resource") {
        let path = format!("{path}.x-kubernetes-embedded-resource");
        errors.push(FieldError::invalid(path, true, "must be false if x-kubernetes-int-or-string is true"));
    }
    if int_or_string && preserve {
        let path = format!("{path}.x-kubernetes-preserve-unknown-fields");
        errors.push(FieldError::invalid(path, true, "must be false if x-kubernetes-int-or-string is true"));
    }
}

/// Of an object's own fields a schema may only restrict names.
fn metadata(value: &Value, level: Level, path: &str, errors: &mut Vec<FieldError>) {
    if level != Level::Root && !flag(value, "x-kubernetes-embedded-resource") {
        return;
    }
    for (name, property) in properties(value) {
        let path = format!("{path}.properties[{name}]");
        let wanted = match name.as_str() {
            "kind" | "apiVersion" => "string",
            "metadata" => "object",
            _ => continue,
        };
        if kind(property) != wanted {
            let detail = format!("must be {wanted}");
            errors.push(FieldError::invalid(format!("{path}.type"), kind(property), detail));
        }
        let plain = property.as_object().into_iter().flatten().all(|(field, value)| match field.as_str() {
            "type" | "description" => true,
            "properties" => properties(&json!({"properties": value}))
                .all(|(name, _)| matches!(name.as_str(), "name" | "generateName")),
            _ => false,
        });
        if name == "metadata" && level == Level::Root && !plain {
            let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.push(FieldError::forbidden(path, detail));
        }
    }
}

fn is_int_or_string(alternatives: &Value) -> bool {
    *alternatives == json!([{"type": "integer"}, {"type": "string"}])
}

/// `outer` tells that this is a specified level, where two forms of int-or-string are allowed.
fn alternatives(value: &Value, outer: bool, path: &str, errors: &mut Vec<FieldError>) {
    for field in ["anyOf", "allOf", "oneOf"] {
        let Some(list) = value.get(field).filter(|list| list.is_array()) else { continue };
        if outer && field == "anyOf" && is_int_or_string(list) {
            continue;
        }
        for (at, child) in list.as_array().into_iter().flatten().enumerate() {
            let first = outer && field == "allOf" && at == 0;
            if first && child.get("anyOf").is_some_and(is_int_or_string) {
                continue;
            }
            nested(child, &format!("{path}.{field}[{at}]"), errors);
        }
    }
    if let Some(not) = value.get("not") {
        nested(not, &format!("{path}.not"), errors);
    }
}

fn nested(value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    const EMPTY: &str = "must be empty to be structural";
    const UNDEFINED: &str = "must be undefined to be structural";
    const FALSE: &str = "must be false to be structural";
    const FORBIDDEN: [(&str, &str); 13] = [
        ("type", EMPTY),
        ("additionalProperties", UNDEFINED),
        ("default", UNDEFINED),
        ("title", EMPTY),
        ("description", EMPTY),
        ("nullable", FALSE),
        ("externalDocs", UNDEFINED),
        ("x-kubernetes-preserve-unknown-fields", FALSE),
        ("x-kubernetes-embedded-resource", FALSE),
        ("x-kubernetes-int-or-string", FALSE),
        ("x-kubernetes-list-map-keys", EMPTY),
        ("x-kubernetes-list-type", UNDEFINED),
        ("x-kubernetes-map-type", UNDEFINED),
    ];
    for (field, detail) in FORBIDDEN {
        let set = value.get(field).is_some_and(|value| *value != Value::Bool(false) && *value != json!(""));
        if set {
            errors.push(FieldError::forbidden(format!("{path}.{field}"), detail));
        }
    }
    if let Some(items) = value.get("items") {
        nested(items, &format!("{path}.items"), errors);
    }
    for (name, property) in properties(value) {
        let path = format!("{path}.properties[{name}]");
        if name == "metadata" {
            let detail = "must not be specified in a nested context";
            errors.push(FieldError::forbidden(path.as_str(), detail));
        }
        nested(property, &path, errors);
    }
    alternatives(value, false, path, errors);
}

/// Whatever an alternative speaks of is specified outside of it.
fn completeness(value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (name, property) in properties(value) {
        completeness(property, &format!("{path}.properties[{name}]"), errors);
    }
    for field in ["items", "additionalProperties"] {
        if let Some(child) = value.get(field).filter(|child| child.is_object()) {
            completeness(child, &format!("{path}.{field}"), errors);
        }
    }
    specified(value, value, path, path, errors);
}

fn specified(outer: &Value, inner: &Value, path: &str, inner_path: &str, errors: &mut Vec<FieldError>) {
    let mut all: Vec<(&Value, String)> = Vec::new();
    for field in ["anyOf", "allOf", "oneOf"] {
        let list = inner.get(field).and_then(Value::as_array).into_iter().flatten();
        all.extend(list.enumerate().map(|(at, child)| (child, format!("{inner_path}.{field}[{at}]"))));
    }
    all.extend(inner.get("not").map(|child| (child, format!("{inner_path}.not"))));
    for (child, child_path) in all {
        for (name, property) in properties(child) {
            let (path, inner_path) =
                (format!("{path}.properties[{name}]"), format!("{child_path}.properties[{name}]"));
            match outer["properties"].get(name) {
                Some(found) => below(found, property, &path, &inner_path, errors),
                None => {
                    let detail = format!("because it is defined in {inner_path}");
                    errors.push(FieldError::required(path, detail));
                }
            }
        }
        if let Some(items) = child.get("items") {
            let (path, inner_path) = (format!("{path}.items"), format!("{child_path}.items"));
            match outer.get("items") {
                Some(found) => below(found, items, &path, &inner_path, errors),
                None => {
                    let detail = format!("because it is defined in {inner_path}");
                    errors.push(FieldError::required(path, detail));
                }
            }
        }
        specified(outer, child, path, &child_path, errors);
    }
}

/// A property of an alternative may itself speak of properties.
fn below(outer: &Value, inner: &Value, path: &str, inner_path: &str, errors: &mut Vec<FieldError>) {
    let whole = json!({"allOf": [inner]});
    let mut found = Vec::new();
    specified(outer, &whole, path, inner_path, &mut found);
    let extra = format!("{inner_path}.allOf[0]");
    errors.extend(found.into_iter().map(|mut fault| {
        fault.detail = fault.detail.replace(&extra, inner_path);
        fault
    }));
}
