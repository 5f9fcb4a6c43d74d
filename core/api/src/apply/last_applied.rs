//! The annotation in which client-side apply keeps the last configuration.

use serde_json::Value;

use super::Write;
use super::compare::compare_objects;
use super::field_set::FieldSet;
use super::prune::fields;
use crate::object::Object;

/// The annotation.
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Manager of `kubectl apply --server-side`, for which alone the annotation is heeded and kept up to date.
const KUBECTL: &str = "kubectl";
/// The largest annotations may be, in bytes.
const MAX_ANNOTATIONS_BYTES: usize = 256 << 10;

/// The fields that client-side apply set and that are still as it set them: `kubectl` may take them over.
pub(super) fn handed_over(live: &Object, write: &Write<'_>) -> FieldSet {
    if write.manager != KUBECTL {
        return FieldSet::default();
    }
    let last = live.annotation(ANNOTATION).and_then(|text| Object::from_slice(text.as_bytes()).ok());
    let Some(last) = last.filter(|last| last.api_version() == live.api_version()) else {
        return FieldSet::default();
    };
    let schema = (write.schemas)(&live.gvk());
    let mut own = fields(schema.as_deref(), &last);
    let changes = compare_objects(schema.as_deref(), Some(&last), live, super::Scope::All);
    for set in [&changes.modified, &changes.added, &changes.removed] {
        own.subtract(set);
    }
    own
}

/// Writes the configuration into the annotation of an object that has it already.
pub(super) fn refresh(object: &mut Object, config: &Object, write: &Write<'_>) {
    if write.manager != KUBECTL || object.annotation(ANNOTATION).is_none() {
        return;
    }
    let mut last = config.clone();
    last.remove(&["metadata", "annotations", ANNOTATION]);
    let text = format!("{}\n", last.into_value());
    let others: usize = object
        .annotations()
        .into_iter()
        .flatten()
        .filter(|(name, _)| *name != ANNOTATION)
        .map(|(name, value)| name.len() + value.as_str().map_or(0, str::len))
        .sum();
    if others + ANNOTATION.len() + text.len() <= MAX_ANNOTATIONS_BYTES {
        object.set(&["metadata", "annotations", ANNOTATION], Value::from(text));
    }
}
