//! Equality and order of values.

use std::cmp::Ordering;

use keelson_api::schema::ListType;

use super::{List, Map, Opaque, Value};

/// Whether two values are equal. Numbers are by their value, whatever their types; other types are never equal.
pub(crate) fn equal(left: &Value<'_>, right: &Value<'_>) -> bool {
    match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        (Value::String(left), Value::String(right)) => left.as_str() == right.as_str(),
        (Value::Bytes(left), Value::Bytes(right)) => left == right,
        (Value::Timestamp(left), Value::Timestamp(right)) => left == right,
        (Value::Duration(left), Value::Duration(right)) => left == right,
        (Value::Type(left), Value::Type(right)) => same_type(left, right),
        (Value::List(left), Value::List(right)) => lists(left, right),
        (Value::Map(left), Value::Map(right)) => maps(left, right),
        (Value::Optional(left), Value::Optional(right)) => match (left, right) {
            (None, None) => true,
            (Some(left), Some(right)) => equal(left, right),
            _ => false,
        },
        (Value::Opaque(left), Value::Opaque(right)) => opaque(left, right),
        _ => numbers(left, right) == Some(Ordering::Equal),
    }
}

fn same_type(left: &crate::types::Type, right: &crate::types::Type) -> bool {
    use crate::types::Type;
    matches!(
        (left, right),
        (Type::List(_), Type::List(_))
            | (Type::Map(_), Type::Map(_))
            | (Type::Optional(_), Type::Optional(_))
    ) || left == right
}

fn opaque(left: &Opaque<'_>, right: &Opaque<'_>) -> bool {
    match (left, right) {
        (Opaque::Quantity(left), Opaque::Quantity(right)) => left == right,
        (Opaque::Semver(left), Opaque::Semver(right)) => left == right,
        (Opaque::Ip(left), Opaque::Ip(right)) => left == right,
        (Opaque::Cidr(left), Opaque::Cidr(right)) => left == right,
        (Opaque::Url(left), Opaque::Url(right)) => left == right,
        (Opaque::Format(left), Opaque::Format(right)) => left == right,
        _ => false,
    }
}

fn lists(left: &List<'_>, right: &List<'_>) -> bool {
    if left.len() != right.len() {
        return false;
    }
    match left {
        // The order of a set or map says nothing.
        List::Json(_, _, ListType::Set) => {
            let right: Vec<Value<'_>> = right.iter().collect();
            left.iter().all(|item| right.iter().any(|other| equal(&item, other)))
        }
        List::Json(_, _, ListType::Map(keys)) => {
            let right: Vec<Value<'_>> = right.iter().collect();
            left.iter().all(|item| {
                right
                    .iter()
                    .find(|other| same_keys(&item, other, keys))
                    .is_some_and(|other| equal(&item, other))
            })
        }
        _ => left.iter().zip(right.iter()).all(|(left, right)| equal(&left, &right)),
    }
}

/// Whether two items of a list of type map have the same keys.
pub(super) fn same_keys(left: &Value<'_>, right: &Value<'_>, keys: &[String]) -> bool {
    let (Value::Map(left), Value::Map(right)) = (left, right) else { return false };
    keys.iter().all(|key| {
        let name = crate::declaration::escape(key).unwrap_or_else(|| key.clone());
        match (left.field(&name), right.field(&name)) {
            (Ok(Some(left)), Ok(Some(right))) => equal(&left, &right),
            (Ok(None), Ok(None)) => true,
            _ => false,
        }
    })
}

fn maps(left: &Map<'_>, right: &Map<'_>) -> bool {
    let keys = left.keys();
    if keys.len() != right.keys().len() {
        return false;
    }
    keys.iter().all(|key| match (left.get(key), right.get(key)) {
        (Ok(Some(left)), Ok(Some(right))) => equal(&left, &right),
        _ => false,
    })
}

/// The order of two values; `None` where they have none.
pub(crate) fn compare(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (Value::String(left), Value::String(right)) => Some(left.as_str().cmp(right.as_str())),
        (Value::Bytes(left), Value::Bytes(right)) => Some(left.cmp(right)),
        (Value::Timestamp(left), Value::Timestamp(right)) => Some(left.cmp(right)),
        (Value::Duration(left), Value::Duration(right)) => Some(left.cmp(right)),
        _ => numbers(left, right),
    }
}

#[allow(clippy::cast_precision_loss)]
fn numbers(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    let whole = |value: &Value<'_>| match value {
        Value::Int(it) => Some(i128::from(*it)),
        Value::Uint(it) => Some(i128::from(*it)),
        _ => None,
    };
    let any = |value: &Value<'_>| match value {
        Value::Double(it) => Some(*it),
        other => whole(other).map(|it| it as f64),
    };
    match (whole(left), whole(right)) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        _ => any(left)?.partial_cmp(&any(right)?),
    }
}
