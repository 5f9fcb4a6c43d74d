use serde_json::{Value, json};

use super::{validate_change, validate_create};
use crate::defaults;
use crate::kinds::GroupVersionKind;
use crate::object::Object;

mod any_document;
mod cluster;
mod device;
mod pod;
mod rules;
mod service;
mod status;
mod workload;

/// An object with its defaults, and its kind.
pub(super) fn object(document: Value) -> (GroupVersionKind, Object) {
    let mut object = Object::from_value(document).unwrap();
    let gvk = object.gvk();
    defaults::apply_defaults(&gvk, &mut object);
    (gvk, object)
}

/// Sets a value at a JSON pointer, or takes it away with null. Missing maps on the way are made.
pub(super) fn set(document: &mut Value, pointer: &str, value: Value) {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let mut at = document;
    for part in parent.split('/').skip(1) {
        at = match part.parse::<usize>() {
            Ok(place) if at.is_array() => &mut at[place],
            _ => {
                if at[part].is_null() {
                    at[part] = json!({});
                }
                &mut at[part]
            }
        };
    }
    match (at, field.parse::<usize>()) {
        (Value::Array(items), Ok(place)) if place == items.len() => items.push(value),
        (Value::Object(fields), _) if value.is_null() => drop(fields.remove(field)),
        (at, Ok(place)) if at.is_array() => at[place] = value,
        (at, _) => at[field] = value,
    }
}

/// The faults of a good document after changes, each as its text.
pub(super) fn faults(good: &Value, changes: &[(&str, Value)]) -> Vec<String> {
    let mut document = good.clone();
    for (pointer, value) in changes {
        set(&mut document, pointer, value.clone());
    }
    let (gvk, object) = object(document);
    let namespaced = object.namespace().is_some();
    validate_create(&gvk, &object, namespaced).iter().map(ToString::to_string).collect()
}

/// The faults of an update from a good document to one with changes.
pub(super) fn update_faults(good: &Value, subresource: &str, changes: &[(&str, Value)]) -> Vec<String> {
    let (gvk, old) = object(good.clone());
    let mut document = good.clone();
    for (pointer, value) in changes {
        set(&mut document, pointer, value.clone());
    }
    let (_, new) = object(document);
    validate_change(&gvk, subresource, &new, &old).iter().map(ToString::to_string).collect()
}

/// A change, and the beginning of a fault that it makes.
pub(super) type Case = (&'static str, Value, &'static str);

/// Asserts that a document is good as it is and has the fault that each change makes.
#[track_caller]
pub(super) fn each_change_has_its_fault(good: &Value, cases: Vec<Case>) {
    assert_eq!(faults(good, &[]), Vec::<String>::new());
    for (pointer, value, expected) in cases {
        let found = faults(good, &[(pointer, value.clone())]);
        assert!(
            found.iter().any(|fault| fault.starts_with(expected)),
            "{pointer} = {value}\n   found {found:#?}\nexpected {expected}"
        );
    }
}
