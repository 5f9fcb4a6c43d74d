//! What the value of a mutation's expression makes of an object (pure).

use keelson_api::patch::{self, PatchError};
use keelson_api::{Schema, apply};
use keelson_cel::Value as Cel;
use keelson_cel::value::Map;
use serde_json::{Value, json};

use super::rules::PatchType;

/// Changes a document; the text says why it cannot be.
pub(super) fn changed(
    patch: PatchType,
    value: &Cel<'_>,
    document: &Value,
    schema: &Schema,
) -> Result<Value, String> {
    match patch {
        PatchType::ApplyConfiguration => overlaid(value, document, schema),
        PatchType::JsonPatch => patched(value, document),
    }
}

fn overlaid(value: &Cel<'_>, document: &Value, schema: &Schema) -> Result<Value, String> {
    named_by_path(value)?;
    let mut configuration = value.to_json().map_err(|error| error.to_string())?;
    for field in ["apiVersion", "kind"] {
        configuration[field] = document[field].clone();
    }
    let mut changed = document.clone();
    apply::overlay(Some(schema), &mut changed, &configuration)
        .map_err(|error| format!("error applying patch: {error}"))?;
    Ok(changed)
}

fn patched(value: &Cel<'_>, document: &Value) -> Result<Value, String> {
    let Cel::List(list) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    };
    let operations = list.iter().map(|item| operation(&item)).collect::<Result<Vec<Value>, String>>()?;
    let mut changed = document.clone();
    match patch::json::apply(&mut changed, &operations.into()) {
        Ok(()) => Ok(changed),
        // A patch whose test does not hold is not applied, and that is no fault.
        Err(PatchError::TestFailed(_)) => Ok(document.clone()),
        Err(error) => Err(format!("JSONPath: {error}")),
    }
}

fn operation(value: &Cel<'_>) -> Result<Value, String> {
    let Cel::Map(Map::Message(made)) = value else {
        return Err(
            "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".to_owned()
        );
    };
    let text = |field: &str| made.fields.get(field).and_then(Cel::as_str).unwrap_or_default();
    let mut operation = json!({"op": text("op"), "path": text("path")});
    if !text("from").is_empty() {
        operation["from"] = text("from").into();
    }
    if let Some(value) = made.fields.get("value") {
        named_by_path(value)?;
        operation["value"] = value.to_json().map_err(|error| {
            format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {error}")
        })?;
    }
    Ok(operation)
}

/// The types of objects that an expression makes are named after the fields in which they are.
fn named_by_path(value: &Cel<'_>) -> Result<(), String> {
    match value.misnamed().as_slice() {
        [] => Ok(()),
        faults => Err(format!("type mismatch: {}", faults.join("\n"))),
    }
}
