//! Quantities in a document: a text or a number, stored as the shortest text.

use serde_json::Value;

use super::{Schema, SchemaType};
use crate::quantity::canonical;

/// The format that marks a quantity in the schema of a built-in kind.
const FORMAT: &str = "quantity";

pub(super) fn schema() -> Schema {
    Schema { kind: SchemaType::String, format: Some(FORMAT.to_owned()), ..Schema::default() }
}

pub(super) fn is_quantity(schema: &Schema) -> bool {
    schema.kind == SchemaType::String && schema.format.as_deref() == Some(FORMAT)
}

/// What is no quantity stays as it is: validation names it.
pub(super) fn settle(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, child) in fields {
                if let Some(field) = schema.field(name) {
                    settle(field, child);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item_schema) = &schema.items {
                items.iter_mut().for_each(|item| settle(item_schema, item));
            }
        }
        Value::String(text) if is_quantity(schema) => {
            if let Ok(short) = canonical(text.trim()) {
                *text = short;
            }
        }
        Value::Number(number) if is_quantity(schema) => {
            let text = number.to_string();
            *value = canonical(&text).unwrap_or(text).into();
        }
        Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {}
    }
}
