//! From one type to another.

use jiff::Timestamp;

use super::{Arguments, Outcome};
use crate::error::EvalError;
use crate::value::{Opaque, Value, duration_text, parse_timestamp};

const INT: EvalError = EvalError::Overflow("integer");
const UINT: EvalError = EvalError::Overflow("unsigned integer");

pub(super) fn dynamic<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    args.first().cloned().ok_or(EvalError::NoSuchOverload)
}

pub(super) fn type_of<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    args.first().map(|value| Value::Type(value.type_of())).ok_or(EvalError::NoSuchOverload)
}

fn unreadable(text: &str, ty: &str) -> EvalError {
    EvalError::Failed(format!("type conversion error from 'string' to '{ty}': {text:?}"))
}

#[allow(clippy::cast_possible_truncation)]
pub(super) fn int<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    Ok(Value::Int(match args {
        [Value::Int(it)] => *it,
        [Value::Uint(it)] => i64::try_from(*it).map_err(|_| INT)?,
        [Value::Double(it)] if it.is_finite() && it.abs() < 9.223_372_036_854_775e18 => *it as i64,
        [Value::Double(_)] => return Err(INT),
        [Value::String(text)] => text.as_str().parse().map_err(|_| unreadable(text.as_str(), "int"))?,
        [Value::Timestamp(it)] => it.as_second(),
        [Value::Duration(it)] => *it,
        _ => return Err(EvalError::NoSuchOverload),
    }))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn uint<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    Ok(Value::Uint(match args {
        [Value::Uint(it)] => *it,
        [Value::Int(it)] => u64::try_from(*it).map_err(|_| UINT)?,
        [Value::Double(it)] if *it >= 0.0 && *it < 1.844_674_407_370_955e19 => *it as u64,
        [Value::Double(_)] => return Err(UINT),
        [Value::String(text)] => text.as_str().parse().map_err(|_| unreadable(text.as_str(), "uint"))?,
        _ => return Err(EvalError::NoSuchOverload),
    }))
}

#[allow(clippy::cast_precision_loss)]
pub(super) fn double<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    Ok(Value::Double(match args {
        [Value::Double(it)] => *it,
        [Value::Int(it)] => *it as f64,
        [Value::Uint(it)] => *it as f64,
        [Value::String(text)] => text.as_str().parse().map_err(|_| unreadable(text.as_str(), "double"))?,
        _ => return Err(EvalError::NoSuchOverload),
    }))
}

pub(super) fn boolean<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Bool(it)] => Ok(Value::Bool(*it)),
        [Value::String(text)] => match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            other => Err(unreadable(other, "bool")),
        },
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn bytes<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [value @ Value::Bytes(_)] => Ok(value.clone()),
        [Value::String(text)] => Ok(Value::Bytes(text.as_str().as_bytes().into())),
        _ => Err(EvalError::NoSuchOverload),
    }
}

/// A floating-point number as Go writes it.
pub(super) fn double_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if number != 0.0 && !(1e-4..1e21).contains(&number.abs()) {
        let text = format!("{number:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(("+", exponent), |digits| ("-", digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    format!("{number}")
}

pub(super) fn string<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    Ok(Value::text(match args {
        [value @ Value::String(_)] => return Ok(value.clone()),
        [Value::Bool(it)] => it.to_string(),
        [Value::Int(it)] => it.to_string(),
        [Value::Uint(it)] => it.to_string(),
        [Value::Double(it)] => double_text(*it),
        [Value::Bytes(it)] => String::from_utf8(it.to_vec())
            .map_err(|_| EvalError::Failed("invalid UTF-8 in bytes, cannot convert to string".to_owned()))?,
        [Value::Timestamp(it)] => it.to_string(),
        [Value::Duration(it)] => duration_text(*it),
        [Value::Opaque(Opaque::Ip(it))] => it.to_string(),
        [Value::Opaque(Opaque::Cidr(it))] => it.to_string(),
        _ => return Err(EvalError::NoSuchOverload),
    }))
}

pub(super) fn timestamp<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [value @ Value::Timestamp(_)] => Ok(value.clone()),
        [Value::Int(seconds)] => Timestamp::from_second(*seconds)
            .map(Value::Timestamp)
            .map_err(|_| EvalError::Overflow("timestamp")),
        [Value::String(text)] => parse_timestamp(text.as_str())
            .map(Value::Timestamp)
            .ok_or_else(|| unreadable(text.as_str(), "timestamp")),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn duration<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [value @ Value::Duration(_)] => Ok(value.clone()),
        [Value::Int(it)] => Ok(Value::Duration(*it)),
        [Value::String(text)] => keelson_api::duration::parse(text.as_str())
            .map(Value::Duration)
            .ok_or_else(|| unreadable(text.as_str(), "duration")),
        _ => Err(EvalError::NoSuchOverload),
    }
}
