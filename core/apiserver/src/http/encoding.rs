//! Documents in the encoding that a client asked for, where they were made as JSON.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use keelson_api::document::yaml_text;
use keelson_api::protobuf;
use serde_json::Value;

use super::negotiation::{Form, Media, Wanted};

/// Brings a whole JSON answer into the encoding that is wanted. What has no message in protobuf stays JSON, and so does
/// a stream.
pub(super) async fn finish(response: Response, wanted: Wanted) -> Response {
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let is_whole = response.body().size_hint().exact().is_some();
    if !is_json || !is_whole || (wanted.media == Media::Json && !wanted.pretty) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(collected) = body.collect().await else {
        // A body of known length is in memory: it cannot fail.
        return Response::from_parts(parts, Body::empty());
    };
    let json = collected.to_bytes();
    let (bytes, media) = match encode(&json, wanted) {
        Some(bytes) => (bytes.into(), wanted.media),
        None => (json, Media::Json),
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type(media, wanted.form)));
    Response::from_parts(parts, Body::from(bytes))
}

/// The media type of an answer, which of aggregated discovery says what it is.
pub(super) fn media_type(media: Media, form: Form) -> &'static str {
    match (form, media) {
        (Form::AggregatedDiscovery, Media::Json) => {
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        }
        (Form::AggregatedDiscovery, Media::Yaml) => {
            "application/yaml;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        }
        (Form::AggregatedDiscovery, Media::Protobuf) => {
            "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        }
        (Form::Object | Form::Table | Form::Metadata, media) => media.name(),
    }
}

/// An answer in protobuf.
pub(super) fn protobuf(code: http::StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = code;
    let kind = HeaderValue::from_static(Media::Protobuf.name());
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn encode(json: &Bytes, wanted: Wanted) -> Option<Vec<u8>> {
    match wanted.media {
        Media::Json => Some(indent(json)),
        Media::Yaml => {
            let value: Value = serde_json::from_slice(json).ok()?;
            Some(yaml_text::write(&value).into_bytes())
        }
        Media::Protobuf => protobuf::document(json).ok(),
    }
}

/// Lays JSON out in lines, by two spaces a level.
fn indent(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let (mut level, mut in_text, mut escaped) = (0_usize, false, false);
    let line = |out: &mut Vec<u8>, level: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * level, b' ');
    };
    let mut bytes = json.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if in_text {
            out.push(byte);
            in_text = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => {
                in_text = true;
                out.push(byte);
            }
            b'{' | b'[' => {
                out.push(byte);
                while bytes.next_if(u8::is_ascii_whitespace).is_some() {}
                match bytes.next_if(|next| matches!(next, b'}' | b']')) {
                    Some(end) => out.push(end),
                    None => {
                        level += 1;
                        line(&mut out, level);
                    }
                }
            }
            b'}' | b']' => {
                level = level.saturating_sub(1);
                line(&mut out, level);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, level);
            }
            b':' => out.extend_from_slice(b": "),
            _ if byte.is_ascii_whitespace() => {}
            _ => out.push(byte),
        }
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_for_people_is_laid_out_as_serde_does() {
        let value = serde_json::json!({"a": {}, "b": [], "c": [1, {"d": "x:{\"\\"}], "e": null});
        let pretty = indent(value.to_string().as_bytes());
        assert_eq!(String::from_utf8(pretty).unwrap(), format!("{value:#}\n"));
    }
}
