//! Types, required fields, allowed values, limits and defaults.

use serde_json::{Map, Value};

use super::{Schema, SchemaType};
use crate::validation::{ErrorKind, FieldError};

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn fits(schema: &Schema, value: &Value) -> bool {
    match (schema.kind, value) {
        (SchemaType::Any, _) => true,
        (_, Value::Null) => schema.nullable,
        (SchemaType::Object, Value::Object(_))
        | (SchemaType::Array, Value::Array(_))
        | (SchemaType::String | SchemaType::IntOrString, Value::String(_))
        | (SchemaType::Number, Value::Number(_))
        | (SchemaType::Boolean, Value::Bool(_)) => true,
        (SchemaType::Integer | SchemaType::IntOrString, Value::Number(number)) => {
            !number.is_f64() || number.as_f64().is_some_and(|it| it.fract() == 0.0)
        }
        _ => false,
    }
}

fn wanted(kind: SchemaType) -> &'static str {
    match kind {
        SchemaType::Any => "any",
        SchemaType::Object => "object",
        SchemaType::Array => "array",
        SchemaType::String => "string",
        SchemaType::Integer => "integer",
        SchemaType::Number => "number",
        SchemaType::Boolean => "boolean",
        SchemaType::IntOrString => "integer,string",
    }
}

pub(super) fn validate(schema: &Schema, value: &Value, path: String, errors: &mut Vec<FieldError>) {
    if !fits(schema, value) {
        let detail =
            format!("{path} in body must be of type {}: {:?}", wanted(schema.kind), type_name(value));
        errors.push(FieldError {
            path,
            kind: ErrorKind::TypeInvalid,
            value: type_name(value).into(),
            detail,
        });
        return;
    }
    let null = schema.nullable && value.is_null();
    if !(schema.values.is_empty() || null || schema.values.contains(value)) {
        let known: Vec<String> = schema.values.iter().map(Value::to_string).collect();
        let detail = format!("supported values: {}", known.join(", "));
        errors.push(FieldError {
            path: path.clone(),
            kind: ErrorKind::NotSupported,
            value: value.clone(),
            detail,
        });
    }
    if let Some(constraints) = &schema.constraints {
        limits(constraints, value, &path, errors);
    }
    match value {
        Value::Object(fields) => {
            let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            for name in &schema.required {
                if !fields.contains_key(name) {
                    errors.push(FieldError::required(below(name), ""));
                }
            }
            for (name, child) in fields {
                if let Some(field) = schema.field(name) {
                    validate(field, child, below(name), errors);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item_schema) = &schema.items {
                for (at, item) in items.iter().enumerate() {
                    validate(item_schema, item, format!("{path}[{at}]"), errors);
                }
            }
        }
        _ => {}
    }
}

fn limits(constraints: &Map<String, Value>, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let bound = |name: &str| constraints.get(name).and_then(Value::as_f64);
    let exclusive = |name: &str| constraints.get(name).and_then(Value::as_bool).unwrap_or(false);
    let mut fault = |detail: String| errors.push(FieldError::invalid(path, value.clone(), detail));
    if let Some(number) = value.as_f64() {
        if let Some(least) = bound("minimum") {
            let strict = exclusive("exclusiveMinimum");
            if number < least || (strict && number == least) {
                let word = if strict { "greater than" } else { "greater than or equal to" };
                fault(format!("{path} in body should be {word} {least}"));
            }
        }
        if let Some(most) = bound("maximum") {
            let strict = exclusive("exclusiveMaximum");
            if number > most || (strict && number == most) {
                let word = if strict { "less than" } else { "less than or equal to" };
                fault(format!("{path} in body should be {word} {most}"));
            }
        }
    }
    let (size, minimum, maximum, unit) = match value {
        Value::String(text) => (text.chars().count(), "minLength", "maxLength", "chars long"),
        Value::Array(items) => (items.len(), "minItems", "maxItems", "items"),
        Value::Object(fields) => (fields.len(), "minProperties", "maxProperties", "properties"),
        _ => return,
    };
    let count = |name: &str| {
        constraints.get(name).and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok())
    };
    let verb = if value.is_string() { "be" } else { "have" };
    if let Some(least) = count(minimum).filter(|least| size < *least) {
        fault(format!("{path} in body should {verb} at least {least} {unit}"));
    }
    if let Some(most) = count(maximum).filter(|most| size > *most) {
        fault(format!("{path} in body should {verb} at most {most} {unit}"));
    }
}

/// Built-in kinds take null for any field, as an absent one.
pub(super) fn decode_error(schema: &Schema, value: &Value, path: &str) -> Option<String> {
    if !value.is_null() && !fits(schema, value) {
        let go = match schema.kind {
            SchemaType::Integer if schema.format.as_deref() == Some("int32") => "int32",
            SchemaType::Integer => "int64",
            SchemaType::Boolean => "bool",
            SchemaType::Number => "float64",
            SchemaType::Array => "[]",
            SchemaType::Object => "map",
            SchemaType::String | SchemaType::IntOrString | SchemaType::Any => "string",
        };
        let have = match value {
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
            other => type_name(other),
        };
        return Some(format!("json: cannot unmarshal {have} into Go struct field {path} of type {go}"));
    }
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(fields) => {
            fields.iter().find_map(|(name, child)| decode_error(schema.field(name)?, child, &below(name)))
        }
        Value::Array(items) => {
            let item_schema = schema.items.as_ref()?;
            items.iter().find_map(|item| decode_error(item_schema, item, path))
        }
        _ => None,
    }
}

pub(super) fn apply_defaults(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                let absent = fields.get(name).is_none_or(|have| have.is_null() && !property.nullable);
                if absent {
                    fields.insert(name.clone(), default.clone());
                }
            }
            for (name, child) in fields {
                if let Some(field) = schema.field(name) {
                    apply_defaults(field, child);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item_schema) = &schema.items {
                items.iter_mut().for_each(|item| apply_defaults(item_schema, item));
            }
        }
        _ => {}
    }
}
