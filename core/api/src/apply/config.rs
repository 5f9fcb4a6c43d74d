//! Whether an applied configuration fits the schema.

use std::collections::BTreeSet;

use serde_json::Value;

use super::shape::{Shape, field, item_element, items, shape};
use crate::schema::{Schema, SchemaType};

/// The faults of a configuration: unknown fields, values of another type, items without keys or with those of another.
pub(super) fn faults(schema: Option<&Schema>, config: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(schema) = schema {
        check(schema, config, &mut String::new(), &mut found);
    }
    found
}

fn fault(path: &str, text: &str) -> String {
    if path.is_empty() { text.to_owned() } else { format!("{path}: {text}") }
}

fn is_open(schema: &Schema) -> bool {
    schema.preserve_unknown
        || schema.kind != SchemaType::Object
        || (schema.properties.is_empty() && schema.additional.is_none())
}

fn check(schema: &Schema, value: &Value, path: &mut String, found: &mut Vec<String>) {
    if let Some(text) = type_fault(schema, value) {
        found.push(fault(path, &text));
        return;
    }
    let length = path.len();
    if let Value::Object(fields) = value {
        for (name, value) in fields {
            path.push('.');
            path.push_str(name);
            match field(Some(schema), name) {
                Some(below) => check(below, value, path, found),
                None if is_open(schema) => {}
                None => found.push(fault(path, "field not declared in schema")),
            }
            path.truncate(length);
        }
    }
    let Value::Array(list) = value else { return };
    let owned = matches!(shape(Some(schema), value), Shape::List(_));
    let mut seen = BTreeSet::new();
    for (at, item) in list.iter().enumerate() {
        if owned {
            match item_element(Some(schema), item) {
                Err(text) => {
                    found.push(fault(path, &format!("element {at}: {text}")));
                    continue;
                }
                Ok(element) => {
                    let mut shown = String::new();
                    element.display(&mut shown);
                    if !seen.insert(element) {
                        let what = shown.trim_start_matches('[').trim_end_matches(']');
                        found.push(fault(path, &format!("duplicate entries for key [{what}]")));
                        continue;
                    }
                    path.push_str(&shown);
                }
            }
        } else {
            path.push_str(&format!("[{at}]"));
        }
        if let Some(below) = items(Some(schema)) {
            check(below, item, path, found);
        }
        path.truncate(length);
    }
}

fn type_fault(schema: &Schema, value: &Value) -> Option<String> {
    let shown = match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    };
    let text = match (schema.kind, value) {
        (_, Value::Null)
        | (SchemaType::Any, _)
        | (SchemaType::Object, Value::Object(_))
        | (SchemaType::Array, Value::Array(_))
        | (SchemaType::String, Value::String(_))
        | (SchemaType::Integer | SchemaType::Number, Value::Number(_))
        | (SchemaType::Boolean, Value::Bool(_))
        | (SchemaType::IntOrString, Value::String(_) | Value::Number(_)) => return None,
        // A quantity may be written as a number.
        (SchemaType::String, Value::Number(_)) if schema.is_quantity() => return None,
        (SchemaType::Object, _) => format!("expected map, got &{{{shown}}}"),
        (SchemaType::Array, _) => format!("expected list, got &{{{shown}}}"),
        (SchemaType::String, _) => format!("expected string, got &value.valueUnstructured{{Value:{shown}}}"),
        (SchemaType::Integer | SchemaType::Number, _) => {
            format!("expected numeric (int or float), got {}", type_name(value))
        }
        (SchemaType::Boolean, _) => format!("expected boolean, got &{{{shown}}}"),
        (SchemaType::IntOrString, _) => format!("expected scalar, got {}", type_name(value)),
    };
    Some(text)
}

/// The type of a value as messages name it.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
