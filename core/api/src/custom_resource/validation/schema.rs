//! The constructs that a schema may not use, whatever its structure.

use serde_json::{Value, json};

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

/// Finds all faults of a version's schema. `has_status` tells whether the version has the subresource.
pub(super) fn check(root: &Value, path: &str, has_status: bool, errors: &mut Vec<FieldError>) {
    if has_status {
        at_root(root, path, errors);
    }
    if flag(root, "nullable") {
        errors.push(FieldError::forbidden(format!("{path}.nullable"), "nullable cannot be true at the root"));
    }
    let mut constructs = Vec::new();
    node(root, path, &Place { is_root: true, ..Place::default() }, &mut constructs);
    let mut found = Vec::new();
    if !constructs.iter().any(hides_structure) {
        structural::check(root, path, &mut found);
    }
    if found.is_empty() {
        defaults(root, path, Inside::Root, &mut found);
    }
    errors.extend(found);
    errors.extend(constructs);
}

/// Whether a construct is one that no structure is made of.
fn hides_structure(fault: &FieldError) -> bool {
    fault.detail.ends_with("is not supported")
        || fault.detail == "must be a schema object"
        || fault.path.ends_with(".items") && fault.detail.contains("not an array")
}

/// Fields of a root beside which a status can be looked at alone.
const ROOT: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];

fn at_root(root: &Value, path: &str, errors: &mut Vec<FieldError>) {
    const IF: &str = "at the root of the schema if the status subresource is enabled";
    if !matches!(kind(root), "" | "object") {
        let detail = format!("only \"object\" is allowed as the type {IF}");
        errors.push(FieldError::invalid(format!("{path}.type"), kind(root), detail));
        return;
    }
    let is_set = |value: &Value| !matches!(value, Value::Null | Value::Bool(false)) && *value != json!("");
    let other = root
        .as_object()
        .into_iter()
        .flatten()
        .find(|(field, value)| is_set(value) && !ROOT.iter().any(|(known, _)| known == field));
    if other.is_some() {
        let known = ROOT.map(|(_, name)| name).join(" ");
        errors.push(FieldError::invalid(
            path,
            root.clone(),
            format!("only [{known}] fields are allowed {IF}"),
        ));
    }
}

/// Where a node of a schema is.
#[derive(Clone, Debug, Default)]
struct Place {
    is_root: bool,
    /// Inside of the fields that every object has.
    is_meta: bool,
    /// Why there may be no default.
    without_default: Option<String>,
}

fn node(value: &Value, path: &str, place: &Place, errors: &mut Vec<FieldError>) {
    if !value.is_object() {
        errors.push(FieldError::invalid(path, value.clone(), "must be a schema object"));
        return;
    }
    unsupported(value, path, place, errors);
    below(value, path, place, errors);
    extensions(value, path, errors);
    list_type(value, path, errors);
    if let Some(text) = value.get("pattern").and_then(Value::as_str)
        && let Err(error) = Pattern::check(text)
    {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(format!("{path}.pattern"), text, detail));
    }
}

/// Looks at the nodes below.
fn below(value: &Value, path: &str, place: &Place, errors: &mut Vec<FieldError>) {
    let inner = Place { is_root: false, ..place.clone() };
    if let Some(child) = value.get("additionalProperties").filter(|child| child.is_object()) {
        let mut inner = inner.clone();
        if place.is_meta {
            inner.without_default =
                Some("inside additionalProperties applying to object metadata".to_owned());
        }
        node(child, &format!("{path}.additionalProperties"), &inner, errors);
    }
    for (name, property) in value.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let mut inner = inner.clone();
        let is_own = matches!(name.as_str(), "metadata" | "kind" | "apiVersion");
        if is_own && (place.is_root || flag(value, "x-kubernetes-embedded-resource")) {
            inner.is_meta = true;
            if place.is_root {
                inner.without_default = Some(format!("in top-level {name}"));
            }
        }
        node(property, &format!("{path}.properties[{name}]"), &inner, errors);
    }
    if let Some(child) = value.get("not").filter(|child| child.is_object()) {
        node(child, &format!("{path}.not"), &inner, errors);
    }
    for field in ["allOf", "oneOf", "anyOf"] {
        for (at, child) in value.get(field).and_then(Value::as_array).into_iter().flatten().enumerate() {
            node(child, &format!("{path}.{field}[{at}]"), &inner, errors);
        }
    }
    if let Some(child) = value.get("items").filter(|child| child.is_object()) {
        node(child, &format!("{path}.items"), &inner, errors);
    }
}

