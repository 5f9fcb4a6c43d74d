//! Request bodies.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, Limited};
use keelson_api::document::{MAX_DEPTH, json_text};
use keelson_api::{GroupVersionKind, Object, Schema, Status};
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

/// Decodes JSON or YAML, a document with the fields of an object.
pub fn value(headers: &HeaderMap, bytes: &[u8]) -> Result<Value, Status> {
    let unreadable =
        |why: String| Status::bad_request(format!("couldn't get version/kind; json parse error: {why}"));
    let value = match media_type(headers).as_str() {
        "" | "application/json" | "*/*" => json(bytes).map_err(unreadable)?,
        "application/yaml" => yaml(bytes)?,
        PROTOBUF => {
            return keelson_api::protobuf::decode(bytes)
                .map_err(|error| Status::bad_request(error.to_string()));
        }
        _ => return Err(Status::unsupported_media_type(&ACCEPTED)),
    };
    json_text::check_kind(&value).map_err(unreadable)?;
    Ok(value)
}

/// Decodes JSON, a whole text; an error is in upstream's words.
pub fn json(bytes: &[u8]) -> Result<Value, String> {
    let mut text = serde_json::Deserializer::from_slice(bytes);
    let value = keelson_api::document::read(&mut text).and_then(|value| text.end().map(|()| value));
    value.map_err(|error| json_text::fault(bytes, &error))
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
    check_kind(&object, expected)?;
    object.set_gvk(expected);
    Ok(object)
}

/// Refuses a document of another kind or version than is expected; what it does not say is taken to be that.
fn check_kind(object: &Object, expected: &GroupVersionKind) -> Result<(), Status> {
    let text =
        |own: &str, otherwise: &str| if own.is_empty() { otherwise.to_owned() } else { own.to_owned() };
    let api_version = text(object.api_version(), &expected.api_version());
    let own = GroupVersionKind::from_api_version(&api_version, &text(object.kind(), &expected.kind));
    if own == *expected {
        return Ok(());
    }
    let is_known = |kind: &GroupVersionKind| Schema::builtin(kind).is_some();
    let mismatch = |what: &str, own: &str, expected: &str| {
        Status::bad_request(format!(
            "the {what} in the data ({own}) does not match the expected {what} ({expected})"
        ))
    };
    Err(match (is_known(expected), is_known(&own), own.kind == expected.kind) {
        (true, false, _) => Status::bad_request(format!(
            "no kind {:?} is registered for version {:?} in scheme {SCHEME:?}",
            own.kind,
            own.api_version()
        )),
        (true, true, false) => {
            let (kind, version) = (&own.kind, &own.version);
            Status::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {}: converting ({version}.{kind}) to ({}.{}): unknown conversion",
                expected.kind,
                package(&expected.group),
                expected.kind
            ))
        }
        (_, _, true) => mismatch("API version", &own.api_version(), &expected.api_version()),
        (false, _, false) => mismatch("kind", &own.kind, &expected.kind),
    })
}

/// Where upstream's kinds are registered, which its refusals name.
const SCHEME: &str = "k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30";

/// The Go package of a group's own form.
fn package(group: &str) -> &str {
    match group.split('.').next() {
        Some("") | None => "core",
        Some(first) => first,
    }
}
