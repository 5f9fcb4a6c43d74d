//! What a definition may not say.

mod schema;
mod structural;

use std::collections::BTreeSet;

use serde_json::Value;

use super::json_path::JsonPath;
use super::{definition, names as status};
use crate::names;
use crate::object::Object;
use crate::validation::{FieldError, webhook};

const APPROVED: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];

/// The faults of a new definition.
pub fn create(it: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    identity(it, &mut errors);
    names_of(it, &mut errors);
    versions(it, &mut errors);
    webhook::conversion(it, &mut errors);
    errors
}

/// The faults of a definition's new state in the light of its old one.
pub fn update(new: &Object, old: &Object) -> Vec<FieldError> {
    // What was accepted is not looked at again by the writers of status and metadata.
    let mut errors = if new.get(&["spec"]) == old.get(&["spec"]) { Vec::new() } else { create(new) };
    let mut fixed: Vec<&[&str]> = vec![&["spec", "group"]];
    if status::is_true(old, "Established") {
        fixed.extend([
            &["spec", "scope"] as &[&str],
            &["spec", "names", "plural"],
            &["spec", "names", "kind"],
        ]);
    }
    for path in fixed {
        if new.get(path) != old.get(path) {
            let value = new.get(path).cloned().unwrap_or(Value::Null);
            errors.push(FieldError::invalid(path.join("."), value, "field is immutable"));
        }
    }
    let known: Vec<&str> = definition::versions(new).filter_map(|version| version["name"].as_str()).collect();
    let stored = new.get(&["status", "storedVersions"]).and_then(Value::as_array).into_iter().flatten();
    for (at, version) in stored.enumerate() {
        if !version.as_str().is_some_and(|version| known.contains(&version)) {
            let path = format!("status.storedVersions[{at}]");
            errors.push(FieldError::invalid(path, version.clone(), "must appear in spec.versions"));
        }
    }
    errors
}

fn identity(it: &Object, errors: &mut Vec<FieldError>) {
    let group = it.get_str(&["spec", "group"]).unwrap_or_default();
    let plural = it.get_str(&["spec", "names", "plural"]).unwrap_or_default();
    let name = it.name().unwrap_or_default();
    if name != format!("{plural}.{group}") {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", name, detail));
    }
    let protected =
        ["k8s.io", "kubernetes.io"].iter().any(|end| group == *end || group.ends_with(&format!(".{end}")));
    if protected && it.annotation(APPROVED).is_none_or(str::is_empty) {
        let detail = format!(
            "protected groups must have approval annotation {APPROVED:?}, see https://github.com/kubernetes/enhancements/pull/1111"
        );
        errors.push(FieldError::required(format!("metadata.annotations[{APPROVED}]"), detail));
    }
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid("spec.group", group, "should be a domain with at least one dot"));
    } else {
        let faults = names::dns1123_subdomain(group).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid("spec.group", group, fault)));
    }
    match it.get_str(&["spec", "scope"]).unwrap_or_default() {
        "Cluster" | "Namespaced" => {}
        "" => errors.push(FieldError::required("spec.scope", "")),
        other => {
            errors.push(FieldError::not_supported("spec.scope", other, &["Cluster", "Namespaced"]));
        }
    }
    if it.get(&["spec", "preserveUnknownFields"]) == Some(&Value::Bool(true)) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", true, detail));
    }
}

fn names_of(it: &Object, errors: &mut Vec<FieldError>) {
    let text = |field: &str| it.get_str(&["spec", "names", field]).unwrap_or_default();
    for field in ["plural", "singular", "kind", "listKind"] {
        let path = format!("spec.names.{field}");
        let name = text(field);
        if name.is_empty() {
            errors.push(FieldError::required(path, ""));
            continue;
        }
        let mixed = matches!(field, "kind" | "listKind");
        let faults =
            if mixed { names::dns1035_label(&name.to_lowercase()) } else { names::dns1035_label(name) };
        if mixed && !faults.is_empty() {
            let detail = format!("may have mixed case, but should otherwise match: {}", faults.join(","));
            errors.push(FieldError::invalid(path, name, detail));
        } else {
            errors.extend(faults.into_iter().map(|fault| FieldError::invalid(path.as_str(), name, fault)));
        }
    }
    if !text("kind").is_empty() && text("kind") == text("listKind") {
        let detail = "kind and listKind may not be the same";
        errors.push(FieldError::invalid("spec.names.listKind", text("listKind"), detail));
    }
    for field in ["shortNames", "categories"] {
        let list = it.get(&["spec", "names", field]).and_then(Value::as_array).into_iter().flatten();
        for (at, name) in list.enumerate() {
            let name = name.as_str().unwrap_or_default();
            let path = format!("spec.names.{field}[{at}]");
            let faults = names::dns1035_label(name).into_iter();
            errors.extend(faults.map(|fault| FieldError::invalid(path.as_str(), name, fault)));
        }
    }
}

