//! Names, labels, annotations and finalizers: the same rules for every kind.

use serde_json::Value;

use super::at::At;
use super::{ErrorKind, FieldError, rules};
use crate::kinds::GroupVersionKind;
use crate::names;
use crate::object::Object;

const MAX_ANNOTATIONS: usize = 256 * 1024;

pub(super) fn create(gvk: &GroupVersionKind, new: &Object, namespaced: bool, errors: &mut Vec<FieldError>) {
    match new.name() {
        None => errors.push(FieldError::required("metadata.name", "name or generateName is required")),
        Some(name) => {
            let faults = rules::name(gvk, name);
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
    if let Some(prefix) = new.generate_name().filter(|prefix| !prefix.is_empty()) {
        // The random letters to come end it well.
        let faults = rules::name(gvk, &format!("{}x", prefix.trim_end_matches('-')));
        errors.extend(
            faults.into_iter().map(|fault| FieldError::invalid("metadata.generateName", prefix, fault)),
        );
    }
    common(gvk, new, errors);
}

fn common(gvk: &GroupVersionKind, new: &Object, errors: &mut Vec<FieldError>) {
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
            kind: ErrorKind::TooLong,
            value: Value::Null,
            detail,
        });
    }
    let metadata = At::of(new, "metadata");
    finalizers(gvk, &metadata.field("finalizers"), errors);
    owners(&metadata.field("ownerReferences"), errors);
    records(&metadata.field("managedFields"), errors);
}

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

fn finalizers(gvk: &GroupVersionKind, list: &At<'_>, errors: &mut Vec<FieldError>) {
    for finalizer in list.items() {
        let text = finalizer.text();
        let faults = names::qualified_name(text).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(list.path.as_str(), text, fault)));
        // Kinds of custom resources and of the newer groups leave their finalizers' names to their owners.
        let is_known = text.contains('/') || matches!(text, "kubernetes" | ORPHAN | FOREGROUND);
        if !is_known && matches!(gvk.group.as_str(), "" | "apps" | "batch") {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(finalizer.invalid(detail));
        }
    }
    let has = |name: &str| list.items().any(|finalizer| finalizer.text() == name);
    if has(FOREGROUND) && has(ORPHAN) {
        errors.push(list.invalid(format!("finalizer {FOREGROUND} and {ORPHAN} cannot be both set")));
    }
}

fn owners(list: &At<'_>, errors: &mut Vec<FieldError>) {
    let mut controllers = list.items().filter(|owner| owner.field("controller").is_true());
    for owner in list.items() {
        let version = owner.field("apiVersion").text();
        let place = |field: &str| format!("{}.{field}", list.path);
        if version.rsplit('/').next().is_none_or(str::is_empty) || version.matches('/').count() > 1 {
            errors.push(FieldError::invalid(place("apiVersion"), version, "version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            if owner.field(field).is_empty() {
                errors.push(FieldError::invalid(place(field), "", "must not be empty"));
            }
        }
        if version == "v1" && owner.field("kind").text() == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(list.path.as_str(), owner.value.clone(), detail));
        }
    }
    if let (Some(first), Some(second)) = (controllers.next(), controllers.next()) {
        let named = |owner: &At<'_>| owner.field("name").text().to_owned();
        errors.push(list.invalid(format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
            named(&first),
            named(&second)
        )));
    }
}

fn records(list: &At<'_>, errors: &mut Vec<FieldError>) {
    for record in list.items() {
        let (operation, kind) = (record.field("operation"), record.field("fieldsType"));
        if !matches!(operation.text(), "Apply" | "Update") {
            errors.push(operation.invalid("must be `Apply` or `Update`"));
        }
        if !kind.is_empty() && kind.text() != "FieldsV1" {
            errors.push(kind.invalid("must be `FieldsV1`"));
        }
        for (field, most) in [("manager", 128), ("subresource", 256)] {
            let at = record.field(field);
            if at.text().len() > most {
                let detail = format!("may not be more than {most} bytes");
                errors.push(FieldError {
                    path: at.path,
                    kind: ErrorKind::TooLong,
                    value: Value::Null,
                    detail,
                });
            }
        }
    }
}

pub(super) fn update(gvk: &GroupVersionKind, new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
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
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", detail));
        }
    }
    common(gvk, new, errors);
}
