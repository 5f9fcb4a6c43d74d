//! Names, labels, annotations and finalizers: the same rules for every kind.

use serde_json::Value;

use super::FieldError;
use crate::kinds::GroupVersionKind;
use crate::names;
use crate::object::Object;

const MAX_ANNOTATIONS: usize = 256 * 1024;

pub(super) fn create(gvk: &GroupVersionKind, new: &Object, namespaced: bool, errors: &mut Vec<FieldError>) {
    match new.name() {
        None => errors.push(FieldError::required("metadata.name", "name or generateName is required")),
        Some(name) => {
            let faults = match (gvk.group.as_str(), gvk.kind.as_str()) {
                ("rbac.authorization.k8s.io", _) => names::path_segment(name),
                ("", "Namespace") => names::dns1123_label(name),
                ("", "Service") => names::dns1035_label(name),
                _ => names::dns1123_subdomain(name),
            };
            errors.extend(faults.into_iter().map(|fault| FieldError::invalid("metadata.name", name, fault)));
        }
    }
    match (namespaced, new.namespace()) {
        (true, None) => errors.push(FieldError::required("metadata.namespace", "")),
        (true, Some(namespace)) => {
            let faults = names::dns1123_label(namespace).into_iter();
            errors.extend(faults.map(|fault| FieldError::invalid("metadata.namespace", namespace, fault)));
        }
        (false, Some(_)) => {
            errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
        }
        (false, None) => {}
    }
    maps(new, errors);
}

fn maps(new: &Object, errors: &mut Vec<FieldError>) {
    for (key, value) in new.labels().into_iter().flatten() {
        let faults = names::qualified_name(key).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid("metadata.labels", key.as_str(), fault)));
        let text = value.as_str().unwrap_or("");
        let faults = names::label_value(text).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid("metadata.labels", text, fault)));
    }
    let mut size = 0;
    for (key, value) in new.annotations().into_iter().flatten() {
        let faults = names::qualified_name(&key.to_lowercase()).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid("metadata.annotations", key.as_str(), fault)));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        let detail = format!("may not be more than {MAX_ANNOTATIONS} bytes");
        errors.push(FieldError {
            path: "metadata.annotations".into(),
            kind: super::ErrorKind::TooLong,
            value: Value::Null,
            detail,
        });
    }
    for finalizer in new.finalizers() {
        let faults = names::qualified_name(finalizer).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid("metadata.finalizers", finalizer, fault)));
    }
}

pub(super) fn update(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    const FIXED: &str = "field is immutable";
    let pairs = [
        ("metadata.name", new.name(), old.name()),
        ("metadata.namespace", new.namespace(), old.namespace()),
        ("metadata.uid", new.uid(), old.uid()),
        ("metadata.creationTimestamp", new.creation_timestamp(), old.creation_timestamp()),
    ];
    for (path, new, old) in pairs {
        if new != old {
            errors.push(FieldError::invalid(path, new, FIXED));
        }
    }
    if old.deletion_timestamp().is_some() {
        let added: Vec<&str> =
            new.finalizers().filter(|it| !old.finalizers().any(|known| known == *it)).collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            );
            errors.push(FieldError::forbidden("metadata.finalizers", detail));
        }
    }
    maps(new, errors);
}