fn versions(it: &Object, errors: &mut Vec<FieldError>) {
    let list = it.get(&["spec", "versions"]).cloned().unwrap_or(Value::Null);
    let mut seen = BTreeSet::new();
    let mut stored = 0;
    let mut unique = true;
    for (at, version) in definition::versions(it).enumerate() {
        let path = format!("spec.versions[{at}]");
        let name = version["name"].as_str().unwrap_or_default();
        unique &= seen.insert(name);
        stored += usize::from(version["storage"] == Value::Bool(true));
        let faults = names::dns1035_label(name).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(format!("{path}.name"), name, fault)));
        deprecation(version, &path, errors);
        columns(version, &path, errors);
        scale(version, &path, errors);
        let path = format!("{path}.schema.openAPIV3Schema");
        if !version["schema"].get("openAPIV3Schema").is_some_and(Value::is_object) {
            errors.push(FieldError::required(path, "schemas are required"));
        }
    }
    for (path, root) in definition::schemas(it) {
        schema::check(root, &path, errors);
    }
    if !unique {
        let detail = "must contain unique version names";
        errors.push(FieldError::invalid("spec.versions", list.clone(), detail));
    }
    if stored != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", list, detail));
    }
}

fn deprecation(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(text) = version["deprecationWarning"].as_str() else { return };
    let path = format!("{path}.deprecationWarning");
    if version["deprecated"] != Value::Bool(true) {
        errors.push(FieldError::invalid(path, text, "can only be set for deprecated versions"));
    } else if text.is_empty() || text.len() > 256 || text.contains(char::is_control) {
        let detail = "must be a printable text of 1 to 256 bytes without line breaks";
        errors.push(FieldError::invalid(path, text, detail));
    }
}

fn columns(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (at, column) in version["additionalPrinterColumns"].as_array().into_iter().flatten().enumerate() {
        let path = format!("{path}.additionalPrinterColumns[{at}]");
        let text = |field: &str| column[field].as_str().unwrap_or_default();
        if text("name").is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        }
        match text("type") {
            "" => errors.push(FieldError::required(
                format!("{path}.type"),
                format!("must be one of {}", COLUMN_TYPES.join(",")),
            )),
            kind if !COLUMN_TYPES.contains(&kind) => errors.push(FieldError::invalid(
                format!("{path}.type"),
                kind,
                format!("must be one of {}", COLUMN_TYPES.join(",")),
            )),
            _ => {}
        }
        let place = format!("{path}.jsonPath");
        match text("jsonPath") {
            "" => errors.push(FieldError::required(place, "")),
            expression => {
                if let Err(error) = JsonPath::parse(expression) {
                    let detail = format!("is an invalid jsonpath: {error}");
                    errors.push(FieldError::invalid(place, expression, detail));
                }
            }
        }
    }
}

fn scale(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(scale) = version["subresources"].get("scale").filter(|scale| scale.is_object()) else { return };
    let required = [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")];
    for (field, start) in required {
        let path = format!("{path}.subresources.scale.{field}");
        match scale[field].as_str().unwrap_or_default() {
            "" => errors.push(FieldError::required(path, "")),
            text if !text.starts_with(start) || text.contains('[') => {
                let detail = format!("should be a json path under {}", start.trim_end_matches('.'));
                errors.push(FieldError::invalid(path, text, detail));
            }
            _ => {}
        }
    }
    if let Some(text) = scale["labelSelectorPath"].as_str()
        && !(text.starts_with(".spec.") || text.starts_with(".status.") && !text.contains('['))
    {
        let path = format!("{path}.subresources.scale.labelSelectorPath");
        let detail = "should be a json path under either .status or .spec";
        errors.push(FieldError::invalid(path, text, detail));
    }
}

#[cfg(test)]
mod tests;
