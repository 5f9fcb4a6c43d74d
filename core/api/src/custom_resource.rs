//! CustomResourceDefinitions, and the kinds that they define.
//!
//! - [`definition`]: from a definition to the resources that it has served.
//! - [`names`]: which names a definition gets, and the conditions that say so.
//! - [`validation`]: what a definition may not say; [`defaults`](mod@defaults): what is filled in.
//! - [`conversion`]: between versions, by a webhook.
//! - [`columns`], [`json_path`]: what kubectl prints of an object.
//! - [`formats`]: which formats of texts mean nothing.
//! - [`scale`]: where an object has its number of replicas.

pub mod columns;
pub mod conversion;
pub mod defaults;
pub mod definition;
pub mod formats;
pub mod json_path;
pub mod names;
pub mod scale;
pub mod validation;

use std::sync::Arc;

use serde_json::Value;

use crate::kinds::GroupVersionKind;
use crate::object::Object;
use crate::schema::Schema;
use crate::validation::{ErrorKind, FieldError};

/// The group of definitions.
pub const GROUP: &str = "apiextensions.k8s.io";
/// The plural name of definitions.
pub const PLURAL: &str = "customresourcedefinitions";
/// The finalizer that keeps a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Rules for objects that a schema alone cannot tell.
pub trait ObjectRules: Send + Sync + std::fmt::Debug {
    /// The faults of an object, in the light of its old state if there is one.
    fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError>;
}

/// What a definition says of one version of its kind, beyond names.
#[derive(Clone, Debug)]
pub struct CustomKind {
    /// Name of the definition.
    pub definition: String,
    /// UID of the definition.
    pub uid: String,
    /// A hash of the definition's spec.
    pub fingerprint: u64,
    /// The fields, with those that every object has.
    pub schema: Arc<Schema>,
    /// What kubectl prints, after the name.
    pub columns: Vec<columns::CustomColumn>,
    /// Where the number of replicas is, if it can be scaled.
    pub scale: Option<scale::ScalePaths>,
    /// Fields that a selector may name, such as `spec.color`.
    pub selectable: Vec<String>,
    /// A text for those who use this version although they should not.
    pub deprecation: Option<String>,
    /// The definition is being deleted: no object is created any more.
    pub terminating: bool,
    /// The webhook that converts objects between versions; without one they differ by name alone.
    pub conversion: Option<Arc<conversion::Conversion>>,
    /// How the bytes of an object begin that is stored in this version.
    pub head: Box<[u8]>,
    /// Rules that the schema alone cannot tell; compiled once for the definition.
    pub rules: Option<Arc<dyn ObjectRules>>,
    /// Every object was written by the rules that hold now: there is one version, and its rules never changed.
    pub uniform: bool,
}

impl PartialEq for CustomKind {
    fn eq(&self, other: &Self) -> bool {
        self.is_same_definition(other) && self.terminating == other.terminating
    }
}

impl Eq for CustomKind {}

impl CustomKind {
    /// Whether both come from the same definition with the same spec.
    pub fn is_same_definition(&self, other: &Self) -> bool {
        self.uid == other.uid && self.fingerprint == other.fingerprint
    }

    /// Whether an object's stored bytes are those that this version serves, so that they need not be read.
    pub fn is_as_served(&self, stored: &[u8]) -> bool {
        self.uniform && stored.starts_with(&self.head)
    }

    /// Fills in the schema's default values.
    pub fn apply_defaults(&self, object: &mut Object) {
        self.change(object, |document| self.schema.apply_defaults(document));
    }

    /// Brings a stored object into the form that this version serves: unknown fields go, default values come.
    pub fn complete(&self, object: &mut Object) {
        self.change(object, |document| {
            self.schema.prune(document);
            self.schema.apply_defaults(document);
        });
    }

    fn change(&self, object: &mut Object, change: impl FnOnce(&mut Value)) {
        let mut document = Value::Object(std::mem::take(&mut object.0));
        change(&mut document);
        if let Value::Object(fields) = document {
            object.0 = fields;
        }
    }

    /// The faults of a new object in the light of its schema and its rules.
    pub fn validate(&self, object: &Object) -> Vec<FieldError> {
        let mut faults = self.schema.validate(&without_metadata(object));
        self.check_rules(object, None, &mut faults);
        faults
    }

    /// The faults of an object's new state. A part that is as it was stays allowed, so that a stricter definition does
    /// not lock the objects of before.
    pub fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut faults = self.schema.validate_update(&without_metadata(new), &without_metadata(old));
        self.check_rules(new, Some(old), &mut faults);
        faults
    }

    /// Rules see only what has the form that the schema says.
    fn check_rules(&self, new: &Object, old: Option<&Object>, faults: &mut Vec<FieldError>) {
        let Some(rules) = &self.rules else { return };
        let is_malformed = faults.iter().any(|fault| {
            matches!(
                fault.kind,
                ErrorKind::Required | ErrorKind::TooLong | ErrorKind::TooMany | ErrorKind::TypeInvalid
            )
        });
        if is_malformed {
            faults.push(FieldError::invalid("<nil>", Value::Null, NOT_CHECKED));
            return;
        }
        let old = old.map(|old| old.clone().into_value());
        faults.extend(rules.validate(&new.clone().into_value(), old.as_ref()));
    }
}

const NOT_CHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";

/// The rules of metadata are the same for every kind and are checked with them.
fn without_metadata(object: &Object) -> Value {
    let mut document = object.clone();
    document.0.remove("metadata");
    document.into_value()
}

/// Whether a kind is that of definitions.
pub fn is_definition(gvk: &GroupVersionKind) -> bool {
    gvk.group == GROUP && gvk.kind == "CustomResourceDefinition"
}
