//! Values that may be missing.

use super::{Arguments, Outcome};
use crate::error::EvalError;
use crate::value::Value;

pub(super) fn of<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    args.first().map(|value| Value::optional(Some(value.clone()))).ok_or(EvalError::NoSuchOverload)
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Optional(None) => true,
        Value::Bool(it) => !it,
        Value::Int(it) => *it == 0,
        Value::Uint(it) => *it == 0,
        Value::Double(it) => *it == 0.0,
        Value::String(it) => it.as_str().is_empty(),
        Value::Bytes(it) => it.is_empty(),
        Value::Duration(it) => *it == 0,
        Value::Timestamp(it) => it.as_nanosecond() == 0,
        Value::List(it) => it.is_empty(),
        Value::Map(it) => it.is_empty(),
        Value::Optional(Some(_)) | Value::Type(_) | Value::Opaque(_) => false,
    }
}

pub(super) fn of_non_zero<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let value = args.first().ok_or(EvalError::NoSuchOverload)?;
    Ok(Value::optional((!is_zero(value)).then(|| value.clone())))
}

pub(super) fn none<'a>(_: Arguments<'a, '_>) -> Outcome<'a> {
    Ok(Value::Optional(None))
}

pub(super) fn unwrap<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let [Value::List(list)] = args else { return Err(EvalError::NoSuchOverload) };
    let mut items = Vec::new();
    for item in list.iter() {
        match item {
            Value::Optional(value) => items.extend(value.map(|value| (*value).clone())),
            _ => return Err(EvalError::NoSuchOverload),
        }
    }
    Ok(Value::list(items))
}

pub(super) fn has_value<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn value<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Optional(Some(value))] => Ok((**value).clone()),
        [Value::Optional(None)] => Err(EvalError::Failed("optional.none() dereference".to_owned())),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn or<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Optional(None), other @ Value::Optional(_)] => Ok(other.clone()),
        [first @ Value::Optional(_), Value::Optional(_)] => Ok(first.clone()),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn or_value<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Optional(None), other] => Ok(other.clone()),
        [Value::Optional(Some(value)), _] => Ok((**value).clone()),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn first<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::List(list)] => Ok(Value::optional(list.get(0))),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn last<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::List(list)] => Ok(Value::optional(list.len().checked_sub(1).and_then(|at| list.get(at)))),
        _ => Err(EvalError::NoSuchOverload),
    }
}
