//! Operators.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{Arguments, Outcome};
use crate::error::EvalError;
use crate::value::{Key, List, Map, Value, compare, equal};

const INT: EvalError = EvalError::Overflow("integer");
const UINT: EvalError = EvalError::Overflow("unsigned integer");
const DURATION: EvalError = EvalError::Overflow("duration");
const TIMESTAMP: EvalError = EvalError::Overflow("timestamp");

pub(super) fn not<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Bool(it)] => Ok(Value::Bool(!it)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn negate<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Int(it)] => it.checked_neg().map(Value::Int).ok_or(INT),
        [Value::Double(it)] => Ok(Value::Double(-it)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn shift<'a>(time: &Timestamp, nanoseconds: i64) -> Outcome<'a> {
    let moved = time.checked_add(SignedDuration::from_nanos(nanoseconds)).map_err(|_| TIMESTAMP)?;
    let year = moved.to_zoned(jiff::tz::TimeZone::UTC).year();
    if (1..=9999).contains(&year) { Ok(Value::Timestamp(moved)) } else { Err(TIMESTAMP) }
}

pub(super) fn add<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Int(left), Value::Int(right)] => left.checked_add(*right).map(Value::Int).ok_or(INT),
        [Value::Uint(left), Value::Uint(right)] => left.checked_add(*right).map(Value::Uint).ok_or(UINT),
        [Value::Double(left), Value::Double(right)] => Ok(Value::Double(left + right)),
        [Value::String(left), Value::String(right)] => {
            Ok(Value::text([left.as_str(), right.as_str()].concat()))
        }
        [Value::Bytes(left), Value::Bytes(right)] => {
            Ok(Value::Bytes([&left[..], &right[..]].concat().into()))
        }
        [Value::List(left), Value::List(right)] => Ok(Value::List(left.joined(right))),
        [Value::Timestamp(time), Value::Duration(span)] | [Value::Duration(span), Value::Timestamp(time)] => {
            shift(time, *span)
        }
        [Value::Duration(left), Value::Duration(right)] => {
            left.checked_add(*right).map(Value::Duration).ok_or(DURATION)
        }
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn subtract<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Int(left), Value::Int(right)] => left.checked_sub(*right).map(Value::Int).ok_or(INT),
        [Value::Uint(left), Value::Uint(right)] => left.checked_sub(*right).map(Value::Uint).ok_or(UINT),
        [Value::Double(left), Value::Double(right)] => Ok(Value::Double(left - right)),
        [Value::Timestamp(left), Value::Timestamp(right)] => {
            let span = left.duration_since(*right).as_nanos();
            i64::try_from(span).map(Value::Duration).map_err(|_| DURATION)
        }
        [Value::Timestamp(time), Value::Duration(span)] => shift(time, span.checked_neg().ok_or(DURATION)?),
        [Value::Duration(left), Value::Duration(right)] => {
            left.checked_sub(*right).map(Value::Duration).ok_or(DURATION)
        }
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn multiply<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Int(left), Value::Int(right)] => left.checked_mul(*right).map(Value::Int).ok_or(INT),
        [Value::Uint(left), Value::Uint(right)] => left.checked_mul(*right).map(Value::Uint).ok_or(UINT),
        [Value::Double(left), Value::Double(right)] => Ok(Value::Double(left * right)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn divide<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(EvalError::DivisionByZero),
        [Value::Int(left), Value::Int(right)] => left.checked_div(*right).map(Value::Int).ok_or(INT),
        [Value::Uint(left), Value::Uint(right)] => Ok(Value::Uint(left / right)),
        [Value::Double(left), Value::Double(right)] => Ok(Value::Double(left / right)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn modulo<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(EvalError::ModulusByZero),
        [Value::Int(left), Value::Int(right)] => left.checked_rem(*right).map(Value::Int).ok_or(INT),
        [Value::Uint(left), Value::Uint(right)] => Ok(Value::Uint(left % right)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn equals<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [left, right] => Ok(Value::Bool(equal(left, right))),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn differs<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [left, right] => Ok(Value::Bool(!equal(left, right))),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn ordered<'a>(args: Arguments<'a, '_>, fits: fn(Ordering) -> bool) -> Outcome<'a> {
    let [left, right] = args else { return Err(EvalError::NoSuchOverload) };
    match compare(left, right) {
        Some(order) => Ok(Value::Bool(fits(order))),
        // Nothing is less or more than what is no number.
        None if is_number(left) && is_number(right) => Ok(Value::Bool(false)),
        None => Err(EvalError::NoSuchOverload),
    }
}

fn is_number(value: &Value<'_>) -> bool {
    matches!(value, Value::Int(_) | Value::Uint(_) | Value::Double(_))
}

pub(super) fn less<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    ordered(args, Ordering::is_lt)
}

pub(super) fn at_most<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    ordered(args, Ordering::is_le)
}

pub(super) fn greater<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    ordered(args, Ordering::is_gt)
}

pub(super) fn at_least<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    ordered(args, Ordering::is_ge)
}

pub(super) fn is_in<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [value, Value::List(list)] => Ok(Value::Bool(list.iter().any(|item| equal(value, &item)))),
        [value, Value::Map(map)] => {
            let found = match Key::of(value) {
                Some(key) => map.get(&key)?.is_some(),
                None => false,
            };
            Ok(Value::Bool(found))
        }
        _ => Err(EvalError::NoSuchOverload),
    }
}

enum Found<'a> {
    Value(Value<'a>),
    Missing(EvalError),
}

fn look<'a>(container: &Value<'a>, index: &Value<'a>) -> Result<Found<'a>, EvalError> {
    Ok(match container {
        Value::List(list) => {
            let Some(Key::Number(at)) = Key::of(index) else { return Err(EvalError::NoSuchOverload) };
            match usize::try_from(at).ok().and_then(|at| List::get(list, at)) {
                Some(item) => Found::Value(item),
                None => Found::Missing(EvalError::OutOfBounds(at.to_string())),
            }
        }
        Value::Map(map) => {
            let Some(key) = Key::of(index) else { return Err(EvalError::NoSuchOverload) };
            match Map::get(map, &key)? {
                Some(value) => Found::Value(value),
                None => Found::Missing(EvalError::NoSuchKey(key.to_string())),
            }
        }
        _ => return Err(EvalError::NoSuchOverload),
    })
}

pub(super) fn index<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let [container, at] = args else { return Err(EvalError::NoSuchOverload) };
    if matches!(container, Value::Optional(_)) {
        return optional_index(args);
    }
    match look(container, at)? {
        Found::Value(value) => Ok(value),
        Found::Missing(error) => Err(error),
    }
}

pub(super) fn optional_index<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let [container, at] = args else { return Err(EvalError::NoSuchOverload) };
    let inner: &Value<'a> = match container {
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => inner,
        other => other,
    };
    Ok(match look(inner, at)? {
        Found::Value(value) => Value::Optional(Some(Arc::new(value))),
        Found::Missing(_) => Value::Optional(None),
    })
}
