//! Request bodies.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, Limited};
use keelson_api::document::MAX_DEPTH;
use keelson_api::schema::Schema;
use keelson_api::{GroupVersionKind, Object, ResourceInfo, Status};
use serde_json::Value;

use crate::registry::MAX_OBJECT_BYTES;
use crate::request_info::RequestInfo;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const ACCEPTED: [&str; 3] = ["application/json", "application/yaml", PROTOBUF];

/// Reads a body of bounded size.
pub async fn read(body: Body) -> Result<Bytes, Status> {
    match Limited::new(body, MAX_OBJECT_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Status::too_large(format!("Request entity too large: limit is {MAX_OBJECT_BYTES}")))
        }
        Err(error) => Err(Status::bad_request(format!("unable to read the body: {error}"))),
    }
}

/// The media type of a body, without parameters.
pub fn media_type(headers: &HeaderMap) -> String {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Decodes JSON or YAML.
pub fn value(headers: &HeaderMap, bytes: &[u8]) -> Result<Value, Status> {
    match media_type(headers).as_str() {
        "" | "application/json" | "*/*" if bytes.iter().all(u8::is_ascii_whitespace) => Err(
            Status::bad_request("couldn't get version/kind; json parse error: unexpected end of JSON input"),
        ),
        "" | "application/json" | "*/*" => json(bytes).map_err(|error| {
            Status::bad_request(format!("couldn't get version/kind; json parse error: {error}"))
        }),
        "application/yaml" => yaml(bytes),
        PROTOBUF => {
            keelson_api::protobuf::decode(bytes).map_err(|error| Status::bad_request(error.to_string()))
        }
        _ => Err(Status::unsupported_media_type(&ACCEPTED)),
    }
}

/// Decodes JSON, a whole text.
pub fn json(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    let mut text = serde_json::Deserializer::from_slice(bytes);
    let value = keelson_api::document::read(&mut text)?;
    text.end().map(|()| value)
}

/// Decodes YAML.
pub fn yaml(bytes: &[u8]) -> Result<Value, Status> {
    keelson_api::document::read(serde_yaml_ng::Deserializer::from_slice(bytes))
        .map_err(|error| Status::bad_request(format!("error converting YAML to JSON: {error}")))
}

/// Takes a document as an object of a kind.
pub fn object(value: Value, expected: &GroupVersionKind) -> Result<Object, Status> {
    if keelson_api::object::depth(&value) > MAX_DEPTH {
        return Err(Status::bad_request(format!("exceeded max depth of {MAX_DEPTH}")));
    }
    let mut object = Object::from_value(value).map_err(|error| Status::bad_request(error.to_string()))?;
    let refused = |what: &str, own: &str, expected: &str| {
        Status::bad_request(format!(
            "the {what} in the data ({own}) does not match the expected {what} ({expected})"
        ))
    };
    let api_version = expected.api_version();
    if !object.api_version().is_empty() && object.api_version() != api_version {
        return Err(refused("API version", object.api_version(), &api_version));
    }
    if !object.kind().is_empty() && object.kind() != expected.kind {
        return Err(refused("kind", object.kind(), &expected.kind));
    }
    object.set_gvk(expected);
    Ok(object)
}

/// The fault of a document that its kind's decoder would find. Of a custom resource only metadata is decoded: the rest
/// is validated.
fn decode_error(schema: &Schema, document: &Value, resource: &ResourceInfo) -> Option<String> {
    if resource.custom.is_none() {
        return schema.decode_error(document);
    }
    schema.field("metadata")?.decode_error(document.get("metadata")?)
}

/// Looks for unknown and duplicate fields as `fieldValidation` asks, and takes unknown ones out. Gives the
/// warnings to send.
pub fn check_fields(
    info: &RequestInfo,
    object: &mut Object,
    raw: &[u8],
    resource: &ResourceInfo,
) -> Result<Vec<String>, Status> {
    let Some(schema) = resource.schema() else { return Ok(Vec::new()) };
    let document = Value::Object(std::mem::take(&mut object.0));
    if let Some(text) = decode_error(&schema, &document, resource) {
        return Err(Status::bad_request(text));
    }
    let mode = info.parameter("fieldValidation").unwrap_or("Warn");
    let mut faults = match mode {
        "Ignore" => Vec::new(),
        "Warn" | "Strict" | "" => schema.unknown_fields(&document),
        other => {
            return Err(unknown_validation(other));
        }
    };
    if mode != "Ignore" {
        faults.extend(keelson_api::schema::duplicate_fields(raw));
    }
    if mode == "Strict" && !faults.is_empty() {
        return Err(Status::bad_request(format!("strict decoding error: {}", faults.join(", "))));
    }
    let mut document = document;
    schema.prune(&mut document);
    *object = Object::from_value(document).map_err(Status::internal)?;
    Ok(faults)
}

/// The answer to a `fieldValidation` that does not exist.
pub fn unknown_validation(mode: &str) -> Status {
    Status::bad_request(format!(
        "fieldValidation: Unsupported value: {mode:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
    ))
}
