//! Types, required fields, allowed values, limits and defaults.

use serde_json::Value;

use super::{Constraints, ListType, Schema, SchemaType, format};
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

/// Finds the faults of a value. What is as it was is not looked at.
pub(super) fn validate(
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
    path: String,
    errors: &mut Vec<FieldError>,
) {
    if old == Some(value) {
        return;
    }
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
        alternatives(constraints, value, &path, errors);
    }
    if let (Some(format), false) = (&schema.format, null) {
        errors.extend(format::fault(format, schema.kind, value, &path));
    }
    if schema.embedded {
        embedded(value, &path, errors);
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
                    let before = old.and_then(|old| old.get(name));
                    validate(field, child, before, below(name), errors);
                }
            }
        }
        Value::Array(items) => {
            duplicates(&schema.list, items, &path, errors);
            if let Some(item_schema) = &schema.items {
                for (at, item) in items.iter().enumerate() {
                    let before = old.and_then(|old| counterpart(&schema.list, item, old));
                    validate(item_schema, item, before, format!("{path}[{at}]"), errors);
                }
            }
        }
        _ => {}
    }
}

/// The item of an old list that is the same one as a new item: it has the same keys.
fn counterpart<'o>(list: &ListType, item: &Value, old: &'o Value) -> Option<&'o Value> {
    let ListType::Map(keys) = list else { return None };
    old.as_array()?.iter().find(|other| keys.iter().all(|key| other.get(key) == item.get(key)))
}

fn limits(constraints: &Constraints, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut fault = |detail: String| errors.push(FieldError::invalid(path, value.clone(), detail));
    if let Some(number) = value.as_f64() {
        if let Some(least) = constraints.minimum {
            let strict = constraints.exclusive_minimum;
            if number < least || (strict && number == least) {
                let word = if strict { "greater than" } else { "greater than or equal to" };
                fault(format!("{path} in body should be {word} {least}"));
            }
        }
        if let Some(most) = constraints.maximum {
            let strict = constraints.exclusive_maximum;
            if number > most || (strict && number == most) {
                let word = if strict { "less than" } else { "less than or equal to" };
                fault(format!("{path} in body should be {word} {most}"));
            }
        }
        if let Some(factor) = constraints.multiple_of.filter(|factor| *factor > 0.0) {
            let times = number / factor;
            if (times - times.round()).abs() > 1e-9 {
                fault(format!("{path} in body should be a multiple of {factor}"));
            }
        }
    }
    if let (Some(pattern), Value::String(text)) = (&constraints.pattern, value)
        && !pattern.is_match(text)
    {
        fault(format!("{path} in body should match '{}'", pattern.as_str()));
    }
    let (size, least, most, unit, verb) = match value {
        Value::String(text) => {
            let size = text.chars().count();
            (size, constraints.min_length, constraints.max_length, "chars long", "be")
        }
        Value::Array(items) => (items.len(), constraints.min_items, constraints.max_items, "items", "have"),
        Value::Object(fields) => {
            (fields.len(), constraints.min_properties, constraints.max_properties, "properties", "have")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => return,
    };
    if let Some(least) = least.filter(|least| size < *least) {
        fault(format!("{path} in body should {verb} at least {least} {unit}"));
    }
    if let Some(most) = most.filter(|most| size > *most) {
        let (kind, value, detail) = if value.is_string() {
            (ErrorKind::TooLong, Value::Null, format!("may not be more than {most} bytes"))
        } else {
            (ErrorKind::TooMany, size.into(), format!("must have at most {most} items"))
        };
        errors.push(FieldError { path: path.to_owned(), kind, value, detail });
    }
}

fn alternatives(constraints: &Constraints, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let try_all = |schemas: &[Schema]| {
        let faults = schemas.iter().map(|schema| {
            let mut found = Vec::new();
            validate(schema, value, None, path.to_owned(), &mut found);
            found
        });
        faults.collect::<Vec<Vec<FieldError>>>()
    };
    // The word for a fault that belongs to no single field.
    let whole = |detail: String| FieldError::invalid("<nil>", "", detail);
    let closest = |mut outcomes: Vec<Vec<FieldError>>| {
        outcomes.sort_by_key(Vec::len);
        outcomes.into_iter().next().unwrap_or_default()
    };
    if !constraints.any_of.is_empty() {
        let outcomes = try_all(&constraints.any_of);
        if outcomes.iter().all(|faults| !faults.is_empty()) {
            errors.push(whole(format!("{path:?} must validate at least one schema (anyOf)")));
            errors.extend(closest(outcomes));
        }
    }
    if !constraints.one_of.is_empty() {
        let outcomes = try_all(&constraints.one_of);
        let valid = outcomes.iter().filter(|faults| faults.is_empty()).count();
        let text = "must validate one and only one schema (oneOf)";
        if valid == 0 {
            errors.push(whole(format!("{path:?} {text}. Found none valid")));
            errors.extend(closest(outcomes));
        } else if valid > 1 {
            errors.push(whole(format!("{path:?} {text}. Found {valid} valid alternatives")));
        }
    }
    let faults: Vec<FieldError> = try_all(&constraints.all_of).into_iter().flatten().collect();
    if !faults.is_empty() {
        errors.push(whole(format!("{path:?} must validate all the schemas (allOf)")));
        errors.extend(faults);
    }
    if let Some(not) = &constraints.not {
        let mut found = Vec::new();
        validate(not, value, None, path.to_owned(), &mut found);
        if found.is_empty() {
            errors.push(whole(format!("{path:?} must not validate the schema (not)")));
        }
    }
}

fn embedded(value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if !value.is_object() {
        return;
    }
    for field in ["apiVersion", "kind"] {
        if value.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
            errors.push(FieldError::required(format!("{path}.{field}"), "must not be empty"));
        }
    }
}

/// Items of a set are unique as a whole, items of a map by their keys.
fn duplicates(list: &ListType, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let mut seen = std::collections::HashSet::new();
    for (at, item) in items.iter().enumerate() {
        let key = match list {
            ListType::Atomic => return,
            ListType::Set => item.clone(),
            ListType::Map(keys) => {
                let present = keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
                Value::Object(present.collect())
            }
        };
        if !seen.insert(key.to_string()) {
            errors.push(FieldError::duplicate(format!("{path}[{at}]"), key));
        }
    }
}

pub(super) fn apply_defaults(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, property) in &schema.properties {
                // Null where there can be none is as good as nothing.
                let absent = fields.get(name).is_none_or(|have| have.is_null() && !property.nullable);
                match &property.default {
                    Some(default) if absent => drop(fields.insert(name.clone(), default.clone())),
                    None if absent => drop(fields.remove(name)),
                    Some(_) | None => {}
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
