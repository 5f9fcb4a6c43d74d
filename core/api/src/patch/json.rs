//! JSON patch, RFC 6902.

use json_patch::{Patch, PatchErrorKind, PatchOperation, jsonptr::Pointer};
use serde_json::Value;

use super::PatchError;

/// The most operations that one patch may have.
pub const MAX_OPERATIONS: usize = 10_000;
/// The most bytes, as JSON, that the copies of one patch may add.
pub const MAX_COPIED_BYTES: usize = 3 << 20;
/// The most values that are looked at in what the operations of one patch move about.
const MAX_VISITS: usize = 3 << 20;
/// The deepest document that a patch may make.
const MAX_DEPTH: usize = 128;

/// Applies a list of operations; the document is of no use when one fails.
pub fn apply(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let got = patch.as_array().map_or(0, Vec::len);
    if got > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations { limit: MAX_OPERATIONS, got });
    }
    let fault = |have: &str, what: &str| {
        PatchError::Malformed(format!("json: cannot unmarshal {have} into Go value of type jsonpatch.{what}"))
    };
    let operations = patch.as_array().ok_or_else(|| fault(super::kind_of(patch), "Patch"))?;
    if let Some(other) = operations.iter().find(|it| !it.is_object()) {
        return Err(fault(super::kind_of(other), "Operation"));
    }
    let patch: Patch = serde::Deserialize::deserialize(patch)
        .map_err(|error| PatchError::Unprocessable(error.to_string()))?;
    let (mut copied, mut visits) = (0, 0);
    for operation in &patch.0 {
        bound(target, operation, &mut copied, &mut visits)?;
        json_patch::patch(target, std::slice::from_ref(operation)).map_err(|error| match error.kind {
            PatchErrorKind::TestFailed => PatchError::TestFailed(error.to_string()),
            _ => PatchError::Unprocessable(error.to_string()),
        })?;
    }
    Ok(())
}

/// Refuses what would let a document grow beyond all bounds: each copy may double it, in size and in depth.
fn bound(
    target: &Value,
    operation: &PatchOperation,
    copied: &mut usize,
    visits: &mut usize,
) -> Result<(), PatchError> {
    let none = Value::Null;
    let found = |from: &Pointer| target.pointer(from.as_str()).unwrap_or(&none);
    let (path, value) = match operation {
        PatchOperation::Add(add) => (&add.path, &add.value),
        PatchOperation::Replace(replace) => (&replace.path, &replace.value),
        PatchOperation::Move(moved) => (&moved.path, found(&moved.from)),
        PatchOperation::Copy(copy) => {
            let value = found(&copy.from);
            *copied += value.to_string().len();
            if *copied > MAX_COPIED_BYTES {
                return Err(PatchError::TooLargeCopy { size: *copied, limit: MAX_COPIED_BYTES });
            }
            (&copy.path, value)
        }
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
    };
    let (depth, size) = measure(value);
    *visits += size;
    if *visits > MAX_VISITS {
        let text = format!("the patch moves more than {MAX_VISITS} values about");
        return Err(PatchError::Unprocessable(text));
    }
    if path.tokens().count() + depth > MAX_DEPTH {
        return Err(PatchError::Unprocessable(format!("the patch nests deeper than {MAX_DEPTH} levels")));
    }
    Ok(())
}

/// How deep a value is nested, and of how many values it consists.
fn measure(value: &Value) -> (usize, usize) {
    let all = |(depth, size): (usize, usize), child: &Value| {
        let own = measure(child);
        (depth.max(own.0), size + own.1)
    };
    match value {
        Value::Object(fields) => {
            let (depth, size) = fields.values().fold((0, 1), all);
            (depth + 1, size)
        }
        Value::Array(items) => {
            let (depth, size) = items.iter().fold((0, 1), all);
            (depth + 1, size)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (0, 1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::object::depth;

    use super::*;

    #[test]
    fn copies_that_double_a_document_are_refused_before_they_fill_the_memory() {
        let mut target = json!({"a": ["x".repeat(1000)]});
        let copies: Vec<Value> =
            (0..60).map(|n| json!({"op": "copy", "from": "/a", "path": format!("/b{n}")})).collect();
        apply(&mut target, &copies.into()).unwrap();
        let doubling: Vec<Value> =
            (0..60).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
        assert!(matches!(
            apply(&mut json!({"a": ["x".repeat(1000)]}), &doubling.into()),
            Err(PatchError::TooLargeCopy { .. } | PatchError::Unprocessable(_))
        ));
    }

    #[test]
    fn copies_that_double_the_depth_are_refused_before_they_fill_the_stack() {
        let mut target = json!({"a": {}});
        let mut path = "/a".to_owned();
        let mut operations = Vec::new();
        for _ in 0..20 {
            operations.push(json!({"op": "copy", "from": "", "path": format!("{path}/a")}));
            path = format!("{path}{path}/a");
            if path.len() > 1 << 12 {
                break;
            }
        }
        assert!(apply(&mut target, &operations.into()).is_err());
        assert!(depth(&target) <= MAX_DEPTH);
    }

    #[test]
    fn a_large_value_is_not_moved_to_and_fro_for_ever() {
        let mut target = json!({"x": vec![0; 100_000]});
        let moves: Vec<Value> = (0..100)
            .flat_map(|_| {
                [
                    json!({"op": "move", "from": "/x", "path": "/y"}),
                    json!({"op": "move", "from": "/y", "path": "/x"}),
                ]
            })
            .collect();
        assert!(matches!(apply(&mut target, &moves.into()), Err(PatchError::Unprocessable(_))));
    }

    #[test]
    fn more_operations_than_are_allowed_are_refused() {
        let patch: Vec<Value> =
            (0..=MAX_OPERATIONS).map(|_| json!({"op": "test", "path": "", "value": 1})).collect();
        assert!(matches!(apply(&mut json!(1), &patch.into()), Err(PatchError::TooManyOperations { .. })));
    }
}
