//! Version 2 documents in the binary form that clients in Go ask for (`openapi.v2.Document` of gnostic).
//!
//! Each message is a table of its fields; what a table does not name and begins with `x-` is a vendor's extension, whose
//! value is text in YAML, of which JSON is a part.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::Value;

/// How a field is written.
#[derive(Clone, Copy)]
enum Kind {
    /// Text.
    Text,
    /// A list of texts.
    Texts,
    /// True or false.
    Flag,
    /// A whole number.
    Integer,
    /// A number.
    Double,
    /// Any value, as YAML.
    Any,
    /// A list of such.
    Anys,
    /// A message.
    Message(&'static Message),
    /// A list of messages.
    Messages(&'static Message),
    /// A message that holds names and messages, in the field of that number.
    Named(u32, &'static Message),
    /// Written by a function.
    With(fn(&Value) -> Vec<u8>),
    /// A list, each written by a function.
    EachWith(fn(&Value) -> Vec<u8>),
}

struct Message {
    fields: &'static [(&'static str, u32, Kind)],
    /// The number of the field that holds extensions.
    extensions: u32,
}

/// The document in its binary form.
pub fn encode(document: &Value) -> Vec<u8> {
    message(&DOCUMENT, document)
}

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Kind::Text),
        ("info", 2, Kind::Message(&INFO)),
        ("paths", 8, Kind::Named(2, &PATH_ITEM)),
        ("definitions", 9, Kind::Named(1, &SCHEMA)),
        ("security", 12, Kind::EachWith(security)),
        ("securityDefinitions", 13, Kind::With(security_definitions)),
    ],
    extensions: 16,
};

static INFO: Message =
    Message { fields: &[("title", 1, Kind::Text), ("version", 2, Kind::Text)], extensions: 7 };

static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 2, Kind::Message(&OPERATION)),
        ("put", 3, Kind::Message(&OPERATION)),
        ("post", 4, Kind::Message(&OPERATION)),
        ("delete", 5, Kind::Message(&OPERATION)),
        ("options", 6, Kind::Message(&OPERATION)),
        ("head", 7, Kind::Message(&OPERATION)),
        ("patch", 8, Kind::Message(&OPERATION)),
        ("parameters", 9, Kind::EachWith(parameter)),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Kind::Texts),
        ("description", 3, Kind::Text),
        ("operationId", 5, Kind::Text),
        ("produces", 6, Kind::Texts),
        ("consumes", 7, Kind::Texts),
        ("parameters", 8, Kind::EachWith(parameter)),
        ("responses", 9, Kind::With(responses)),
        ("schemes", 10, Kind::Texts),
    ],
    extensions: 13,
};

static BODY: Message = Message {
    fields: &[
        ("description", 1, Kind::Text),
        ("name", 2, Kind::Text),
        ("in", 3, Kind::Text),
        ("required", 4, Kind::Flag),
        ("schema", 5, Kind::Message(&SCHEMA)),
    ],
    extensions: 6,
};

static QUERY: Message = Message {
    fields: &[
        ("required", 1, Kind::Flag),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 6, Kind::Text),
        ("format", 7, Kind::Text),
        ("uniqueItems", 20, Kind::Flag),
    ],
    extensions: 23,
};

static PATH: Message = Message {
    fields: &[
        ("required", 1, Kind::Flag),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 5, Kind::Text),
        ("format", 6, Kind::Text),
        ("uniqueItems", 19, Kind::Flag),
    ],
    extensions: 22,
};

static RESPONSE: Message = Message {
    fields: &[("description", 1, Kind::Text), ("schema", 2, Kind::With(schema_item))],
    extensions: 5,
};

