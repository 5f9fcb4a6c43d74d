//! Request bodies.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, Limited};
use keelson_api::document::MAX_DEPTH;
use keelson_api::{GroupVersionKind, Object, Status};
use serde_json::Value;

use crate::registry::MAX_OBJECT_BYTES;

/// The media type of protobuf.
pub(super) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
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
