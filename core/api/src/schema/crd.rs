//! Reads the schema of a CustomResourceDefinition.

use std::sync::Arc;

use serde_json::Value;

use super::builtin::{list_type, schema_type};
use super::{Constraints, Pattern, Schema, SchemaType};
use crate::kinds::GroupVersionKind;

/// Why a CustomResourceDefinition's schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CrdSchemaError {
    /// It nests too deep.
    #[error("the schema nests deeper than {0} levels")]
    TooDeep(usize),
    /// The names of the kind cannot be written.
    #[error("write the names of the kind")]
    Encode(#[source] crate::object::EncodeError),
}

const MAX_DEPTH: usize = 100;

pub(super) fn read_root(value: &Value) -> Result<Schema, CrdSchemaError> {
    let mut root = read(value, 0)?;
    root.kind = SchemaType::Object;
    add_object_fields(&mut root);
    Ok(root)
}

fn add_object_fields(schema: &mut Schema) {
    let text = Arc::new(Schema { kind: SchemaType::String, ..Schema::default() });
    schema.properties.insert("apiVersion".into(), text.clone());
    schema.properties.insert("kind".into(), text);
    if let Some(metadata) = Schema::builtin(&GroupVersionKind::new("", "v1", "ConfigMap"))
        .and_then(|config_map| config_map.field("metadata").cloned())
    {
        schema.properties.insert("metadata".into(), metadata);
    }
}

pub(super) fn read(value: &Value, depth: usize) -> Result<Schema, CrdSchemaError> {
    if depth > MAX_DEPTH {
        return Err(CrdSchemaError::TooDeep(MAX_DEPTH));
    }
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    let flag = |field: &str| value.get(field).and_then(Value::as_bool).unwrap_or(false);
    let array = |field: &str| value.get(field).and_then(Value::as_array).into_iter().flatten();
    let mut schema = Schema {
        kind: text("type").map_or(SchemaType::Any, schema_type),
        preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
        embedded: flag("x-kubernetes-embedded-resource"),
        nullable: flag("nullable"),
        atomic: text("x-kubernetes-map-type") == Some("atomic"),
        format: text("format").map(str::to_owned),
        default: value.get("default").filter(|default| !default.is_null()).cloned(),
        values: array("enum").cloned().collect(),
        required: array("required").filter_map(Value::as_str).map(str::to_owned).collect(),
        ..Schema::default()
    };
    if flag("x-kubernetes-int-or-string") {
        schema.kind = SchemaType::IntOrString;
    }
    if let Some(list) = text("x-kubernetes-list-type") {
        schema.list = list_type(list, value);
    }
    for (name, property) in value.get("properties").and_then(Value::as_object).into_iter().flatten() {
        schema.properties.insert(name.clone(), Arc::new(read(property, depth + 1)?));
    }
    if let Some(items) = value.get("items") {
        schema.items = Some(Arc::new(read(items, depth + 1)?));
    }
    match value.get("additionalProperties") {
        Some(Value::Bool(true)) => schema.preserve_unknown = true,
        Some(additional @ Value::Object(_)) => {
            schema.additional = Some(Arc::new(read(additional, depth + 1)?))
        }
        _ => {}
    }
    if schema.embedded {
        add_object_fields(&mut schema);
    }
    schema.closed = schema.kind == SchemaType::Object;
    let constraints = constraints(value, depth)?;
    schema.constraints = (!constraints.is_empty()).then(|| Box::new(constraints));
    Ok(schema)
}

fn constraints(value: &Value, depth: usize) -> Result<Constraints, CrdSchemaError> {
    let number = |field: &str| value.get(field).and_then(Value::as_f64);
    let size = |field: &str| {
        value.get(field).and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok())
    };
    let flag = |field: &str| value.get(field).and_then(Value::as_bool).unwrap_or(false);
    let alternatives = |field: &str| {
        let list = value.get(field).and_then(Value::as_array).into_iter().flatten();
        list.map(|it| read(it, depth + 1)).collect::<Result<Vec<Schema>, CrdSchemaError>>()
    };
    Ok(Constraints {
        minimum: number("minimum"),
        maximum: number("maximum"),
        exclusive_minimum: flag("exclusiveMinimum"),
        exclusive_maximum: flag("exclusiveMaximum"),
        multiple_of: number("multipleOf"),
        min_length: size("minLength"),
        max_length: size("maxLength"),
        min_items: size("minItems"),
        max_items: size("maxItems"),
        min_properties: size("minProperties"),
        max_properties: size("maxProperties"),
        pattern: value.get("pattern").and_then(Value::as_str).filter(|it| !it.is_empty()).map(Pattern::new),
        all_of: alternatives("allOf")?,
        any_of: alternatives("anyOf")?,
        one_of: alternatives("oneOf")?,
        not: value.get("not").map(|it| read(it, depth + 1).map(Box::new)).transpose()?,
    })
}
