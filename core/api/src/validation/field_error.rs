//! One fault of one field.

use std::fmt;

use serde_json::Value;

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A value is missing.
    Required,
    /// A value is malformed or must not change.
    Invalid,
    /// A value is malformed, and not shown.
    InvalidUnseen,
    /// A value is not one of the known ones; the detail says which are.
    NotSupported,
    /// A value occurs twice.
    Duplicate,
    /// A value must not be set here.
    Forbidden,
    /// A value names what does not exist.
    NotFound,
    /// A value is too long.
    TooLong,
    /// A list or map has too many entries.
    TooMany,
    /// A value has the wrong JSON type.
    TypeInvalid,
}

impl ErrorKind {
    /// The cause's `reason`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid | Self::InvalidUnseen => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotFound => "FieldValueNotFound",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::InvalidUnseen | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not found",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
        }
    }
}

/// One fault: where, what, the value, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Path such as `spec.containers[0].name`.
    pub path: String,
    /// What is wrong.
    pub kind: ErrorKind,
    /// The offending value; null when it is not shown.
    pub value: Value,
    /// Why; may be empty.
    pub detail: String,
}

impl FieldError {
    /// A missing value.
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { path: path.into(), kind: ErrorKind::Required, value: Value::Null, detail: detail.into() }
    }
    /// A malformed value.
    pub fn invalid(path: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { path: path.into(), kind: ErrorKind::Invalid, value: value.into(), detail: detail.into() }
    }
    /// A value that must not be set.
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { path: path.into(), kind: ErrorKind::Forbidden, value: Value::Null, detail: detail.into() }
    }
    /// A value that occurs twice.
    pub fn duplicate(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { path: path.into(), kind: ErrorKind::Duplicate, value: value.into(), detail: String::new() }
    }
    /// A value that names what does not exist.
    pub fn not_found(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { path: path.into(), kind: ErrorKind::NotFound, value: value.into(), detail: String::new() }
    }
    /// A value that is none of the known ones.
    pub fn not_supported(path: impl Into<String>, value: impl Into<Value>, known: &[&str]) -> Self {
        let known: Vec<String> = known.iter().map(|text| format!("{text:?}")).collect();
        let detail = format!("supported values: {}", known.join(", "));
        Self { path: path.into(), kind: ErrorKind::NotSupported, value: value.into(), detail }
    }

    /// The text without the path.
    pub fn body(&self) -> String {
        let mut text = self.kind.text().to_owned();
        let shown = matches!(
            self.kind,
            ErrorKind::Invalid
                | ErrorKind::TypeInvalid
                | ErrorKind::NotSupported
                | ErrorKind::Duplicate
                | ErrorKind::NotFound
                | ErrorKind::TooMany
        );
        if shown {
            text.push_str(": ");
            text.push_str(&self.value.to_string());
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}
