//! Validation of objects: every fault is a [`FieldError`]; all of them make one 422 `Status`.

mod api_service;
mod at;
mod autoscaler;
mod cluster;
mod condition;
mod config;
mod device;
mod event;
mod field_error;
mod flow_control;
mod metadata;
mod network;
mod pod;
mod policy;
mod rbac;
mod rules;
mod selector;
mod service;
mod status;
mod storage;
pub(crate) mod webhook;
mod workload;

#[cfg(test)]
mod tests;

pub use field_error::{ErrorKind, FieldError};
pub(crate) use pod::REFUSED as REFUSED_VOLUMES;

use crate::custom_resource;
use crate::kinds::GroupVersionKind;
use crate::object::Object;

/// The faults of a new object. `namespaced` tells whether the resource lives in namespaces.
pub fn validate_create(gvk: &GroupVersionKind, new: &Object, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::create(gvk, new, namespaced, &mut errors);
    if custom_resource::is_definition(gvk) {
        errors.extend(custom_resource::validation::create(new));
    }
    rules::create(gvk, new, &mut errors);
    errors
}

/// The faults of a new object in the version that it is sent in, where that one is stricter than the stored one.
pub fn validate_served(gvk: &GroupVersionKind, new: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if gvk.group == "events.k8s.io" && gvk.kind == "Event" {
        event::create(new, &mut errors);
    }
    errors
}

/// The faults of an object's new state in the light of its old one.
pub fn validate_update(gvk: &GroupVersionKind, new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::update(gvk, new, old, &mut errors);
    rules::fixed(gvk, new, old, &mut errors);
    if custom_resource::is_definition(gvk) && new.deletion_timestamp().is_none() {
        errors.extend(custom_resource::validation::update(new, old));
    }
    errors
}

/// The faults of a change of the object's own fields, or of what is written through a subresource.
pub fn validate_change(
    gvk: &GroupVersionKind,
    subresource: &str,
    new: &Object,
    old: &Object,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match subresource {
        "" => rules::change(gvk, new, old, &mut errors),
        _ => rules::change_through(subresource, gvk, new, old, &mut errors),
    }
    errors
}

/// A list that is longer than a limit.
fn too_many(at: &at::At<'_>, count: usize, most: usize) -> FieldError {
    let detail = format!("must have at most {most} items");
    FieldError { path: at.path.clone(), kind: ErrorKind::TooMany, value: count.into(), detail }
}
