//! CustomResourceDefinitions, and the kinds that they define.
//!
//! - [`definition`]: from a definition to the resources that it has served.
//! - [`names`]: which names a definition gets, and the conditions that say so.
//! - [`validation`]: what a definition may not say; [`defaults`](mod@defaults): what is filled in.
//! - [`columns`], [`json_path`]: what kubectl prints of an object.
//! - [`scale`]: where an object has its number of replicas.

pub mod columns;
pub mod defaults;
pub mod definition;
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
    /// How the bytes of an object begin that is stored in this version.
    pub head: Box<[u8]>,
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

    /// The faults of an object in the light of its schema.
    pub fn validate(&self, object: &Object) -> Vec<FieldError> {
        let mut document = object.clone();
        // The rules of metadata are the same for every kind and are checked with them.
        document.0.remove("metadata");
        self.schema.validate(&document.into_value())
    }

    /// The faults of an object's new state. One that was there before stays allowed where nothing is changed, so that
    /// a stricter definition does not lock the objects of before.
    pub fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut faults = self.validate(new);
        if !faults.is_empty() {
            let before = self.validate(old);
            faults.retain(|fault| !(before.contains(fault) && is_unchanged(fault, new, old)));
        }
        faults
    }
}

/// Whether the value that a fault is about is as it was. What is missing is a fault of the value around it.
fn is_unchanged(fault: &FieldError, new: &Object, old: &Object) -> bool {
    let path = match fault.kind {
        ErrorKind::Required => fault.path.rsplit_once('.').map_or("", |(parent, _)| parent),
        _ => fault.path.as_str(),
    };
    let (new, old) = (find(new, path), find(old, path));
    new.is_some() && new == old
}

/// The value at a path such as `spec.list[0].name`.
fn find<'a>(object: &'a Object, path: &str) -> Option<&'a Value> {
    let mut parts = path.split(['.', '[']).filter(|part| !part.is_empty());
    let first = object.0.get(parts.next()?)?;
    parts.try_fold(first, |value, part| match part.strip_suffix(']') {
        Some(index) => value.get(index.parse::<usize>().ok()?),
        None => value.get(part),
    })
}

/// Whether a kind is that of definitions.
pub fn is_definition(gvk: &GroupVersionKind) -> bool {
    gvk.group == GROUP && gvk.kind == "CustomResourceDefinition"
}
