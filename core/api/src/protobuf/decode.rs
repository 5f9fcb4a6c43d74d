//! The binary encoding read into JSON. It writes a zero for every field that is not a pointer in Go, so that a zero is
//! dropped where JSON would omit it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use prost::encoding::{WireType, decode_key, decode_varint};
use serde_json::{Map, Value};

use super::table::{Form, Layout, Scalar, Shape, Table};
use super::{DEPTH, MAGIC, ProtobufError};

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
    let table = Table::get();
    let Some(found) = table.find(&api_version, &kind) else {
        return Err(ProtobufError::UnknownKind { api_version, kind });
    };
    let mut object = Map::new();
    message(found, raw, &mut object, 0)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
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

/// The layout of a message, which is there: the table names no other.
fn layout(message: usize) -> Result<&'static Layout, ProtobufError> {
    Table::get().layout(message).ok_or(ProtobufError::Malformed("it holds a message that is not known"))
}

/// Reads a message's fields into an object.
fn message(
    message: usize,
    bytes: &[u8],
    into: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    if depth > DEPTH {
        return Err(ProtobufError::Malformed("it is nested too deep"));
    }
    let layout = layout(message)?;
    for item in Reader(bytes) {
        let (tag, wire) = item?;
        let Some(field) = layout.tagged(tag) else { continue };
        if field.json.is_empty()
            && let (Scalar::Message(child), Wire::Bytes(bytes)) = (field.scalar, &wire)
        {
            self::message(child, bytes, into, depth + 1)?;
            continue;
        }
        match field.shape {
            Shape::List => {
                let list = into.entry(&*field.json).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    repeated(field.scalar, wire, depth, list)?;
                }
            }
            Shape::Map => {
                let Wire::Bytes(bytes) = wire else {
                    return Err(ProtobufError::Malformed("a map has no entries"));
                };
                let (key, value) = entry(field.scalar, bytes, depth)?;
                let map = into.entry(&*field.json).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = map {
                    map.insert(key, value);
                }
            }
            Shape::One => {
                let value = scalar(field.scalar, &wire, depth)?;
                let is_said = matches!((field.scalar, &value), (Scalar::Message(_), Value::Bool(_)));
                if field.keeps_zero || is_said || !is_zero(&value) {
                    into.insert((*field.json).to_owned(), value);
                }
            }
        }
    }
    Ok(())
}

/// One item of a list, or several numbers that are packed.
fn repeated(kind: Scalar, wire: Wire<'_>, depth: usize, list: &mut Vec<Value>) -> Result<(), ProtobufError> {
    match (kind, wire) {
        (Scalar::Integer | Scalar::Boolean, Wire::Bytes(packed)) => {
            let mut reader = Reader(packed);
            while !reader.0.is_empty() {
                let number = Wire::Number(reader.varint()?);
                list.push(scalar(kind, &number, depth)?);
            }
        }
        (kind, wire) => list.push(scalar(kind, &wire, depth)?),
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

fn entry(kind: Scalar, bytes: &[u8], depth: usize) -> Result<(String, Value), ProtobufError> {
    let mut key = String::new();
    let mut value = match kind {
        Scalar::Message(_) => scalar(kind, &Wire::Bytes(&[]), depth)?,
        Scalar::Text | Scalar::Bytes => Value::String(String::new()),
        Scalar::Integer | Scalar::Double => 0.into(),
        Scalar::Boolean => false.into(),
    };
    for item in Reader(bytes) {
        match item? {
            (1, Wire::Bytes(text)) => key = string(text)?,
            (2, wire) => value = scalar(kind, &wire, depth)?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn scalar(kind: Scalar, wire: &Wire<'_>, depth: usize) -> Result<Value, ProtobufError> {
    match (kind, wire) {
        (Scalar::Text, Wire::Bytes(bytes)) => string(bytes).map(Value::String),
        (Scalar::Bytes, Wire::Bytes(bytes)) => Ok(STANDARD.encode(bytes).into()),
        // Negative numbers are sent as their two's complement.
        (Scalar::Integer, Wire::Number(number)) => Ok((*number as i64).into()),
        (Scalar::Boolean, Wire::Number(number)) => Ok((*number != 0).into()),
        (Scalar::Double, Wire::Number(number)) => Ok(f64::from_bits(*number).into()),
        (Scalar::Message(message), Wire::Bytes(bytes)) => special(message, bytes, depth + 1),
        _ => Err(ProtobufError::Malformed("a field has the wrong type")),
    }
}

/// A message in the form that JSON gives it.
fn special(name: usize, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let form = layout(name)?.form;
    match form {
        Form::Time | Form::MicroTime => return time(bytes, form),
        Form::Quantity => return text(bytes),
        Form::IntOrString => return int_or_string(bytes),
        Form::Embedded => return embedded(bytes, depth),
        Form::Object | Form::Items | Form::SchemaOrBool | Form::SchemaOrArray | Form::SchemaOrNames => {}
    }
    let mut object = Map::new();
    message(name, bytes, &mut object, depth)?;
    let mut take = |field: &str| object.remove(field);
    let none = || Value::Array(Vec::new());
    Ok(match form {
        Form::Items => take("items").unwrap_or_else(none),
        Form::SchemaOrBool => {
            let allows = take("allows").is_some();
            take("schema").unwrap_or(Value::Bool(allows))
        }
        Form::SchemaOrArray => take("schema").or_else(|| take(SCHEMAS)).unwrap_or_else(none),
        Form::SchemaOrNames => take("property").or_else(|| take("schema")).unwrap_or_else(none),
        _ => Value::Object(object),
    })
}

/// The field of a list of schemas, as the protocol spells it.
const SCHEMAS: &str = "jSonSchemas";

fn text(bytes: &[u8]) -> Result<Value, ProtobufError> {
    for item in Reader(bytes) {
        if let (1, Wire::Bytes(text)) = item? {
            return string(text).map(Value::String);
        }
    }
    Ok(Value::String("0".to_owned()))
}

fn time(bytes: &[u8], form: Form) -> Result<Value, ProtobufError> {
    let (mut seconds, mut nanos) = (None, 0);
    for item in Reader(bytes) {
        match item? {
            (1, Wire::Number(number)) => seconds = Some(number as i64),
            (2, Wire::Number(number)) => nanos = number as i32,
            _ => {}
        }
    }
    // A message without fields is no time; one with a zero left out is.
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let time = Timestamp::new(seconds.unwrap_or(0), nanos)
        .map_err(|_| ProtobufError::Malformed("a time is out of range"))?;
    Ok(match form {
        Form::MicroTime => format!("{time:.6}").into(),
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

fn embedded(bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    for item in Reader(bytes) {
        if let (1, Wire::Bytes(raw)) = item? {
            let value = serde_json::from_slice(raw)
                .map_err(|_| ProtobufError::Malformed("an embedded document is not JSON"))?;
            return match crate::object::depth(&value) + depth > DEPTH {
                true => Err(ProtobufError::Malformed("it is nested too deep")),
                false => Ok(value),
            };
        }
    }
    Ok(Value::Null)
}
