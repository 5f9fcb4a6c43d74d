//! From documents to values, and back.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use keelson_api::schema::ListType;
use serde_json::{Number, Value as Json};

use super::{Key, List, Map, Opaque, Text, Value};
use crate::declaration::{DYNAMIC, Declaration, Shape};
use crate::error::EvalError;
use crate::types::Type;

static ATOMIC: ListType = ListType::Atomic;

/// A value of a document, as it was declared. What has another type than declared is read by its own.
pub(crate) fn read<'a>(json: &'a Json, declaration: &'a Declaration) -> Value<'a> {
    match (json, &declaration.shape) {
        (Json::Null, _) => Value::Null,
        (Json::Bool(it), _) => Value::Bool(*it),
        (Json::Number(number), _) => self::number(number, &declaration.ty),
        (Json::String(text), _) => self::text(text, &declaration.ty),
        (Json::Array(items), Shape::List(of, kind)) => Value::List(List::Json(items, of, kind)),
        (Json::Array(items), _) => Value::List(List::Json(items, &DYNAMIC, &ATOMIC)),
        (Json::Object(fields), Shape::Map(of)) => Value::Map(Map::Json(fields, of)),
        (Json::Object(fields), Shape::Object(object)) => Value::Map(Map::Object(fields, object)),
        (Json::Object(fields), _) => Value::Map(Map::Json(fields, &DYNAMIC)),
    }
}

#[allow(clippy::cast_possible_truncation)]
fn number<'a>(number: &Number, ty: &Type) -> Value<'a> {
    let double = || Value::Double(number.as_f64().unwrap_or_default());
    match ty {
        Type::Double => double(),
        Type::Uint => number.as_u64().map_or_else(double, Value::Uint),
        Type::Int => match number.as_f64() {
            // 1.0 is a whole number too.
            Some(it) if number.is_f64() && it.fract() == 0.0 && it.abs() < 9e18 => Value::Int(it as i64),
            _ => number.as_i64().map_or_else(double, Value::Int),
        },
        _ => number.as_i64().map_or_else(double, Value::Int),
    }
}

fn text<'a>(text: &'a str, ty: &Type) -> Value<'a> {
    let read = match ty {
        Type::Bytes => STANDARD.decode(text).ok().map(|bytes| Value::Bytes(bytes.into())),
        Type::Timestamp => parse_timestamp(text).map(Value::Timestamp),
        Type::Duration => keelson_api::duration::parse(text).map(Value::Duration),
        _ => None,
    };
    read.unwrap_or(Value::String(Text::Borrowed(text)))
}

/// A point in time, or a date.
pub(crate) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    if let Ok(date) = text.parse::<Date>()
        && text.len() == 10
    {
        return date.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    }
    let is_complete = text.as_bytes().get(10).is_some_and(|byte| matches!(byte, b'T' | b't'));
    text.parse().ok().filter(|_| is_complete)
}

/// A span of time as Go writes it, but in seconds alone: `5400s`.
pub(crate) fn duration_text(nanoseconds: i64) -> String {
    let (sign, rest) =
        if nanoseconds < 0 { ("-", nanoseconds.unsigned_abs()) } else { ("", nanoseconds as u64) };
    let (seconds, fraction) = (rest / 1_000_000_000, rest % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{fraction:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}

impl Value<'_> {
    /// The value as a document.
    ///
    /// # Errors
    /// For values that no document can hold, such as types.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        Ok(match self {
            Value::Null | Value::Optional(None) => Json::Null,
            Value::Bool(it) => Json::Bool(*it),
            Value::Int(it) => Json::from(*it),
            Value::Uint(it) => Json::from(*it),
            Value::Double(it) => Number::from_f64(*it).map_or(Json::Null, Json::Number),
            Value::String(text) => Json::String(text.as_str().to_owned()),
            Value::Bytes(bytes) => Json::String(STANDARD.encode(bytes)),
            Value::Timestamp(it) => Json::String(it.to_string()),
            Value::Duration(it) => Json::String(duration_text(*it)),
            Value::List(List::Json(items, ..)) => Json::Array(items.to_vec()),
            Value::List(list) => {
                Json::Array(list.iter().map(|item| item.to_json()).collect::<Result<_, EvalError>>()?)
            }
            Value::Map(Map::Json(fields, _) | Map::Object(fields, _)) => Json::Object((*fields).clone()),
            Value::Map(map) => {
                let mut fields = serde_json::Map::new();
                for (key, value) in map.entries()? {
                    let Key::Text(name) = key else {
                        return Err(EvalError::Failed(format!("map key {key} is not a string")));
                    };
                    fields.insert(name.to_string(), value.to_json()?);
                }
                Json::Object(fields)
            }
            Value::Optional(Some(value)) => value.to_json()?,
            Value::Opaque(Opaque::Quantity(it)) => Json::String(it.to_string()),
            Value::Opaque(Opaque::Ip(it)) => Json::String(it.to_string()),
            Value::Opaque(Opaque::Cidr(it)) => Json::String(it.to_string()),
            Value::Opaque(Opaque::Url(it)) => Json::String(it.to_string()),
            Value::Opaque(Opaque::Semver(it)) => Json::String(it.to_string()),
            Value::Type(_) | Value::Opaque(Opaque::Format(_) | Opaque::Authorizer(_)) => {
                return Err(EvalError::Failed(format!("a {} cannot be converted to JSON", self.type_of())));
            }
        })
    }
}

impl<'a> List<'a> {
    /// Both lists' items. Sets and lists of type map are united: a later item takes the place of one with its keys.
    pub(crate) fn joined(&self, right: &List<'a>) -> List<'a> {
        let mut items: Vec<Value<'a>> = self.iter().collect();
        match self {
            List::Json(_, _, ListType::Set) => {
                for item in right.iter() {
                    if !items.iter().any(|known| super::equal(known, &item)) {
                        items.push(item);
                    }
                }
            }
            List::Json(_, _, ListType::Map(keys)) => {
                for item in right.iter() {
                    match items.iter_mut().find(|known| super::compare::same_keys(known, &item, keys)) {
                        Some(known) => *known = item,
                        None => items.push(item),
                    }
                }
            }
            List::Json(_, _, ListType::Atomic) | List::Owned(_) => items.extend(right.iter()),
        }
        List::Owned(Arc::new(items))
    }
}
