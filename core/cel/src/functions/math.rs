//! The greatest and the least of some numbers.

use std::cmp::Ordering;

use super::{Arguments, Outcome};
use crate::error::EvalError;
use crate::value::{Value, compare};

fn best<'a>(args: Arguments<'a, '_>, wanted: Ordering) -> Outcome<'a> {
    let values: Vec<Value<'a>> = match args {
        [Value::List(list)] => list.iter().collect(),
        values => values.to_vec(),
    };
    let mut values = values.into_iter();
    let mut best = values
        .next()
        .ok_or_else(|| EvalError::Failed("math.@min(list) argument must not be empty".to_owned()))?;
    if !matches!(best, Value::Int(_) | Value::Uint(_) | Value::Double(_)) {
        return Err(EvalError::NoSuchOverload);
    }
    for value in values {
        if compare(&value, &best).ok_or(EvalError::NoSuchOverload)? == wanted {
            best = value;
        }
    }
    Ok(best)
}

pub(super) fn greatest<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    best(args, Ordering::Greater)
}

pub(super) fn least<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    best(args, Ordering::Less)
}
