//! JSON patch, RFC 6902.

use serde_json::Value;

use super::PatchError;

/// The most operations that one patch may have.
pub const MAX_OPERATIONS: usize = 10_000;

/// Applies a list of operations; the document is left unchanged when one fails.
pub fn apply(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let got = patch.as_array().map_or(0, Vec::len);
    if got > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations { limit: MAX_OPERATIONS, got });
    }
    let patch: json_patch::Patch =
        serde::Deserialize::deserialize(patch).map_err(|error| PatchError::Malformed(error.to_string()))?;
    json_patch::patch(target, &patch.0).map_err(|error| PatchError::Unprocessable(error.to_string()))
}
