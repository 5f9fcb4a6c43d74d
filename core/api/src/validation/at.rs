//! A place in a document: a value and the path that leads to it, as faults name it.

use serde_json::Value;

use super::FieldError;
use crate::object::Object;

static NULL: Value = Value::Null;

/// A value, which is null where nothing is set, and its path.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    pub(super) path: String,
    pub(super) value: &'a Value,
}

impl<'a> At<'a> {
    /// A top-level field of an object.
    pub(super) fn of(object: &'a Object, field: &str) -> Self {
        At { path: field.to_owned(), value: object.0.get(field).unwrap_or(&NULL) }
    }

    /// A field of this value.
    pub(super) fn field(&self, name: &str) -> At<'a> {
        At { path: format!("{}.{name}", self.path), value: self.value.get(name).unwrap_or(&NULL) }
    }

    /// The items of this list.
    pub(super) fn items(&self) -> impl Iterator<Item = At<'a>> + use<'a> {
        let path = self.path.clone();
        let items = self.value.as_array().map_or(&[][..], Vec::as_slice);
        items.iter().enumerate().map(move |(at, value)| At { path: format!("{path}[{at}]"), value })
    }

    /// The entries of this map, each at the path `map[key]`.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, At<'a>)> + use<'a> {
        let path = self.path.clone();
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(move |(key, value)| (key.as_str(), At { path: format!("{path}[{key}]"), value }))
    }

    /// The text; empty where there is none.
    pub(super) fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or("")
    }

    /// The whole number.
    pub(super) fn number(&self) -> Option<i64> {
        self.value.as_i64()
    }

    pub(super) fn is_true(&self) -> bool {
        self.value == &Value::Bool(true)
    }

    pub(super) fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether nothing is set, or an empty text, list or map.
    pub(super) fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        }
    }

    pub(super) fn required(&self, detail: impl Into<String>) -> FieldError {
        FieldError::required(self.path.as_str(), detail)
    }

    pub(super) fn invalid(&self, detail: impl Into<String>) -> FieldError {
        FieldError::invalid(self.path.as_str(), self.value.clone(), detail)
    }

    /// A fault of a value that is not shown.
    pub(super) fn unseen(&self, detail: impl Into<String>) -> FieldError {
        FieldError { kind: super::ErrorKind::InvalidUnseen, ..self.forbidden(detail) }
    }

    pub(super) fn forbidden(&self, detail: impl Into<String>) -> FieldError {
        FieldError::forbidden(self.path.as_str(), detail)
    }

    pub(super) fn duplicate(&self) -> FieldError {
        FieldError::duplicate(self.path.as_str(), self.value.clone())
    }

    pub(super) fn not_found(&self) -> FieldError {
        FieldError::not_found(self.path.as_str(), self.value.clone())
    }

    /// A fault for each text that says what is wrong with this value.
    pub(super) fn invalid_for(&self, faults: Vec<String>, errors: &mut Vec<FieldError>) {
        errors.extend(faults.into_iter().map(|fault| self.invalid(fault)));
    }

    /// A value that must be set and be one of a few.
    pub(super) fn one_of(&self, known: &[&str], errors: &mut Vec<FieldError>) {
        if self.is_empty() {
            errors.push(self.required(""));
        } else if !known.contains(&self.text()) {
            errors.push(FieldError::not_supported(self.path.as_str(), self.value.clone(), known));
        }
    }

    /// A number that may be missing, but not negative.
    pub(super) fn not_negative(&self, errors: &mut Vec<FieldError>) {
        if self.number().is_some_and(|number| number < 0) {
            errors.push(self.invalid("must be greater than or equal to 0"));
        }
    }

    /// An IP address.
    pub(super) fn address(&self, errors: &mut Vec<FieldError>) {
        if self.text().parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(self.path.as_str(), self.text(), detail));
        }
    }

    /// A port's number.
    pub(super) fn port_number(&self, errors: &mut Vec<FieldError>) {
        if !self.number().is_some_and(|number| (1..=65535).contains(&number)) {
            errors.push(self.invalid("must be between 1 and 65535, inclusive"));
        }
    }

    /// A port's number or name.
    pub(super) fn port(&self, errors: &mut Vec<FieldError>) {
        match self.value {
            Value::String(name) => self.invalid_for(crate::names::port_name(name), errors),
            _ if self.number().is_none() => errors.push(self.required("")),
            _ => self.port_number(errors),
        }
    }
}
