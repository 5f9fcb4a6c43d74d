//! No document makes a validator panic, whatever its fields hold.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::{validate_change, validate_create, validate_update};
use crate::catalog::Catalog;
use crate::object::Object;
use crate::schema::{Schema, SchemaType};

/// Draws from bytes; nothing is left when they are used up.
struct Source<'a>(std::slice::Iter<'a, u8>);

impl Source<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn scalar(&mut self) -> Value {
        match self.next() % 14 {
            0 => Value::Null,
            1 => true.into(),
            2 => false.into(),
            3 => "".into(),
            4 => "é-🦀".into(),
            5 => "a".into(),
            6 => "-1".into(),
            7 => "101%".into(),
            8 => "10.0.0.1/33".into(),
            9 => i64::MIN.into(),
            10 => u64::MAX.into(),
            11 => 1.5.into(),
            12 => json!([]),
            _ => json!({"": null}),
        }
    }

    fn value(&mut self, schema: &Schema, depth: usize) -> Value {
        let wrong = self.next().is_multiple_of(8);
        if wrong || depth > 9 {
            return self.scalar();
        }
        match schema.kind {
            SchemaType::Object if !schema.properties.is_empty() => {
                let mut fields = Map::new();
                let known: Vec<(&String, &Arc<Schema>)> = schema.properties.iter().collect();
                for _ in 0..self.next() % 5 {
                    let (name, field) = known[usize::from(self.next()) % known.len()];
                    fields.insert(name.clone(), self.value(field, depth + 1));
                }
                fields.into()
            }
            SchemaType::Object => match &schema.additional {
                Some(values) => {
                    json!({"cpu": self.value(values, depth + 1), "é/": self.value(values, depth + 1)})
                }
                None => self.scalar(),
            },
            SchemaType::Array => match &schema.items {
                Some(items) => (0..self.next() % 3).map(|_| self.value(items, depth + 1)).collect(),
                None => self.scalar(),
            },
            SchemaType::Any
            | SchemaType::String
            | SchemaType::Integer
            | SchemaType::Number
            | SchemaType::Boolean
            | SchemaType::IntOrString => self.scalar(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_validator_panics_on_any_document(bytes in prop::collection::vec(any::<u8>(), 64..2048)) {
        let mut source = Source(bytes.iter());
        for resource in Catalog::builtin().resources() {
            let gvk = resource.gvk();
            let Some(schema) = Schema::builtin(&gvk) else { continue };
            let mut make = || {
                let mut document = source.value(&schema, 0);
                if !document.is_object() {
                    document = json!({});
                }
                let own: Vec<(&String, &Arc<Schema>)> = schema.properties.iter().collect();
                for (name, field) in own {
                    if !matches!(name.as_str(), "apiVersion" | "kind") {
                        document[name.as_str()] = source.value(field, 1);
                    }
                }
                if !document["metadata"].is_object() {
                    document["metadata"] = json!({"name": "a"});
                }
                document["apiVersion"] = gvk.group_version().to_string().into();
                document["kind"] = gvk.kind.clone().into();
                Object::from_value(document).unwrap()
            };
            let (new, old) = (make(), make());
            validate_create(&gvk, &new, resource.namespaced);
            validate_update(&gvk, &new, &old);
            for subresource in ["", "status", "resize", "ephemeralcontainers"] {
                validate_change(&gvk, subresource, &new, &old);
            }
        }
    }
}