fn unsupported(value: &Value, path: &str, place: &Place, errors: &mut Vec<FieldError>) {
    let kind = kind(value);
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(format!("{path}.type"), kind, &TYPES));
    }
    let mut forbid = |field: &str, detail: &str| {
        errors.push(FieldError::forbidden(format!("{path}.{field}"), detail));
    };
    if let Some(why) = &place.without_default
        && value.get("default").is_some_and(|default| !default.is_null())
    {
        forbid("default", &format!("must not be set {why}"));
    }
    for field in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if value.get(field).is_some_and(|value| !value.is_null()) {
            forbid(field, &format!("{field} is not supported"));
        }
    }
    if kind == "null" {
        forbid("type", "type cannot be set to null, use nullable as an alternative");
    }
    if value.get("items").is_some_and(Value::is_array) {
        forbid("items", "items must be a schema object and not an array");
    }
    if place.is_meta && flag(value, "x-kubernetes-embedded-resource") {
        forbid("x-kubernetes-embedded-resource", "must not be used inside of resource meta");
    }
    if flag(value, "uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        forbid("uniqueItems", detail);
    }
    let has_properties = value.get("properties").and_then(Value::as_object).is_some_and(|it| !it.is_empty());
    match value.get("additionalProperties") {
        None | Some(Value::Null) => {}
        Some(Value::Bool(true)) => {}
        Some(_) if has_properties => {
            forbid("additionalProperties", "additionalProperties and properties are mutual exclusive");
        }
        Some(Value::Bool(false)) => {
            forbid("additionalProperties", "additionalProperties cannot be set to false");
        }
        Some(_) => {}
    }
}

/// A type that an extension needs.
fn needs(value: &Value, path: &str, wanted: &str, extension: &str, errors: &mut Vec<FieldError>) -> bool {
    let own = kind(value);
    if own == wanted {
        return true;
    }
    let detail = format!("must be {wanted} if {extension} is specified");
    let path = format!("{path}.type");
    errors.push(match own {
        "" => FieldError::required(path, detail),
        own => FieldError::invalid(path, own, detail),
    });
    false
}

fn extensions(value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if flag(value, "x-kubernetes-int-or-string") && !kind(value).is_empty() {
        let detail = "must be empty if x-kubernetes-int-or-string is true";
        errors.push(FieldError::forbidden(format!("{path}.type"), detail));
    }
    if value.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let path = format!("{path}.x-kubernetes-preserve-unknown-fields");
        errors.push(FieldError::invalid(path, false, "must be true or undefined"));
    }
    if let Some(map) = value.get("x-kubernetes-map-type").and_then(Value::as_str) {
        needs(value, path, "object", "x-kubernetes-map-type", errors);
        if !matches!(map, "atomic" | "granular") {
            let path = format!("{path}.x-kubernetes-map-type");
            errors.push(FieldError::not_supported(path, map, &["atomic", "granular"]));
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
    let items = value.get("items").filter(|items| items.is_object());
    if needs(value, path, "array", "x-kubernetes-list-type", errors) && list == "set" {
        set_items(items.unwrap_or(&Value::Null), path, errors);
    }
    if !matches!(list, "atomic" | "set" | "map") {
        errors.push(FieldError::not_supported(place.as_str(), list, &["atomic", "set", "map"]));
    }
    if has_keys && list != "map" {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(FieldError::invalid(place, list, detail));
    }
    if list == "map" {
        map_keys(value, keys.map_or(&[][..], Vec::as_slice), path, errors);
    }
    if matches!(list, "set" | "map") && items.is_some_and(|items| flag(items, "nullable")) {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list}");
        errors.push(FieldError::forbidden(format!("{path}.items.nullable"), detail));
    }
}

