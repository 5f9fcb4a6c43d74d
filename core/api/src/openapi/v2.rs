//! Version 2 (Swagger): the documents of version 3 in other words, in one.

use serde_json::{Map, Value, json};

use super::definition::Form;
use super::{Definitions, Served, operation};

/// The version 2 document of all resources.
pub fn v2(resources: &[Served<'_>], definitions: &Definitions) -> Value {
    let mut paths = Map::new();
    for resource in resources {
        operation::paths(resource, definitions, &mut paths);
    }
    for item in paths.values_mut().filter_map(Value::as_object_mut) {
        for (field, value) in item {
            match field.as_str() {
                "parameters" => parameters(value),
                _ => operation(value),
            }
        }
    }
    let mut all = Value::Object(definitions.components(resources, Form::V2));
    link(&mut all);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "definitions": all,
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "name": "authorization", "in": "header",
            "description": "Bearer Token authentication",
        }},
        "security": [{"BearerToken": []}],
    })
}

fn operation(operation: &mut Value) {
    let Some(fields) = operation.as_object_mut() else { return };
    let mut all = fields.remove("parameters").unwrap_or_else(|| json!([]));
    parameters(&mut all);
    let Value::Array(mut all) = all else { return };
    let consumes = match fields.remove("requestBody") {
        Some(body) => {
            let (types, schema) = content(&body["content"]);
            let mut parameter = json!({"name": "body", "in": "body", "schema": schema});
            if body["required"] == Value::Bool(true) {
                parameter["required"] = true.into();
            }
            all.push(parameter);
            types
        }
        None => vec!["*/*".to_owned()],
    };
    let mut produces = Vec::new();
    for response in
        fields.get_mut("responses").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut)
    {
        if let Some(answered) = response.as_object_mut().and_then(|response| response.remove("content")) {
            let (types, schema) = content(&answered);
            response["schema"] = schema;
            produces = types;
        }
    }
    if !all.is_empty() {
        fields.insert("parameters".into(), all.into());
    }
    fields.insert("consumes".into(), json!(consumes));
    fields.insert(
        "produces".into(),
        json!(if produces.is_empty() { vec!["*/*".to_owned()] } else { produces }),
    );
    fields.insert("schemes".into(), json!(["https"]));
}

/// The media types of a content, and the schema that they have in common.
fn content(content: &Value) -> (Vec<String>, Value) {
    let all = content.as_object();
    let types = all.into_iter().flatten().map(|(media, _)| media.clone()).collect();
    let mut schema =
        all.and_then(|all| all.values().next()).map_or_else(|| json!({}), |value| value["schema"].clone());
    link(&mut schema);
    (types, schema)
}

/// Takes the type of each parameter out of its schema.
fn parameters(list: &mut Value) {
    for parameter in list.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(Value::Object(schema)) = parameter.remove("schema") {
            parameter.extend(schema);
        }
    }
}

/// Turns references into those of version 2.
fn link(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::Array(all)) = fields.get("allOf")
                && let [only] = all.as_slice()
                && let Some(reference) = only.get("$ref").cloned()
            {
                fields.remove("allOf");
                fields.insert("$ref".into(), reference);
            }
            if let Some(Value::String(reference)) = fields.get_mut("$ref")
                && let Some(name) = reference.strip_prefix("#/components/schemas/")
            {
                *reference = format!("#/definitions/{name}");
            }
            fields.values_mut().for_each(link);
        }
        Value::Array(items) => items.iter_mut().for_each(link),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
