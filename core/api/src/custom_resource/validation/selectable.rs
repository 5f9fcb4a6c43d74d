//! The fields of a kind that selectors may name.

use std::collections::BTreeSet;

use serde_json::Value;

use super::too_many;
use crate::validation::FieldError;

/// The most fields of one version.
const MOST: usize = 8;

pub(super) fn check(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let root = &version["schema"]["openAPIV3Schema"];
    let mut seen = BTreeSet::new();
    for (at, field) in version["selectableFields"].as_array().into_iter().flatten().enumerate() {
        let place = format!("{path}[{at}].jsonPath");
        let text = field["jsonPath"].as_str().unwrap_or_default();
        if text.is_empty() {
            errors.push(FieldError::required(place, ""));
            continue;
        }
        let found = match find(root, text) {
            Ok(found) => found,
            Err(why) => {
                errors.push(FieldError::invalid(place, text, format!("is an invalid path: {why}")));
                continue;
            }
        };
        if text.split('.').nth(1) == Some("metadata") {
            let detail = "must not point to fields in metadata";
            errors.push(FieldError::invalid(place.as_str(), text, detail));
        }
        if !matches!(found["type"].as_str(), Some("string" | "boolean" | "integer")) {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.push(FieldError::invalid(place.as_str(), text, detail));
        }
        if !seen.insert(text) {
            errors.push(FieldError::duplicate(place, text));
        }
    }
    if seen.len() > MOST {
        errors.push(too_many(path, seen.len(), MOST));
    }
}

/// The schema of the field at a path of names, such as `.spec.color`.
fn find<'s>(root: &'s Value, text: &str) -> Result<&'s Value, String> {
    let (mut schema, mut rest) = (root, text);
    while !rest.is_empty() {
        if rest.starts_with('[') {
            return Err("array notation is not allowed".to_owned());
        }
        let end = |text: &str| text.find(['.', '[', ']']).unwrap_or(text.len());
        let Some(tail) = rest.strip_prefix('.') else {
            return Err(format!("expected [ or . but got: {}", &rest[..end(rest).max(1)]));
        };
        let (name, tail) = tail.split_at(end(tail));
        if name.is_empty() {
            return Err("unexpected end of JSON path".to_owned());
        }
        let values = schema.get("additionalProperties").filter(|values| values.is_object());
        schema = schema["properties"].get(name).or(values).ok_or("does not refer to a valid field")?;
        rest = tail;
    }
    Ok(schema)
}
