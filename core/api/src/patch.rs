//! The three patch formats; each a pure function on documents.

pub mod json;
pub mod merge;
pub mod strategic;

use serde_json::{Value, json};

/// Why a patch cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The patch document is malformed.
    #[error("error decoding patch: {0}")]
    Malformed(String),
    /// The patch has too many operations.
    #[error("The allowed maximum operations in a JSON patch is {limit}, got {got}")]
    TooManyOperations {
        /// The most that are allowed.
        limit: usize,
        /// How many there are.
        got: usize,
    },
    /// The copies of a patch make the document too large.
    #[error(
        "Unable to complete the copy, the accumulated size increase of copy is {size}, exceeding the limit {limit}"
    )]
    TooLargeCopy {
        /// What they add, in bytes.
        size: usize,
        /// The most that they may.
        limit: usize,
    },
    /// The patch does not fit the object (422).
    #[error("{0}")]
    Unprocessable(String),
    /// A test among the operations of a JSON patch does not hold (422).
    #[error("{0}")]
    TestFailed(String),
    /// A strategic merge patch for a kind without schema.
    #[error(
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    )]
    UnsupportedMediaType,
}

/// What the type of a value is called when it is refused.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Refuses a merge patch that is no object.
pub fn check_map(patch: &Value) -> Result<(), PatchError> {
    match patch {
        Value::Object(_) | Value::Null => Ok(()),
        other => Err(PatchError::Malformed(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            kind_of(other)
        ))),
    }
}

impl PatchError {
    /// The HTTP answer.
    pub fn to_status(&self) -> crate::status::Status {
        use crate::status::Status;
        match self {
            Self::Malformed(_) => Status::bad_request(self.to_string()),
            Self::TooManyOperations { .. } | Self::TooLargeCopy { .. } => Status::too_large(self.to_string()),
            Self::Unprocessable(text) | Self::TestFailed(text) => {
                let message = "the server rejected our request due to an error in our request";
                let mut status = Status::new(422, "Invalid", message);
                // Upstream leaves it at that; why is told beside it.
                let cause = json!({"reason": "FieldValueInvalid", "field": "patch", "message": text});
                status.details = json!({ "causes": [cause] });
                status
            }
            Self::UnsupportedMediaType => Status::new(415, "UnsupportedMediaType", self.to_string()),
        }
    }
}