/// Items of a set are compared as a whole.
fn set_items(items: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let extension = match kind(items) {
        "array" => "x-kubernetes-list-type",
        "object" => "x-kubernetes-map-type",
        _ => return,
    };
    let own = items.get(extension).and_then(Value::as_str);
    let is_atomic = own == Some("atomic") || own.is_none() && kind(items) == "array";
    if !is_atomic {
        let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let path = format!("{path}.items.{extension}");
        errors.push(FieldError::invalid(path, own.map_or(Value::Null, Value::from), detail));
    }
}

/// Items of a map are named by fields that are always there.
fn map_keys(value: &Value, keys: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let place = format!("{path}.x-kubernetes-list-map-keys");
    if keys.is_empty() {
        let detail = "must not be empty if x-kubernetes-list-type is map";
        errors.push(FieldError::required(place.as_str(), detail));
    }
    let Some(items) = value.get("items") else {
        let detail = "must have a schema if x-kubernetes-list-type is map";
        errors.push(FieldError::required(format!("{path}.items"), detail));
        return;
    };
    if kind(items) != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(FieldError::invalid(format!("{path}.items.type"), kind(items), detail));
        return;
    }
    let required = items.get("required").and_then(Value::as_array);
    for (at, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        if keys[..at].contains(key) {
            let detail = "must not contain duplicate entries";
            errors.push(FieldError::invalid(place.as_str(), keys.to_vec(), detail));
        }
        let Some(property) = items.get("properties").and_then(|properties| properties.get(name)) else {
            let detail = "entries must all be names of item properties";
            errors.push(FieldError::invalid(place.as_str(), keys.to_vec(), detail));
            continue;
        };
        let path = format!("{path}.items.properties[{name}]");
        if matches!(kind(property), "array" | "object") {
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.push(FieldError::invalid(format!("{path}.type"), kind(property), detail));
        }
        let has_default = property.get("default").is_some_and(|default| !default.is_null());
        if !has_default && !required.is_some_and(|required| required.contains(key)) {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(FieldError::required(format!("{path}.default"), detail));
        }
        if flag(property, "nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(FieldError::forbidden(format!("{path}.nullable"), detail));
        }
    }
}

/// Of what a default is part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    Root,
    Value,
    /// The metadata of a whole object, of which more is known than the schema says.
    Metadata,
}

/// A default must be a value that the schema allows, and that it leaves as it is.
fn defaults(value: &Value, path: &str, inside: Inside, errors: &mut Vec<FieldError>) {
    if let Some(default) = value.get("default").filter(|default| !default.is_null()) {
        let path = format!("{path}.default");
        match Schema::value_from_crd(value) {
            Ok(schema) => {
                let mut pruned = default.clone();
                schema.prune(&mut pruned);
                if pruned != *default && inside != Inside::Metadata {
                    errors.push(FieldError::invalid(
                        path.as_str(),
                        default.clone(),
                        "must not have unknown fields",
                    ));
                }
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
    let is_whole = inside == Inside::Root || flag(value, "x-kubernetes-embedded-resource");
    let inner = if inside == Inside::Metadata { inside } else { Inside::Value };
    for (name, property) in value.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let inner = if is_whole && name == "metadata" { Inside::Metadata } else { inner };
        defaults(property, &format!("{path}.properties[{name}]"), inner, errors);
    }
    for field in ["items", "additionalProperties"] {
        if let Some(child) = value.get(field).filter(|child| child.is_object()) {
            defaults(child, &format!("{path}.{field}"), inner, errors);
        }
    }
}
