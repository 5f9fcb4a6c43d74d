//! Fields that a document has and its schema has not.

use serde_json::Value;

use super::{Schema, SchemaType};

pub(super) fn unknown_fields(schema: &Schema, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(schema, value, &mut String::new(), &mut found);
    found
}

/// Whether a schema takes fields that it does not name.
pub(super) fn is_free(schema: &Schema) -> bool {
    schema.preserve_unknown || !schema.closed && is_open(schema)
}

fn is_open(schema: &Schema) -> bool {
    !matches!(schema.kind, SchemaType::Object)
        || (schema.properties.is_empty() && schema.additional.is_none())
}

fn walk(schema: &Schema, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    match value {
        Value::Object(fields) => {
            for (name, child) in fields {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
                match schema.field(name) {
                    Some(field) => walk(field, child, path, found),
                    None if is_free(schema) => {}
                    None => found.push(format!("unknown field {path:?}")),
                }
                path.truncate(length);
            }
        }
        Value::Array(items) => {
            if let Some(item_schema) = &schema.items {
                for (at, item) in items.iter().enumerate() {
                    path.push_str(&format!("[{at}]"));
                    walk(item_schema, item, path, found);
                    path.truncate(length);
                }
            }
        }
        _ => {}
    }
}

pub(super) fn prune(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if !is_free(schema) {
                fields.retain(|name, _| schema.field(name).is_some());
            } else if schema.kind == SchemaType::Object
                && !(schema.preserve_unknown || schema.closed)
                && schema.properties.is_empty()
                && schema.additional.is_none()
                && schema.constraints.is_none()
            {
                return;
            }
            for (name, child) in fields {
                if let Some(field) = schema.field(name) {
                    prune(field, child);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item_schema) = &schema.items {
                items.iter_mut().for_each(|item| prune(item_schema, item));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::GroupVersionKind;
    use serde_json::json;

    #[test]
    fn unknown_fields_are_named_by_their_path() {
        let pod = Schema::builtin(&GroupVersionKind::new("", "v1", "Pod")).unwrap();
        let value = json!({"kind": "Pod", "metadata": {"labels": {"any": "x"}},
            "spec": {"foo": 1, "containers": [{"name": "a", "imagee": "b"}]}});
        assert_eq!(
            pod.unknown_fields(&value),
            [r#"unknown field "spec.containers[0].imagee""#, r#"unknown field "spec.foo""#]
        );
    }
}
