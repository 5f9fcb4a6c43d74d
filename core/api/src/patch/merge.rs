//! JSON merge patch, RFC 7386.

use serde_json::{Map, Value};

/// Merges the patch into the target: null removes, objects merge, anything else replaces.
pub fn apply(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(into) = target else { return };
    for (field, value) in fields {
        if value.is_null() {
            into.remove(field);
        } else {
            apply(into.entry(field.as_str()).or_insert(Value::Null), value);
        }
    }
}
