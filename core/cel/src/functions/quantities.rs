//! Quantities, and the order that they and versions have.

use std::cmp::Ordering;

use super::{Arguments, Outcome};
use crate::error::EvalError;
use crate::quantity::Quantity;
use crate::value::{Opaque, Value};

pub(super) fn quantity<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let text = args.first().and_then(Value::as_str).ok_or(EvalError::NoSuchOverload)?;
    let read = Quantity::parse(text).ok_or_else(|| {
        EvalError::Failed(
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                .to_owned(),
        )
    })?;
    Ok(Value::Opaque(Opaque::Quantity(read)))
}

pub(super) fn is_quantity<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let text = args.first().and_then(Value::as_str).ok_or(EvalError::NoSuchOverload)?;
    Ok(Value::Bool(Quantity::parse(text).is_some()))
}

fn one(args: &[Value<'_>]) -> Result<Quantity, EvalError> {
    match args.first() {
        Some(Value::Opaque(Opaque::Quantity(it))) => Ok(*it),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn order(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    match args {
        [Value::Opaque(Opaque::Quantity(left)), Value::Opaque(Opaque::Quantity(right))] => {
            Ok(left.cmp(right))
        }
        [Value::Opaque(Opaque::Semver(left)), Value::Opaque(Opaque::Semver(right))] => {
            Ok(left.cmp_precedence(right))
        }
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn sign<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    one(args).map(|it| Value::Int(it.sign()))
}

pub(super) fn is_greater<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    order(args).map(|it| Value::Bool(it.is_gt()))
}

pub(super) fn is_less<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    order(args).map(|it| Value::Bool(it.is_lt()))
}

pub(super) fn compare_to<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    order(args).map(|it| Value::Int(it as i64))
}

pub(super) fn as_float<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    one(args).map(|it| Value::Double(it.as_float()))
}

pub(super) fn as_integer<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let whole = one(args)?.as_integer();
    whole.map(Value::Int).ok_or_else(|| EvalError::Failed("cannot convert value to integer".to_owned()))
}

pub(super) fn is_integer<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    one(args).map(|it| Value::Bool(it.as_integer().is_some()))
}

fn other(args: &[Value<'_>]) -> Result<Quantity, EvalError> {
    match args.get(1) {
        Some(Value::Opaque(Opaque::Quantity(it))) => Ok(*it),
        Some(Value::Int(it)) => Ok(Quantity::whole(*it)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn result<'a>(quantity: Option<Quantity>) -> Outcome<'a> {
    quantity.map(|it| Value::Opaque(Opaque::Quantity(it))).ok_or(EvalError::Overflow("quantity"))
}

pub(super) fn add<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    result(one(args)?.plus(other(args)?))
}

pub(super) fn sub<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    result(one(args)?.minus(other(args)?))
}
