//! Reads signatures such as `list<A>,A:bool`.

use super::Overload;
use crate::types::Type;

/// Reads a signature of the table.
pub(super) fn read(text: &str) -> Overload {
    let (params, result) = text.rsplit_once(':').unwrap_or(("", text));
    let params: Vec<Type> = split(params).into_iter().map(ty).collect();
    let variables = if text.contains('B') { 2 } else { usize::from(text.contains('A')) };
    Overload { params, result: ty(result), variables }
}

/// The parts between commas that are in no brackets.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '<' => depth += 1,
            '>' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text.is_empty() {
        parts.push(&text[start..]);
    }
    parts
}

fn ty(text: &str) -> Type {
    if let Some((outer, inner)) = text.strip_suffix('>').and_then(|text| text.split_once('<')) {
        let inner: Vec<Type> = split(inner).into_iter().map(ty).collect();
        return match (outer, inner.as_slice()) {
            ("list", [item]) => Type::list(item.clone()),
            ("opt", [value]) => Type::optional(value.clone()),
            ("map", [key, value]) => Type::map(key.clone(), value.clone()),
            _ => Type::Dyn,
        };
    }
    match text {
        "A" => Type::Param(0),
        "B" => Type::Param(1),
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::Type,
        "quantity" => Type::Opaque("kubernetes.Quantity"),
        "semver" => Type::Opaque("kubernetes.Semver"),
        "ip" => Type::Opaque("net.IP"),
        "cidr" => Type::Opaque("net.CIDR"),
        "url" => Type::Opaque("kubernetes.URL"),
        "format" => Type::Opaque("kubernetes.NamedFormat"),
        "authorizer" => Type::Opaque("kubernetes.authorization.Authorizer"),
        "path" => Type::Opaque("kubernetes.authorization.PathCheck"),
        "group" => Type::Opaque("kubernetes.authorization.GroupCheck"),
        "resource" => Type::Opaque("kubernetes.authorization.ResourceCheck"),
        "decision" => Type::Opaque("kubernetes.authorization.Decision"),
        _ => Type::Dyn,
    }
}
