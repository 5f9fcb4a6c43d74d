//! Validation of objects: every fault is a [`FieldError`]; all of them make one 422 `Status`.

mod field_error;
mod immutable;
mod metadata;

pub use field_error::{ErrorKind, FieldError};

use crate::kinds::GroupVersionKind;
use crate::object::Object;

/// The faults of a new object. `namespaced` tells whether the resource lives in namespaces.
pub fn validate_create(gvk: &GroupVersionKind, new: &Object, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::create(gvk, new, namespaced, &mut errors);
    errors
}

/// The faults of an object's new state in the light of its old one.
pub fn validate_update(gvk: &GroupVersionKind, new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::update(new, old, &mut errors);
    immutable::update(gvk, new, old, &mut errors);
    errors
}
