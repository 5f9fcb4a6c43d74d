//! Documents in Kubernetes' binary encoding (`application/vnd.kubernetes.protobuf`), read into JSON.
//!
//! The envelope is `k8s\0` and a `runtime.Unknown` that names the kind. The fields of each message are data, generated
//! from the published protocol. The encoding writes a zero for every field that is not a pointer in Go, so that a
//! zero is dropped where JSON would omit it.

use std::collections::HashMap;
use std::io::Read;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use prost::encoding::{WireType, decode_key, decode_varint};
use serde_json::{Map, Value};

#[cfg(test)]
mod tests;

static DATA: &[u8] = include_bytes!("../data/protobuf.json.gz");
const MAGIC: &[u8] = b"k8s\0";
/// The deepest nesting that is read.
const DEPTH: usize = 64;

/// Why bytes are not a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// They do not start as one.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    /// They are cut or malformed.
    #[error("unable to decode the protobuf message: {0}")]
    Malformed(&'static str),
    /// The kind is not known.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// The API version that the envelope names.
        api_version: String,
        /// The kind that it names.
        kind: String,
    },
}

struct Field {
    json: String,
    kind: String,
    message: Option<String>,
    keeps_zero: bool,
}

type Messages = HashMap<String, HashMap<u32, Field>>;
/// A field as the data has it: JSON name, type, message, whether its zero is kept.
type Row = (String, String, Option<String>, bool);

fn messages() -> &'static Messages {
    static ALL: OnceLock<Messages> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut text = Vec::new();
        // The data is a part of the program; that it can be read is tested.
        if flate2::read::GzDecoder::new(DATA).read_to_end(&mut text).is_err() {
            return Messages::new();
        }
        let all: HashMap<String, HashMap<u32, Row>> = serde_json::from_slice(&text).unwrap_or_default();
        let field = |(json, kind, message, keeps_zero): Row| Field { json, kind, message, keeps_zero };
        all.into_iter()
            .map(|(name, fields)| (name, fields.into_iter().map(|(tag, it)| (tag, field(it))).collect()))
            .collect()
    })
}

/// Reads a document with its envelope.
pub fn decode(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Prefix)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for item in Reader(envelope) {
        match item? {
            (1, Wire::Bytes(meta)) => {
                for item in Reader(meta) {
                    match item? {
                        (1, Wire::Bytes(text)) => api_version = string(text)?,
                        (2, Wire::Bytes(text)) => kind = string(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(content)) => raw = content,
            _ => {}
        }
    }
    let unknown = || ProtobufError::UnknownKind { api_version: api_version.clone(), kind: kind.clone() };
    let name = definition(&api_version, &kind).ok_or_else(unknown)?;
    let mut object = Map::new();
    message(&name, raw, &mut object, 0)?;
    object.insert("apiVersion".into(), api_version.as_str().into());
    object.insert("kind".into(), kind.as_str().into());
    Ok(Value::Object(object))
}

/// The message of a kind: by its group's usual place, or among those that every group shares.
fn definition(api_version: &str, kind: &str) -> Option<String> {
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let short = group.split('.').next().unwrap_or(group);
    let place = match group {
        "apiextensions.k8s.io" => {
            format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}")
        }
        "apiregistration.k8s.io" => {
            format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}")
        }
        "rbac.authorization.k8s.io" => format!("io.k8s.api.rbac.{version}.{kind}"),
        "flowcontrol.apiserver.k8s.io" => format!("io.k8s.api.flowcontrol.{version}.{kind}"),
        _ => format!("io.k8s.api.{short}.{version}.{kind}"),
    };
    let shared = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}");
    [place, shared].into_iter().find(|name| messages().contains_key(name))
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let (head, rest) =
            self.0.split_at_checked(length).ok_or(ProtobufError::Malformed("unexpected end"))?;
        self.0 = rest;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        decode_varint(&mut self.0).map_err(|_| ProtobufError::Malformed("a number is not right"))
    }

    fn read(&mut self) -> Result<(u32, Wire<'a>), ProtobufError> {
        let (tag, wire) =
            decode_key(&mut self.0).map_err(|_| ProtobufError::Malformed("a field's key is not right"))?;
        let value = match wire {
            WireType::Varint => Wire::Number(self.varint()?),
            WireType::SixtyFourBit => {
                let bytes = self.take(8)?;
                Wire::Number(bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
            }
            WireType::ThirtyTwoBit => {
                let bytes = self.take(4)?;
                Wire::Number(bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
            }
            WireType::LengthDelimited => {
                let length = usize::try_from(self.varint()?)
                    .map_err(|_| ProtobufError::Malformed("a length is out of range"))?;
                Wire::Bytes(self.take(length)?)
            }
            WireType::StartGroup | WireType::EndGroup => {
                return Err(ProtobufError::Malformed("groups are not used"));
            }
        };
        Ok((tag, value))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<(u32, Wire<'a>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let item = self.read();
        if item.is_err() {
            self.0 = &[];
        }
        Some(item)
    }
}

fn string(bytes: &[u8]) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Malformed("a text is not UTF-8"))
}

