//! Environment variables: names, and where values come from.

use super::super::FieldError;
use super::super::at::At;
use crate::names;

const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// A field of the pod, by its path. Volumes know fewer fields than variables.
pub(super) fn field_ref(at: &At<'_>, known: &[&str], errors: &mut Vec<FieldError>) {
    let path = at.field("fieldPath");
    if path.is_empty() {
        errors.push(path.required(""));
        return;
    }
    if let Some((map, key)) = path.text().split_once("['") {
        match (map, key.strip_suffix("']")) {
            ("metadata.labels" | "metadata.annotations", Some(key)) => {
                path.invalid_for(names::qualified_name(&key.to_lowercase()), errors);
            }
            _ => {
                errors.push(path.invalid(format!(
                    "error converting fieldPath: field label not supported: {}",
                    path.text()
                )))
            }
        }
    } else if !known.contains(&path.text()) {
        errors.push(FieldError::not_supported(path.path.as_str(), path.text(), known));
    }
}

/// A resource of a container. A variable may leave the container out: it means its own.
pub(super) fn resource_ref(at: &At<'_>, needs_container: bool, errors: &mut Vec<FieldError>) {
    if needs_container && at.field("containerName").is_empty() {
        errors.push(at.field("containerName").required(""));
    }
    let resource = at.field("resource");
    if resource.is_empty() {
        errors.push(resource.required(""));
    } else if !RESOURCES.contains(&resource.text()) && !resource.text().contains(".hugepages-") {
        errors.push(FieldError::not_supported(resource.path.as_str(), resource.text(), &RESOURCES));
    }
}

fn key_ref(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if at.field("name").is_empty() {
        errors.push(at.field("name").required(""));
    }
    let key = at.field("key");
    if key.is_empty() {
        errors.push(key.required(""));
    } else {
        key.invalid_for(names::config_key(key.text()), errors);
    }
}

fn source(variable: &At<'_>, errors: &mut Vec<FieldError>) {
    let at = variable.field("valueFrom");
    if !at.is_set() {
        return;
    }
    let fault = |detail: &str| FieldError::invalid(at.path.as_str(), "", detail);
    match SOURCES.iter().filter(|source| at.field(source).is_set()).count() {
        0 => errors.push(fault(
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        )),
        1 if !variable.field("value").is_empty() => {
            errors.push(fault("may not be specified when `value` is not empty"));
        }
        1 => {}
        _ => errors.push(fault("may not have more than one field specified at a time")),
    }
    if at.field("fieldRef").is_set() {
        field_ref(&at.field("fieldRef"), &FIELDS, errors);
    }
    if at.field("resourceFieldRef").is_set() {
        resource_ref(&at.field("resourceFieldRef"), false, errors);
    }
    if at.field("fileKeyRef").is_set() {
        file_key_ref(&at.field("fileKeyRef"), errors);
    }
    for source in ["configMapKeyRef", "secretKeyRef"] {
        if at.field(source).is_set() {
            key_ref(&at.field(source), errors);
        }
    }
}

/// A key of a file in a volume, in which a container finds its variables.
fn file_key_ref(at: &At<'_>, errors: &mut Vec<FieldError>) {
    const MAX_KEY: usize = 128;
    let (key, volume, path) = (at.field("key"), at.field("volumeName"), at.field("path"));
    if key.is_empty() {
        errors.push(key.required(""));
    } else {
        key.invalid_for(names::variable_name(key.text()), errors);
        if key.text().len() > MAX_KEY {
            errors.push(key.too_long(MAX_KEY));
        }
    }
    if volume.is_empty() {
        errors.push(volume.required(""));
    } else {
        volume.invalid_for(names::dns1123_label(volume.text()), errors);
    }
    if path.is_empty() {
        errors.push(path.required(""));
    } else {
        super::volume::file_path(&path, errors);
    }
}

pub(super) fn variables(container: &At<'_>, errors: &mut Vec<FieldError>) {
    for variable in container.field("env").items() {
        let name = variable.field("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else {
            name.invalid_for(names::variable_name(name.text()), errors);
        }
        source(&variable, errors);
    }
    for from in container.field("envFrom").items() {
        let prefix = from.field("prefix");
        if !prefix.is_empty() {
            prefix.invalid_for(names::variable_name(prefix.text()), errors);
        }
        let set: Vec<At<'_>> =
            ["configMapRef", "secretRef"].iter().map(|it| from.field(it)).filter(At::is_set).collect();
        let fault = |detail: &str| FieldError::invalid(from.path.as_str(), "", detail);
        match set.as_slice() {
            [] => errors.push(fault("must specify one of: `configMapRef` or `secretRef`")),
            [one] if one.field("name").is_empty() => errors.push(one.field("name").required("")),
            [_] => {}
            _ => errors.push(fault("may not have more than one field specified at a time")),
        }
    }
}
