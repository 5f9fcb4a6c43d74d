//! The objects in an event: documents on one line, without what is not to be recorded.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::event::{ObjectReference, ResponseStatus};

#[derive(Deserialize)]
struct StatusDocument {
    #[serde(default)]
    kind: String,
    #[serde(default, rename = "apiVersion")]
    api_version: String,
    #[serde(default)]
    status: Value,
    #[serde(default)]
    message: Value,
    #[serde(default)]
    reason: Value,
    #[serde(default)]
    details: Value,
    #[serde(default)]
    code: u16,
}

/// Takes `metadata.managedFields` out of an object, out of the items of a list, or out of the rows of a Table.
pub fn remove_managed_fields(document: &mut Value) {
    let remove = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    remove(document);
    for item in document.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        remove(item);
    }
    if document["kind"] != "Table" {
        return;
    }
    for row in document.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
        row.get_mut("object").into_iter().for_each(remove);
    }
}

/// A document as it is recorded.
pub fn of_value(document: &Value) -> Option<Arc<RawValue>> {
    serde_json::value::to_raw_value(document).ok().map(Arc::from)
}

/// A JSON text as it is recorded; `None` for one that is no JSON.
pub fn of_json(text: &[u8]) -> Option<Arc<RawValue>> {
    // In JSON a line ends between tokens alone.
    if text.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return of_value(&serde_json::from_slice(text).ok()?);
    }
    let text = std::str::from_utf8(text).ok()?;
    RawValue::from_string(text.to_owned()).ok().map(Arc::from)
}

/// What an answer says if it is a `Status`.
pub fn status(json: &[u8]) -> Option<ResponseStatus> {
    let read: StatusDocument = serde_json::from_slice(json).ok()?;
    if (read.kind.as_str(), read.api_version.as_str()) != ("Status", "v1") {
        return None;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut status = ResponseStatus::of_code(read.code);
    (status.status, status.message, status.reason) =
        (text(&read.status), text(&read.message), text(&read.reason));
    status.details = read.details;
    Some(status)
}

/// Fills in what the path of a request has not said of its object by what the object says.
pub fn complete(reference: &mut ObjectReference, object: &Value) {
    let metadata = &object["metadata"];
    for (field, to) in [
        ("namespace", &mut reference.namespace),
        ("name", &mut reference.name),
        ("uid", &mut reference.uid),
        ("resourceVersion", &mut reference.resource_version),
    ] {
        if let (true, Some(text)) = (to.is_empty(), metadata[field].as_str()) {
            *to = text.to_owned();
        }
    }
}
