//! Environment variables: names, and where values come from.

use super::super::FieldError;
use super::super::at::At;
use super::resources::quantity;
use crate::names;
use crate::quantity::Quantity;

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

/// Fields of pods that have a name of their own in one place or another.
const LABELS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"];

/// A field of the pod, by its path. Volumes know fewer fields than variables.
pub(super) fn field_ref(at: &At<'_>, known: &[&str], errors: &mut Vec<FieldError>) {
    let (version, path) = (at.field("apiVersion"), at.field("fieldPath"));
    let unknown = |what: String| path.invalid(format!("error converting fieldPath: {what}"));
    if version.is_empty() {
        errors.push(version.required(""));
    } else if path.is_empty() {
        errors.push(path.required(""));
    } else if version.text() != "v1" {
        errors.push(unknown(format!("unsupported pod version: {}", version.text())));
    } else if let Some((map, key)) = subscript(path.text()) {
        let key = match map {
            "metadata.annotations" => key.to_lowercase(),
            "metadata.labels" => key.to_owned(),
            _ => {
                errors.push(unknown(format!("field label does not support subscript: {}", path.text())));
                return;
            }
        };
        let faults = names::qualified_name(&key).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(at.path.as_str(), key.as_str(), fault)));
    } else if FIELDS.contains(&path.text()) || LABELS.contains(&path.text()) {
        if !known.contains(&path.text()) {
            errors.push(FieldError::not_supported(path.path.as_str(), path.text(), known));
        }
    } else {
        errors.push(unknown(format!("field label not supported: {}", path.text())));
    }
}

/// A path that ends with a key: `metadata.labels['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    (!map.is_empty()).then_some((map, key))
}

/// A resource of a container. A variable may leave the container out: it means its own.
pub(super) fn resource_ref(at: &At<'_>, needs_container: bool, errors: &mut Vec<FieldError>) {
    if needs_container && at.field("containerName").is_empty() {
        errors.push(at.field("containerName").required(""));
    }
    let resource = at.field("resource");
    let is_huge =
        ["limits.hugepages-", "requests.hugepages-"].iter().any(|it| resource.text().starts_with(it));
    if resource.is_empty() {
        errors.push(resource.required(""));
    } else if !RESOURCES.contains(&resource.text()) && !is_huge {
        errors.push(FieldError::not_supported(resource.path.as_str(), resource.text(), &RESOURCES));
    }
    divisor(&at.field("divisor"), resource.text(), errors);
}

/// In what a resource is counted.
fn divisor(at: &At<'_>, resource: &str, errors: &mut Vec<FieldError>) {
    const BYTES: [&str; 13] =
        ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    if !at.is_set() {
        return;
    }
    let Some(amount) = quantity(at, errors) else { return };
    if amount == Quantity::ZERO {
        return;
    }
    let what = match resource.split_once('.') {
        Some((_, "cpu")) => "cpu",
        Some((_, "memory")) => "memory",
        Some((_, "ephemeral-storage")) => "local ephemeral storage",
        Some((_, page)) if page.starts_with("hugepages-") => "hugepages",
        Some(_) | None => return,
    };
    let known: &[&str] = if what == "cpu" { &["1m", "1"] } else { &BYTES };
    if !known.iter().any(|it| Quantity::parse(it) == Ok(amount)) {
        let list = if what == "cpu" { "1m and 1".to_owned() } else { known.join(", ") };
        let detail = format!("only divisor's values {list} are supported with the {what} resource");
        errors.push(FieldError::invalid(at.path.as_str(), resource, detail));
    }
}

fn key_ref(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let name = at.field("name");
    name.or_empty_for(names::dns1123_subdomain(name.text()), errors);
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
            [one] => {
                let name = one.field("name");
                name.invalid_for(names::dns1123_subdomain(name.text()), errors);
            }
            _ => errors.push(fault("may not have more than one field specified at a time")),
        }
    }
}
