//! Devices: their classes, the claims to them and templates of claims, and the slices in which drivers publish them.

use std::collections::HashSet;

use serde_json::Value;

use super::at::At;
use super::pod::driver_name;
use super::{ErrorKind, FieldError, too_many};
use crate::names;

mod capacity;
mod claim;
mod slice;
mod status;

pub(super) use claim::{claim, class, template};
pub(super) use slice::{slice, slice_change};
pub(super) use status::claim_status;

/// The most bytes of a name below a domain.
const MAX_IDENTIFIER: usize = 32;
/// The most bytes of parameters and data that only a driver understands.
const MAX_OPAQUE: usize = 10 * 1024;
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// Whether a list has no more items than it may; otherwise that is its only fault.
fn is_bounded(list: &At<'_>, most: usize, errors: &mut Vec<FieldError>) -> bool {
    let count = list.items().count();
    if count > most {
        errors.push(too_many(list, count, most));
    }
    count <= most
}

/// A fault for each item whose key an earlier one has.
fn unique(list: &At<'_>, key: impl Fn(&At<'_>) -> String, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for item in list.items() {
        let key = key(&item);
        if seen.contains(&key) {
            errors.push(FieldError::duplicate(item.path, key));
        } else {
            seen.insert(key);
        }
    }
}

fn named(item: &At<'_>) -> String {
    item.field("name").text().to_owned()
}

fn own_text(item: &At<'_>) -> String {
    item.text().to_owned()
}

fn label_name(at: &At<'_>, errors: &mut Vec<FieldError>) {
    at.or_empty_for(names::dns1123_label(at.text()), errors);
}

fn identifier(path: &str, text: &str, errors: &mut Vec<FieldError>) {
    const FORM: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
    if text.len() > MAX_IDENTIFIER {
        let detail = format!("may not be more than {MAX_IDENTIFIER} bytes");
        errors.push(FieldError { path: path.into(), kind: ErrorKind::TooLong, value: Value::Null, detail });
    }
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if !first || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        errors.push(FieldError::invalid(path, text, FORM));
    }
}

/// The name of an attribute or capacity: an identifier, perhaps with the domain of who defines it.
fn qualified(path: &str, name: &str, errors: &mut Vec<FieldError>) {
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [name] => identifier(path, name, errors),
        [domain, name] => {
            if domain.is_empty() {
                errors.push(FieldError::invalid(path, "", "the domain must not be empty"));
            } else {
                let value = Value::from(*domain);
                driver_name(&At { path: path.to_owned(), value: &value }, errors);
            }
            if name.is_empty() {
                errors.push(FieldError::invalid(path, "", "the name must not be empty"));
            } else {
                identifier(path, name, errors);
            }
        }
        _ => errors.push(FieldError::invalid(path, name, "must not contain more than one slash")),
    }
}

fn fully_qualified(at: &At<'_>, errors: &mut Vec<FieldError>) {
    qualified(&at.path, at.text(), errors);
    if !at.text().contains('/') {
        errors.push(at.invalid("a fully qualified name must be a domain and a name separated by a slash"));
    }
}

fn pool_name(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if at.is_empty() {
        errors.push(at.required(""));
        return;
    }
    if at.text().len() > 253 {
        errors.push(at.too_long(253));
    }
    for part in at.text().split('/') {
        let faults = names::dns1123_subdomain(part).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(at.path.as_str(), part, fault)));
    }
}

/// A document that only a driver understands.
fn opaque(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let hidden = |detail: &str| FieldError::invalid(at.path.as_str(), "<value omitted>", detail);
    match at.value {
        Value::Null => errors.push(at.required("")),
        value if value.to_string().len() > MAX_OPAQUE => errors.push(at.too_long(MAX_OPAQUE)),
        Value::Object(_) => {}
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            errors.push(hidden("must be a valid JSON object"));
        }
    }
}

/// Parameters for a driver.
fn configuration(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let parameters = at.field("opaque");
    if !parameters.is_set() {
        errors.push(parameters.required(""));
        return;
    }
    driver_name(&parameters.field("driver"), errors);
    opaque(&parameters.field("parameters"), errors);
}

fn effect(at: &At<'_>, errors: &mut Vec<FieldError>) {
    at.one_of(&EFFECTS, errors);
}

fn label_text(at: &At<'_>, errors: &mut Vec<FieldError>) {
    at.or_empty_for(names::label_value(at.text()), errors);
}

fn taint(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let key = at.field("key");
    key.or_empty_for(names::qualified_name(key.text()), errors);
    label_text(&at.field("value"), errors);
    effect(&at.field("effect"), errors);
}

fn tolerations(list: &At<'_>, errors: &mut Vec<FieldError>) {
    if !is_bounded(list, 16, errors) {
        return;
    }
    for it in list.items() {
        let (key, operator, value) = (it.field("key"), it.field("operator"), it.field("value"));
        if !key.is_empty() {
            key.invalid_for(names::qualified_name(key.text()), errors);
        }
        if !operator.is_empty() {
            operator.one_of(&["Equal", "Exists"], errors);
        }
        match operator.text() {
            "Exists" if !value.is_empty() => {
                errors.push(value.invalid("must be empty for operator `Exists`"));
            }
            "" | "Equal" => label_text(&value, errors),
            _ => {}
        }
        if !it.field("effect").is_empty() {
            effect(&it.field("effect"), errors);
        }
    }
}

/// Conditions that a device waits for before a pod is bound, and those that say that it failed.
fn binding_conditions(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let (waits, fails) = (at.field("bindingConditions"), at.field("bindingFailureConditions"));
    for list in [&waits, &fails] {
        if is_bounded(list, 4, errors) {
            for name in list.items() {
                name.or_empty_for(names::qualified_name(name.text()), errors);
            }
        }
        unique(list, own_text, errors);
    }
    for name in fails.items().filter(|name| waits.items().any(|other| other.text() == name.text())) {
        errors.push(name.invalid("bindingFailureConditions must not overlap with bindingConditions"));
    }
    match (waits.is_empty(), fails.is_empty()) {
        (true, false) => {
            errors.push(waits.invalid("bindingConditions are required to use bindingFailureConditions"));
        }
        (false, true) => {
            errors.push(fails.invalid("bindingFailureConditions are required to use bindingConditions"));
        }
        (true, true) | (false, false) => {}
    }
}
