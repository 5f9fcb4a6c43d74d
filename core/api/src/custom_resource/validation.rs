//! What a definition may not say.
//!
//! A version's schema, subresources, columns and selectable fields are named by a path of the whole definition where
//! all versions have the same, as upstream's own form of a definition has them there.

mod approval;
mod schema;
mod selectable;
mod structural;

use std::collections::BTreeSet;

use serde_json::Value;

use super::{definition, names as status};
use crate::names;
use crate::object::Object;
use crate::validation::{ErrorKind, FieldError, webhook};

pub(super) use approval::{Approval, is_protected};

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

/// The faults of a new definition.
pub fn create(it: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    whole(it, false, &mut errors);
    errors.extend(approval::check(it, None));
    preserve(it, None, &mut errors);
    errors
}

fn whole(it: &Object, checks_authority: bool, errors: &mut Vec<FieldError>) {
    identity(it, errors);
    versions(it, errors);
    names_of(it, "spec.names", errors);
    webhook::conversion(it, checks_authority, errors);
}

/// The faults of a definition's new state in the light of its old one.
pub fn update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let is_established = status::is_true(old, "Established");
    // What was accepted is not looked at again by the writers of status and metadata.
    if new.get(&["spec"]) != old.get(&["spec"]) {
        whole(new, is_established && !webhook::has_bad_authority(old), &mut errors);
    }
    let mut fixed: Vec<&[&str]> = Vec::new();
    if is_established {
        fixed.extend([&["spec", "scope"] as &[&str], &["spec", "names", "kind"]]);
    }
    fixed.extend([&["spec", "group"] as &[&str], &["spec", "names", "plural"]]);
    for path in fixed {
        if new.get(path) != old.get(path) {
            let value = new.get(path).cloned().unwrap_or(Value::Null);
            errors.push(FieldError::invalid(path.join("."), value, "field is immutable"));
        }
    }
    names_of(new, "status.acceptedNames", &mut errors);
    stored_versions(new, &mut errors);
    errors.extend(approval::check(new, Some(old)));
    preserve(new, Some(old), &mut errors);
    errors
}

/// A version in which objects may be stored stays.
fn stored_versions(it: &Object, errors: &mut Vec<FieldError>) {
    let known: Vec<&str> = definition::versions(it).filter_map(|version| version["name"].as_str()).collect();
    let stored = it.get(&["status", "storedVersions"]).and_then(Value::as_array).into_iter().flatten();
    for (at, version) in stored.enumerate() {
        if !version.as_str().is_some_and(|version| known.contains(&version)) {
            let name = version.as_str().unwrap_or_default();
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.push(FieldError::invalid(format!("status.storedVersions[{at}]"), version.clone(), detail));
        }
    }
}

fn preserve(new: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>) {
    const PATH: [&str; 2] = ["spec", "preserveUnknownFields"];
    let preserves = |it: &Object| it.get(&PATH) == Some(&Value::Bool(true));
    if preserves(new) && !old.is_some_and(preserves) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid(PATH.join("."), true, detail));
    }
}

/// One fault for all that is wrong with a text.
fn all(path: impl Into<String>, value: &str, prefix: &str, faults: &[String]) -> Option<FieldError> {
    let detail = format!("{prefix}{}", faults.join(","));
    (!faults.is_empty()).then(|| FieldError::invalid(path, value, detail))
}

fn identity(it: &Object, errors: &mut Vec<FieldError>) {
    let group = it.get_str(&["spec", "group"]).unwrap_or_default();
    let plural = it.get_str(&["spec", "names", "plural"]).unwrap_or_default();
    let name = it.name().unwrap_or_default();
    if name != format!("{plural}.{group}") {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", name, detail));
    }
    let faults = names::dns1123_subdomain(group);
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if !faults.is_empty() {
        errors.extend(all("spec.group", group, "", &faults));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid("spec.group", group, "should be a domain with at least one dot"));
    }
    match it.get_str(&["spec", "scope"]).unwrap_or_default() {
        "Cluster" | "Namespaced" => {}
        "" => errors.push(FieldError::required("spec.scope", "")),
        other => {
            errors.push(FieldError::not_supported("spec.scope", other, &["Cluster", "Namespaced"]));
        }
    }
}

/// The names that are asked for, all of which there must be, or those that were accepted.
fn names_of(it: &Object, path: &str, errors: &mut Vec<FieldError>) {
    let place: Vec<&str> = path.split('.').collect();
    let list = it.get(&place).unwrap_or(&Value::Null);
    let text = |field: &str| list[field].as_str().unwrap_or_default();
    const SINGLE: [&str; 4] = ["plural", "singular", "kind", "listKind"];
    if place[0] == "spec" {
        let missing = SINGLE.into_iter().filter(|field| text(field).is_empty());
        errors.extend(missing.map(|field| FieldError::required(format!("{path}.{field}"), "")));
    }
    for field in SINGLE {
        let name = text(field);
        let is_mixed = matches!(field, "kind" | "listKind");
        let plain = if is_mixed { name.to_lowercase() } else { name.to_owned() };
        let prefix = if is_mixed { "may have mixed case, but should otherwise match: " } else { "" };
        if !name.is_empty() {
            errors.extend(all(format!("{path}.{field}"), name, prefix, &names::dns1035_label(&plain)));
        }
    }
    let labels = |field: &str, errors: &mut Vec<FieldError>| {
        for (at, name) in list[field].as_array().into_iter().flatten().enumerate() {
            let name = name.as_str().unwrap_or_default();
            errors.extend(all(format!("{path}.{field}[{at}]"), name, "", &names::dns1035_label(name)));
        }
    };
    labels("shortNames", errors);
    if !text("kind").is_empty() && text("kind") == text("listKind") {
        let detail = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(format!("{path}.listKind"), text("listKind"), detail));
    }
    labels("categories", errors);
}