/// Reads a message's fields into an object.
fn message(
    name: &str,
    bytes: &[u8],
    into: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    if depth > DEPTH {
        return Err(ProtobufError::Malformed("it is nested too deep"));
    }
    let Some(fields) = messages().get(name) else {
        return Err(ProtobufError::Malformed("it holds a message that is not known"));
    };
    for item in Reader(bytes) {
        let (tag, wire) = item?;
        let Some(field) = fields.get(&tag) else { continue };
        if field.json.is_empty()
            && let (Some(child), Wire::Bytes(bytes)) = (&field.message, &wire)
        {
            message(child, bytes, into, depth + 1)?;
            continue;
        }
        let child = field.message.as_deref();
        match field.kind.split_at(field.kind.len().saturating_sub(1)) {
            ("R", kind) => {
                let value = scalar(kind, child, &wire, depth)?;
                let list = into.entry(field.json.clone()).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    list.push(value);
                }
            }
            ("M", kind) => {
                let Wire::Bytes(bytes) = wire else {
                    return Err(ProtobufError::Malformed("a map has no entries"));
                };
                let (key, value) = entry(kind, child, bytes, depth)?;
                let map = into.entry(field.json.clone()).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = map {
                    map.insert(key, value);
                }
            }
            (_, kind) => {
                let value = scalar(kind, child, &wire, depth)?;
                if field.keeps_zero || !is_zero(&value) {
                    into.insert(field.json.clone(), value);
                }
            }
        }
    }
    Ok(())
}

/// What stands for nothing having been said. An empty object was said, but for a time's, which is null.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Array(_) | Value::Object(_) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
    }
}

fn entry(
    kind: &str,
    child: Option<&str>,
    bytes: &[u8],
    depth: usize,
) -> Result<(String, Value), ProtobufError> {
    let mut key = String::new();
    let mut value = if kind == "m" { Value::Object(Map::new()) } else { Value::String(String::new()) };
    for item in Reader(bytes) {
        match item? {
            (1, Wire::Bytes(text)) => key = string(text)?,
            (2, wire) => value = scalar(kind, child, &wire, depth)?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn scalar(kind: &str, child: Option<&str>, wire: &Wire<'_>, depth: usize) -> Result<Value, ProtobufError> {
    match (kind, wire) {
        ("s", Wire::Bytes(bytes)) => string(bytes).map(Value::String),
        ("y", Wire::Bytes(bytes)) => Ok(STANDARD.encode(bytes).into()),
        // Negative numbers are sent as their two's complement.
        ("i", Wire::Number(number)) => Ok((*number as i64).into()),
        ("b", Wire::Number(number)) => Ok((*number != 0).into()),
        ("d", Wire::Number(number)) => Ok(f64::from_bits(*number).into()),
        ("m", Wire::Bytes(bytes)) => special(child.unwrap_or_default(), bytes, depth + 1),
        _ => Err(ProtobufError::Malformed("a field has the wrong type")),
    }
}

/// Messages that JSON writes in another form.
fn special(name: &str, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let mut object = Map::new();
    let short = name.rsplit('.').next().unwrap_or(name);
    if name.starts_with("io.k8s.apimachinery.") || short == "JSON" {
        match short {
            "Time" | "MicroTime" | "Timestamp" => return time(bytes, short),
            "Quantity" => return text(bytes),
            "IntOrString" => return int_or_string(bytes),
            "RawExtension" | "FieldsV1" | "JSON" => return embedded(bytes),
            _ => {}
        }
    }
    message(name, bytes, &mut object, depth)?;
    // A list that is a type of its own, such as the values of `extra`.
    if object.len() == 1
        && matches!(short, "ExtraValue" | "Verbs")
        && let Some(items) = object.remove("items")
    {
        return Ok(items);
    }
    Ok(Value::Object(object))
}

fn text(bytes: &[u8]) -> Result<Value, ProtobufError> {
    for item in Reader(bytes) {
        if let (1, Wire::Bytes(text)) = item? {
            return string(text).map(Value::String);
        }
    }
    Ok(Value::String("0".to_owned()))
}

fn time(bytes: &[u8], short: &str) -> Result<Value, ProtobufError> {
    let (mut seconds, mut nanos) = (None, 0);
    for item in Reader(bytes) {
        match item? {
            (1, Wire::Number(number)) => seconds = Some(number as i64),
            (2, Wire::Number(number)) => nanos = number as i32,
            _ => {}
        }
    }
    let Some(seconds) = seconds else { return Ok(Value::Null) };
    let time =
        Timestamp::new(seconds, nanos).map_err(|_| ProtobufError::Malformed("a time is out of range"))?;
    Ok(match short {
        "MicroTime" => format!("{time:.6}").into(),
        _ => crate::object::format_time(time).into(),
    })
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for item in Reader(bytes) {
        match item? {
            (1, Wire::Number(kind)) => is_text = kind == 1,
            (2, Wire::Number(value)) => number = value as i32,
            (3, Wire::Bytes(bytes)) => text = string(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

fn embedded(bytes: &[u8]) -> Result<Value, ProtobufError> {
    for item in Reader(bytes) {
        if let (1, Wire::Bytes(raw)) = item? {
            return serde_json::from_slice(raw)
                .map_err(|_| ProtobufError::Malformed("an embedded document is not JSON"));
        }
    }
    Ok(Value::Null)
}
