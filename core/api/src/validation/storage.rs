//! Volumes and claims.

use super::FieldError;
use super::at::At;
use super::pod::resources::quantity;
use super::selector::label_selector;
use crate::object::Object;

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn modes(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let list = spec.field("accessModes");
    if list.is_empty() {
        errors.push(list.required("at least 1 access mode is required"));
    }
    for mode in list.items() {
        if !MODES.contains(&mode.text()) {
            errors.push(FieldError::not_supported(list.path.as_str(), mode.text(), &MODES));
        }
    }
}

pub(super) fn claim(object: &Object, errors: &mut Vec<FieldError>) {
    claim_spec(&At::of(object, "spec"), errors);
}

/// What is asked of a volume.
pub(super) fn claim_spec(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    modes(spec, errors);
    let requests = spec.field("resources").field("requests");
    let storage = At { path: format!("{}[storage]", requests.path), ..requests.field("storage") };
    if storage.is_set() {
        quantity(&storage, errors);
    } else {
        errors.push(storage.required(""));
    }
    label_selector(&spec.field("selector"), errors);
}

pub(super) fn volume(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    modes(&spec, errors);
    let capacity = spec.field("capacity");
    if capacity.is_empty() {
        errors.push(capacity.required(""));
    }
    for (_, size) in capacity.entries() {
        quantity(&size, errors);
    }
    let policy = spec.field("persistentVolumeReclaimPolicy");
    if policy.is_set() {
        policy.one_of(&["Delete", "Recycle", "Retain"], errors);
    }
}

pub(super) fn class(object: &Object, errors: &mut Vec<FieldError>) {
    if At::of(object, "provisioner").is_empty() {
        errors.push(FieldError::required("provisioner", ""));
    }
    At::of(object, "reclaimPolicy").one_of(&["Delete", "Retain"], errors);
    At::of(object, "volumeBindingMode").one_of(&["Immediate", "WaitForFirstConsumer"], errors);
}

/// The spec of a claim stays, but for what it asks for and where it is bound.
pub(super) fn claim_change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let (spec, before) = (At::of(new, "spec"), At::of(old, "spec"));
    for field in ["accessModes", "storageClassName", "selector", "volumeMode"] {
        let (now, was) = (spec.field(field), before.field(field));
        // A claim gets its class later, where none was the default when it was made.
        let late = field == "storageClassName" && !was.is_set();
        if now.value != was.value && !late {
            errors.push(now.invalid("field is immutable"));
        }
    }
}