static API_KEY: Message = Message {
    fields: &[
        ("type", 1, Kind::Text),
        ("name", 2, Kind::Text),
        ("in", 3, Kind::Text),
        ("description", 4, Kind::Text),
    ],
    extensions: 5,
};

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Kind::Text),
        ("format", 2, Kind::Text),
        ("title", 3, Kind::Text),
        ("description", 4, Kind::Text),
        ("default", 5, Kind::Any),
        ("multipleOf", 6, Kind::Double),
        ("maximum", 7, Kind::Double),
        ("exclusiveMaximum", 8, Kind::Flag),
        ("minimum", 9, Kind::Double),
        ("exclusiveMinimum", 10, Kind::Flag),
        ("maxLength", 11, Kind::Integer),
        ("minLength", 12, Kind::Integer),
        ("pattern", 13, Kind::Text),
        ("maxItems", 14, Kind::Integer),
        ("minItems", 15, Kind::Integer),
        ("uniqueItems", 16, Kind::Flag),
        ("maxProperties", 17, Kind::Integer),
        ("minProperties", 18, Kind::Integer),
        ("required", 19, Kind::Texts),
        ("enum", 20, Kind::Anys),
        ("additionalProperties", 21, Kind::With(additional)),
        ("type", 22, Kind::With(type_item)),
        ("items", 23, Kind::With(schema_item)),
        ("allOf", 24, Kind::Messages(&SCHEMA)),
        ("properties", 25, Kind::Named(1, &SCHEMA)),
        ("example", 30, Kind::Any),
    ],
    extensions: 31,
};

fn put(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_number(out: &mut Vec<u8>, tag: u32, number: u64) {
    encode_key(tag, WireType::Varint, out);
    encode_varint(number, out);
}

fn message(shape: &Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, tag, kind) in shape.fields {
        if let Some(value) = value.get(name) {
            field(&mut out, *tag, *kind, value);
        }
    }
    for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        put(&mut out, shape.extensions, &named(name, &any(value)));
    }
    out
}

fn field(out: &mut Vec<u8>, tag: u32, kind: Kind, value: &Value) {
    let items = || value.as_array().into_iter().flatten();
    match kind {
        Kind::Text => put(out, tag, value.as_str().unwrap_or_default().as_bytes()),
        Kind::Texts => items().filter_map(Value::as_str).for_each(|text| put(out, tag, text.as_bytes())),
        Kind::Flag => put_number(out, tag, u64::from(value.as_bool().unwrap_or_default())),
        // Negative numbers are sent as their two's complement.
        Kind::Integer => put_number(out, tag, value.as_i64().unwrap_or_default() as u64),
        Kind::Double => {
            encode_key(tag, WireType::SixtyFourBit, out);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Kind::Any => put(out, tag, &any(value)),
        Kind::Anys => items().for_each(|item| put(out, tag, &any(item))),
        Kind::Message(shape) => put(out, tag, &message(shape, value)),
        Kind::Messages(shape) => items().for_each(|item| put(out, tag, &message(shape, item))),
        Kind::Named(inner, shape) => {
            let mut all = Vec::new();
            for (name, value) in value.as_object().into_iter().flatten() {
                put(&mut all, inner, &named(name, &message(shape, value)));
            }
            put(out, tag, &all);
        }
        Kind::With(write) => put(out, tag, &write(value)),
        Kind::EachWith(write) => items().for_each(|item| put(out, tag, &write(item))),
    }
}

fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, 1, name.as_bytes());
    put(&mut out, 2, value);
    out
}

fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, 2, format!("{value}\n").as_bytes());
    out
}

/// A message with one field.
fn only(tag: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, tag, value);
    out
}

fn parameter(value: &Value) -> Vec<u8> {
    let parameter = match value["in"].as_str() {
        Some("body") => only(1, &message(&BODY, value)),
        Some("path") => only(2, &only(4, &message(&PATH, value))),
        Some(_) | None => only(2, &only(3, &message(&QUERY, value))),
    };
    only(1, &parameter)
}

fn responses(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (code, response) in value.as_object().into_iter().flatten() {
        put(&mut out, 1, &named(code, &only(1, &message(&RESPONSE, response))));
    }
    out
}

fn schema_item(value: &Value) -> Vec<u8> {
    only(1, &message(&SCHEMA, value))
}

fn additional(value: &Value) -> Vec<u8> {
    match value {
        Value::Bool(flag) => {
            let mut out = Vec::new();
            put_number(&mut out, 2, u64::from(*flag));
            out
        }
        schema => schema_item(schema),
    }
}

fn type_item(value: &Value) -> Vec<u8> {
    only(1, value.as_str().unwrap_or_default().as_bytes())
}

fn security(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, scopes) in value.as_object().into_iter().flatten() {
        let mut list = Vec::new();
        for scope in scopes.as_array().into_iter().flatten().filter_map(Value::as_str) {
            put(&mut list, 1, scope.as_bytes());
        }
        put(&mut out, 1, &named(name, &list));
    }
    out
}

fn security_definitions(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, definition) in value.as_object().into_iter().flatten() {
        put(&mut out, 1, &named(name, &only(2, &message(&API_KEY, definition))));
    }
    out
}
