//! What functions cost when they are called, by the size of what they are given.

use crate::value::{Opaque, Value};

/// How the cost of a function is found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cost {
    /// Always the same.
    Fixed(u64),
    /// A walk over the first argument, so many times.
    Text(u64),
    /// A walk over the second argument.
    Second,
    /// A walk over the first argument and all that is in it.
    Traverse,
    /// A walk over the shorter of both.
    Compare,
    /// Both arguments are joined.
    Join,
    /// Looked up in the second argument.
    In,
    /// The second text is searched in the first.
    Search,
    /// The second text is a pattern for the first.
    Regex,
    /// Each item of one list is compared with each of the other.
    Product,
    /// The result is written.
    Result,
    /// Addresses are compared.
    Network,
}

/// A tenth of a size, rounded up.
fn tenth(size: u64) -> u64 {
    size.div_ceil(10)
}

fn size(args: &[Value<'_>], at: usize) -> u64 {
    args.get(at).map_or(0, Value::size)
}

fn is_text(args: &[Value<'_>]) -> bool {
    matches!(args.first(), Some(Value::String(_) | Value::Bytes(_)))
}

/// A walk over a value and all that is in it, which ends where it costs more than there is left to pay.
fn traversal(value: &Value<'_>, left: u64) -> u64 {
    let walk = |sum: u64, item: &Value<'_>| {
        let more = if sum > left { 0 } else { traversal(item, left - sum).max(1) };
        sum.saturating_add(more)
    };
    match value {
        // Even an empty text is looked at.
        Value::String(_) | Value::Bytes(_) => (value.size() / 10).max(1),
        Value::List(list) => {
            let mut sum = 0;
            for item in list.iter() {
                sum = walk(sum, &item);
                if sum > left {
                    break;
                }
            }
            sum
        }
        Value::Map(map) => {
            let mut sum = 0;
            for key in map.keys() {
                sum = walk(sum, &key.value());
                sum = match map.get(&key) {
                    Ok(Some(value)) => walk(sum, &value),
                    Ok(None) => sum,
                    // It has been looked at all the same.
                    Err(_) => sum.saturating_add(1),
                };
                if sum > left {
                    break;
                }
            }
            sum
        }
        _ => 1,
    }
}

impl Cost {
    /// What is paid before the function is called, by who has so much `left`.
    pub(crate) fn before(self, args: &[Value<'_>], left: u64) -> u64 {
        let (first, second) = (size(args, 0), size(args, 1));
        match self {
            Cost::Fixed(cost) => cost,
            Cost::Text(times) => tenth(first.saturating_mul(times)).max(1),
            Cost::Second => tenth(second),
            Cost::Traverse => args.first().map_or(0, |value| traversal(value, left)),
            Cost::Compare => tenth(first.min(second)).max(1),
            Cost::Join if is_text(args) => tenth(first.saturating_add(second)),
            Cost::Join => 1,
            Cost::In => match args.get(1) {
                Some(Value::List(list)) => u64::try_from(list.len()).unwrap_or(u64::MAX),
                _ => 1,
            },
            Cost::Search => tenth(first).saturating_mul(tenth(second)),
            Cost::Regex => tenth(first.saturating_add(1)).saturating_mul(second.div_ceil(4)),
            Cost::Product => first.saturating_mul(second).max(1),
            Cost::Result => 0,
            Cost::Network => {
                let text = match args.get(1) {
                    Some(Value::Opaque(Opaque::Ip(_) | Opaque::Cidr(_))) => 0,
                    _ => tenth(second),
                };
                tenth(first.saturating_mul(3)) + 1 + text
            }
        }
    }

    /// What is paid for the result.
    pub(crate) fn after(self, result: &Value<'_>) -> u64 {
        match self {
            Cost::Result => tenth(result.size().saturating_mul(2)),
            _ => 0,
        }
    }
}
