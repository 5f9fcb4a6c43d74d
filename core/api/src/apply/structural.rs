//! A configuration laid over an object as an apply does it, but with no record of who manages what.

use serde_json::Value;

use super::config::faults;
use super::merge::merge_fields;
use super::server_side::listed;
use crate::schema::{ListType, Schema};

/// Why a configuration cannot be laid over an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// The configuration does not fit the schema.
    #[error("failed to convert patch object to typed object: {}", listed(.0))]
    Configuration(Vec<String>),
    /// It names parts that could only be replaced as a whole, by these paths.
    #[error("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}", .0.join(", "))]
    Atomic(Vec<String>),
}

/// Merges a configuration into an object of the same kind. What is atomic is refused: whoever names some of its fields
/// would take away the others.
///
/// # Errors
/// The configuration does not fit the schema, or has atomic parts.
pub fn overlay(
    schema: Option<&Schema>,
    object: &mut Value,
    configuration: &Value,
) -> Result<(), OverlayError> {
    let found = faults(schema, configuration);
    if !found.is_empty() {
        return Err(OverlayError::Configuration(found));
    }
    let mut atomics = Vec::new();
    if let Some(schema) = schema {
        find_atomics(schema, configuration, &mut String::new(), &mut atomics);
    }
    if !atomics.is_empty() {
        return Err(OverlayError::Atomic(atomics));
    }
    if let (Value::Object(object), Value::Object(configuration)) = (object, configuration) {
        merge_fields(schema, object, configuration);
    }
    Ok(())
}

fn find_atomics(schema: &Schema, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    match value {
        Value::Object(fields) => {
            if schema.atomic {
                found.push(path.clone());
            }
            // The values of a map are not looked into.
            for (name, value) in fields {
                if let Some(below) = schema.properties.get(name) {
                    path.push('.');
                    path.push_str(name);
                    find_atomics(below, value, path, found);
                    path.truncate(length);
                }
            }
        }
        Value::Array(list) => {
            if schema.list == ListType::Atomic {
                found.push(path.clone());
            }
            let Some(below) = schema.items.as_deref() else { return };
            for (at, item) in list.iter().enumerate() {
                path.push_str(&format!("[{at}]"));
                find_atomics(below, item, path, found);
                path.truncate(length);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::GroupVersionKind;

    fn laid_over(object: &Value, configuration: &Value) -> Result<Value, String> {
        let schema = Schema::builtin(&GroupVersionKind::from_api_version("v1", "Pod")).unwrap();
        let mut object = object.clone();
        overlay(Some(&schema), &mut object, configuration).map_err(|error| error.to_string())?;
        Ok(object)
    }

    #[test]
    fn items_are_merged_by_their_keys_and_others_stay() {
        let pod = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
        let sidecar = json!({"metadata": {"labels": {"b": "2"}},
            "spec": {"containers": [{"name": "b", "image": "y"}, {"name": "a", "tty": true}]}});
        let merged = laid_over(&pod, &sidecar).unwrap();
        assert_eq!(merged["metadata"]["labels"], json!({"a": "1", "b": "2"}));
        let named = |name: &str| {
            let all = merged["spec"]["containers"].as_array().unwrap();
            all.iter().find(|it| it["name"] == name).unwrap().clone()
        };
        assert_eq!(named("a"), json!({"name": "a", "image": "x", "tty": true}));
        assert_eq!(named("b"), json!({"name": "b", "image": "y"}));
    }

    #[test]
    fn what_is_atomic_or_unknown_is_refused_with_its_path() {
        let refused = |configuration: Value| laid_over(&json!({}), &configuration).unwrap_err();
        assert_eq!(
            refused(
                json!({"spec": {"tolerations": [], "nodeSelector": {"a": "b"}, "containers": [{"name": "a", "args": ["b"]}]}})
            ),
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.containers[0].args, .spec.nodeSelector, .spec.tolerations"
        );
        assert_eq!(
            refused(json!({"spec": {"nope": 1}})),
            "failed to convert patch object to typed object: .spec.nope: field not declared in schema"
        );
    }
}
