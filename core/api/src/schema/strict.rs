//! Fields that a document has and its schema has not, and fields that occur twice.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::{Schema, SchemaType};

pub(super) fn unknown_fields(schema: &Schema, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(schema, value, &mut String::new(), &mut found);
    found
}

fn is_free(schema: &Schema) -> bool {
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

/// Texts such as `duplicate field "spec.x"` for keys that occur twice in one object of a JSON text.
/// Text that is no JSON has none: its fault is found by the decoder.
pub fn duplicate_fields(json: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let seed = Duplicates { path: String::new(), found: &mut found };
    if seed.deserialize(&mut deserializer).is_err() {
        return Vec::new();
    }
    found
}

struct Duplicates<'a> {
    path: String,
    found: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Duplicates<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Duplicates<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut at = 0;
        while items
            .next_element_seed(Duplicates { path: format!("{}[{at}]", self.path), found: &mut *self.found })?
            .is_some()
        {
            at += 1;
        }
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            let path = if self.path.is_empty() { name.clone() } else { format!("{}.{name}", self.path) };
            if !seen.insert(name) {
                self.found.push(format!("duplicate field {path:?}"));
            }
            fields.next_value_seed(Duplicates { path, found: &mut *self.found })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::GroupVersionKind;
    use serde_json::json;

    #[test]
    fn unknown_and_duplicate_fields_are_named_by_their_path() {
        let pod = Schema::builtin(&GroupVersionKind::new("", "v1", "Pod")).unwrap();
        let value = json!({"kind": "Pod", "metadata": {"labels": {"any": "x"}},
            "spec": {"foo": 1, "containers": [{"name": "a", "imagee": "b"}]}});
        assert_eq!(
            pod.unknown_fields(&value),
            [r#"unknown field "spec.containers[0].imagee""#, r#"unknown field "spec.foo""#]
        );
        assert_eq!(duplicate_fields(br#"{"spec":{"x":1,"x":2}}"#), [r#"duplicate field "spec.x""#]);
    }
}