fn versions(it: &Object, errors: &mut Vec<FieldError>) {
    let list = it.get(&["spec", "versions"]).cloned().unwrap_or(Value::Null);
    for (at, version) in definition::versions(it).enumerate() {
        if !version["schema"].get("openAPIV3Schema").is_some_and(Value::is_object) {
            let path = format!("spec.versions[{at}].schema.openAPIV3Schema");
            errors.push(FieldError::required(path, "schemas are required"));
        }
    }
    let mut seen = BTreeSet::new();
    let mut stored = 0;
    let mut is_unique = true;
    for (at, version) in definition::versions(it).enumerate() {
        let path = format!("spec.versions[{at}]");
        let name = version["name"].as_str().unwrap_or_default();
        is_unique &= seen.insert(name);
        stored += usize::from(version["storage"] == Value::Bool(true));
        errors.extend(all(format!("{path}.name"), name, "", &names::dns1035_label(name)));
        deprecation(version, &path, errors);
    }
    let has_status = |version: &Value| version["subresources"].get("status").is_some_and(Value::is_object);
    for (path, version) in definition::per_version(it, "schema") {
        let Some(root) = version["schema"].get("openAPIV3Schema").filter(|root| root.is_object()) else {
            continue;
        };
        let path = if path == "spec.schema" { "spec.validation".to_owned() } else { path };
        let is_status = match path.as_str() {
            "spec.validation" => definition::versions(it).any(has_status),
            _ => has_status(version),
        };
        schema::check(root, &format!("{path}.openAPIV3Schema"), is_status, errors);
    }
    for (path, version) in definition::per_version(it, "subresources") {
        scale(version, &path, errors);
    }
    for (path, version) in definition::per_version(it, "additionalPrinterColumns") {
        columns(version, &path, errors);
    }
    for (path, version) in definition::per_version(it, "selectableFields") {
        selectable::check(version, &path, errors);
    }
    if !is_unique {
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
    let mut fault =
        |detail: String| errors.push(FieldError::invalid(format!("{path}.deprecationWarning"), text, detail));
    if version["deprecated"] != Value::Bool(true) {
        return fault("can only be set for deprecated versions".to_owned());
    }
    if text.len() > 256 {
        fault("must be <= 256 characters long".to_owned());
    }
    if text.is_empty() {
        fault("must not be an empty string".to_owned());
    }
    // What is shown as nothing, and spaces other than the plain one.
    let is_hidden = |letter: char| letter.is_control() || letter.is_whitespace() && letter != ' ';
    if let Some((at, _)) = text.char_indices().find(|(_, letter)| is_hidden(*letter)) {
        let detail = "must only contain printable UTF-8 characters; non-printable character found at index";
        fault(format!("{detail} {at}"));
    }
}

fn columns(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (at, column) in version["additionalPrinterColumns"].as_array().into_iter().flatten().enumerate() {
        let path = format!("{path}[{at}]");
        let text = |field: &str| column[field].as_str().unwrap_or_default();
        if text("name").is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        }
        let known = format!("must be one of {}", COLUMN_TYPES.join(","));
        match text("type") {
            "" => errors.push(FieldError::required(format!("{path}.type"), known)),
            kind if !COLUMN_TYPES.contains(&kind) => {
                errors.push(FieldError::invalid(format!("{path}.type"), kind, known));
            }
            _ => {}
        }
        let format = text("format");
        if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
            let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
            errors.push(FieldError::invalid(format!("{path}.format"), format, detail));
        }
        let place = format!("{path}.JSONPath");
        match text("jsonPath") {
            "" => errors.push(FieldError::required(place, "")),
            expression => errors.extend(no_path(expression, place)),
        }
    }
}

fn no_path(text: &str, path: String) -> Option<FieldError> {
    let detail = "must be a simple json path starting with .";
    (!text.starts_with('.')).then(|| FieldError::invalid(path, text, detail))
}

fn scale(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(scale) = version["subresources"].get("scale").filter(|scale| scale.is_object()) else { return };
    let places: [(&str, &[&str], &str); 3] = [
        ("specReplicasPath", &[".spec."], ".spec"),
        ("statusReplicasPath", &[".status."], ".status"),
        ("labelSelectorPath", &[".spec.", ".status."], "either .spec or .status"),
    ];
    for (field, starts, under) in places {
        let path = format!("{path}.scale.{field}");
        let text = scale[field].as_str().unwrap_or_default();
        if text.is_empty() {
            if field != "labelSelectorPath" {
                errors.push(FieldError::required(path, ""));
            }
        } else if let Some(fault) = no_path(text, path.clone()) {
            errors.push(fault);
        } else if !starts.iter().any(|start| text.starts_with(start)) {
            errors.push(FieldError::invalid(path, text, format!("should be a json path under {under}")));
        }
    }
}

/// A list with too many entries.
fn too_many(path: &str, count: usize, most: usize) -> FieldError {
    let detail = format!("must have at most {most} items");
    FieldError { path: path.to_owned(), kind: ErrorKind::TooMany, value: count.into(), detail }
}

#[cfg(test)]
mod tests;
