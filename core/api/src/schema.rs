//! The fields of a kind: types, list and map types, patch strategies.

mod builtin;
mod constraints;
mod crd;
mod decoding;
mod faults;
mod format;
mod format_numbers;
mod quantities;
mod strict;
mod structural;
mod zeros;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

pub use builtin::definitions;
pub use constraints::{Constraints, Pattern, PatternError};
pub use crd::CrdSchemaError;
pub use decoding::time_error;
pub use faults::{json_faults, yaml_faults};
pub use format::is_recognized as is_recognized_format;

use crate::kinds::GroupVersionKind;

/// The JSON type of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SchemaType {
    /// Any value.
    #[default]
    Any,
    /// An object.
    Object,
    /// A list.
    Array,
    /// A text.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A whole number or a text.
    IntOrString,
}

/// How lists are merged by server-side apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// As a whole.
    #[default]
    Atomic,
    /// Each value has its own owner.
    Set,
    /// Each item, named by these fields, has its own owner.
    Map(Vec<String>),
}

/// One node of a schema.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// Type of the value.
    pub kind: SchemaType,
    /// Named fields.
    pub properties: BTreeMap<String, Arc<Schema>>,
    /// Items of a list.
    pub items: Option<Arc<Schema>>,
    /// Values of a map.
    pub additional: Option<Arc<Schema>>,
    /// Unknown fields are kept.
    pub preserve_unknown: bool,
    /// Fields that are not named are unknown, even where none is named.
    pub closed: bool,
    /// The value is a whole object with `apiVersion`, `kind` and `metadata`.
    pub embedded: bool,
    /// How a list is merged by apply.
    pub list: ListType,
    /// The map or struct is owned as a whole.
    pub atomic: bool,
    /// Merge key of a strategic merge patch: `Some("")` merges primitives; `None` replaces the list.
    pub merge_key: Option<String>,
    /// A strategic merge patch may carry `$retainKeys` here.
    pub retain_keys: bool,
    /// Fields that must be set.
    pub required: Vec<String>,
    /// Fields of a built-in kind that need not be set, and may be set to nothing: a zero in them is kept.
    pub pointers: Vec<String>,
    /// What the type of a built-in kind is called in Go, such as `v1.PodSpec`.
    pub go_name: Option<Arc<str>>,
    /// Null is a value.
    pub nullable: bool,
    /// Format such as `int32` or `date-time`.
    pub format: Option<String>,
    /// Default value.
    pub default: Option<Value>,
    /// Allowed values; empty for any.
    pub values: Vec<Value>,
    /// Further constraints of a CustomResourceDefinition.
    pub constraints: Option<Box<Constraints>>,
}

impl Schema {
    /// The schema of a built-in kind.
    pub fn builtin(gvk: &GroupVersionKind) -> Option<Arc<Self>> {
        builtin::find(gvk)
    }

    /// The schema in a CustomResourceDefinition: the value of `openAPIV3Schema`.
    pub fn from_crd(open_api_v3_schema: &Value) -> Result<Arc<Self>, CrdSchemaError> {
        crd::read_root(open_api_v3_schema).map(Arc::new)
    }

    /// The schema of a single value in a CustomResourceDefinition.
    pub fn value_from_crd(schema: &Value) -> Result<Self, CrdSchemaError> {
        crd::read(schema, 0)
    }

    /// The schema of a field of an object.
    pub fn field(&self, name: &str) -> Option<&Arc<Self>> {
        self.properties.get(name).or(self.additional.as_ref())
    }

    /// Texts such as `unknown field "spec.foo"`, in the document's order.
    pub fn unknown_fields(&self, value: &Value) -> Vec<String> {
        strict::unknown_fields(self, value)
    }

    /// Removes the fields that the schema does not know.
    pub fn prune(&self, value: &mut Value) {
        strict::prune(self, value);
    }

    /// The faults in types, required fields, allowed values and limits.
    pub fn validate(&self, value: &Value) -> Vec<crate::validation::FieldError> {
        let mut errors = Vec::new();
        structural::validate(self, value, None, String::new(), &mut errors);
        errors
    }

    /// The faults of a value's new state. Where it is as it was, what was a fault before stays allowed; items of a list
    /// of type map are found again by their keys.
    pub fn validate_update(&self, value: &Value, old: &Value) -> Vec<crate::validation::FieldError> {
        let mut errors = Vec::new();
        structural::validate(self, value, Some(old), String::new(), &mut errors);
        errors
    }

    /// The first fault in types, as the decoder of a built-in kind words it.
    pub fn decode_error(&self, value: &Value) -> Option<String> {
        decoding::decode_error(self, value)
    }

    /// The first such fault among the fields of a document.
    pub fn fields_error(&self, fields: &serde_json::Map<String, Value>) -> Option<String> {
        decoding::fields_error(self, fields)
    }

    /// Whether a value is a quantity, which may be written as a number.
    pub(crate) fn is_quantity(&self) -> bool {
        quantities::is_quantity(self)
    }

    /// Brings quantities, which may be written as numbers, into the form in which they are stored.
    pub fn settle_quantities(&self, value: &mut Value) {
        quantities::settle(self, value);
    }

    /// Brings a document of a built-in kind into the form in which it is stored: quantities as their shortest text, and
    /// without optional fields that say nothing.
    pub fn settle(&self, document: &mut serde_json::Map<String, Value>) {
        zeros::settle_fields(self, document);
    }

    /// Fills in the schema's default values. A null in a field that is not nullable is taken for a missing value.
    pub fn apply_defaults(&self, value: &mut Value) {
        structural::apply_defaults(self, value);
    }
}
