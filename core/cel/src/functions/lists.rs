//! Lists, and sets that are written as lists.

use std::cmp::Ordering;

use super::{Arguments, Outcome, operators, strings};
use crate::error::EvalError;
use crate::value::{List, Value, compare, equal};

pub(super) fn size<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let size = match args {
        [Value::String(text)] => text.as_str().chars().count(),
        [Value::Bytes(bytes)] => bytes.len(),
        [Value::List(list)] => list.len(),
        [Value::Map(map)] => map.len(),
        _ => return Err(EvalError::NoSuchOverload),
    };
    Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}

fn list<'a, 'v>(args: Arguments<'a, 'v>) -> Result<&'v List<'a>, EvalError> {
    match args.first() {
        Some(Value::List(list)) => Ok(list),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn is_sorted<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let mut before: Option<Value<'a>> = None;
    for item in list(args)?.iter() {
        if let Some(before) = &before
            && compare(before, &item).ok_or(EvalError::NoSuchOverload)? == Ordering::Greater
        {
            return Ok(Value::Bool(false));
        }
        before = Some(item);
    }
    Ok(Value::Bool(true))
}

pub(super) fn sum<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let mut items = list(args)?.iter();
    let Some(first) = items.next() else { return Ok(Value::Int(0)) };
    items.try_fold(first, |sum, item| operators::add(&[sum, item]))
}

fn best<'a>(args: Arguments<'a, '_>, wanted: Ordering, name: &str) -> Outcome<'a> {
    let mut items = list(args)?.iter();
    let mut best = items.next().ok_or_else(|| EvalError::Failed(format!("{name} called on empty list")))?;
    for item in items {
        if compare(&item, &best).ok_or(EvalError::NoSuchOverload)? == wanted {
            best = item;
        }
    }
    Ok(best)
}

pub(super) fn min<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    best(args, Ordering::Less, "min")
}

pub(super) fn max<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    best(args, Ordering::Greater, "max")
}

fn place<'a>(found: Option<usize>) -> Outcome<'a> {
    Ok(Value::Int(found.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1)))
}

pub(super) fn index_of<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::List(list), wanted] => place(list.iter().position(|item| equal(&item, wanted))),
        _ => strings::index_of(args),
    }
}

pub(super) fn last_index_of<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::List(list), wanted] => {
            place((0..list.len()).rev().find(|at| list.get(*at).is_some_and(|item| equal(&item, wanted))))
        }
        _ => strings::last_index_of(args),
    }
}

fn both<'a, 'v>(args: Arguments<'a, 'v>) -> Result<(&'v List<'a>, Vec<Value<'a>>), EvalError> {
    match args {
        [Value::List(left), Value::List(right)] => Ok((left, right.iter().collect())),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn set_contains<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let (left, right) = both(args)?;
    let left: Vec<Value<'a>> = left.iter().collect();
    Ok(Value::Bool(right.iter().all(|wanted| left.iter().any(|item| equal(item, wanted)))))
}

pub(super) fn set_equivalent<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let swapped: Vec<Value<'a>> = args.iter().rev().cloned().collect();
    Ok(Value::Bool(set_contains(args)?.is_true() && set_contains(&swapped)?.is_true()))
}

pub(super) fn set_intersects<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let (left, right) = both(args)?;
    Ok(Value::Bool(left.iter().any(|item| right.iter().any(|other| equal(&item, other)))))
}
