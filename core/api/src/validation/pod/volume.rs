//! Volumes: a name, and exactly one source with what it needs.

use std::collections::HashSet;

use super::super::FieldError;
use super::super::at::At;
use super::container::{local_path, quantity};
use super::env::{field_ref, resource_ref};
use crate::names;

const FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const HOST_PATHS: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// All volumes; gives their names.
pub(super) fn all<'a>(list: &At<'a>, errors: &mut Vec<FieldError>) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    for volume in list.items() {
        let name = volume.field("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else {
            name.invalid_for(names::dns1123_label(name.text()), errors);
        }
        if !name.is_empty() && !seen.insert(name.text()) {
            errors.push(name.duplicate());
        }
        source(&volume, errors);
    }
    seen
}

fn source(volume: &At<'_>, errors: &mut Vec<FieldError>) {
    let fields = volume.value.as_object().into_iter().flatten();
    let sources: Vec<&str> = fields
        .filter(|(name, value)| *name != "name" && !value.is_null())
        .map(|(name, _)| name.as_str())
        .collect();
    if sources.is_empty() {
        errors.push(volume.required("must specify a volume type"));
    }
    for (place, name) in sources.iter().enumerate() {
        let at = volume.field(name);
        if place > 0 {
            errors.push(at.forbidden("may not specify more than 1 volume type"));
            continue;
        }
        let needs = |field: &str, errors: &mut Vec<FieldError>| {
            if at.field(field).is_empty() {
                errors.push(at.field(field).required(""));
            }
        };
        match *name {
            "emptyDir" => {
                let size = at.field("sizeLimit");
                if size.is_set() {
                    quantity(&size, errors);
                }
            }
            "hostPath" => {
                needs("path", errors);
                backstep(&at.field("path"), errors);
                let kind = at.field("type");
                if !HOST_PATHS.contains(&kind.text()) {
                    errors.push(FieldError::not_supported(kind.path, kind.value.clone(), &HOST_PATHS));
                }
            }
            "secret" => {
                needs("secretName", errors);
                mode(&at.field("defaultMode"), errors);
                items(&at.field("items"), errors);
            }
            "configMap" => {
                needs("name", errors);
                mode(&at.field("defaultMode"), errors);
                items(&at.field("items"), errors);
            }
            "persistentVolumeClaim" => needs("claimName", errors),
            "nfs" => {
                needs("server", errors);
                needs("path", errors);
                if !at.field("path").is_empty() && !at.field("path").text().starts_with('/') {
                    errors.push(at.field("path").invalid("must be an absolute path"));
                }
            }
            "downwardAPI" => {
                mode(&at.field("defaultMode"), errors);
                downward(&at, errors);
            }
            "projected" => {
                mode(&at.field("defaultMode"), errors);
                projected(&at, errors);
            }
            "csi" => needs("driver", errors),
            _ => {}
        }
    }
}

fn backstep(path: &At<'_>, errors: &mut Vec<FieldError>) {
    if path.text().split('/').any(|part| part == "..") {
        errors.push(path.invalid("must not contain '..'"));
    }
}

fn mode(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if at.number().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        errors.push(at.invalid("must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

/// Keys that become files.
fn items(list: &At<'_>, errors: &mut Vec<FieldError>) {
    for item in list.items() {
        for field in ["key", "path"] {
            if item.field(field).is_empty() {
                errors.push(item.field(field).required(""));
            }
        }
        file_path(&item.field("path"), errors);
        mode(&item.field("mode"), errors);
    }
}

fn file_path(path: &At<'_>, errors: &mut Vec<FieldError>) {
    local_path(path, errors);
    if path.text().starts_with("..") && !path.text().starts_with("../") && path.text() != ".." {
        errors.push(path.invalid("must not start with '..'"));
    }
}

fn downward(at: &At<'_>, errors: &mut Vec<FieldError>) {
    for item in at.field("items").items() {
        if item.field("path").is_empty() {
            errors.push(item.field("path").required(""));
        }
        file_path(&item.field("path"), errors);
        mode(&item.field("mode"), errors);
        let (field, resource) = (item.field("fieldRef"), item.field("resourceFieldRef"));
        match (field.is_set(), resource.is_set()) {
            (true, true) => errors.push(FieldError::invalid(
                item.path.as_str(),
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            )),
            (true, false) => field_ref(&field, &FIELDS, errors),
            (false, true) => resource_ref(&resource, true, errors),
            (false, false) => errors.push(item.required("one of fieldRef and resourceFieldRef is required")),
        }
    }
}

fn projected(at: &At<'_>, errors: &mut Vec<FieldError>) {
    for part in at.field("sources").items() {
        let known = [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ];
        let set: Vec<&str> = known.into_iter().filter(|name| part.field(name).is_set()).collect();
        if set.is_empty() {
            errors.push(part.required("must specify a projection type"));
        }
        for (place, name) in set.iter().enumerate() {
            let one = part.field(name);
            match *name {
                _ if place > 0 => errors.push(one.forbidden("may not specify more than 1 volume type")),
                "secret" | "configMap" => {
                    if one.field("name").is_empty() {
                        errors.push(one.field("name").required(""));
                    }
                    items(&one.field("items"), errors);
                }
                "downwardAPI" => downward(&one, errors),
                "serviceAccountToken" => {
                    let seconds = one.field("expirationSeconds");
                    if seconds.number().is_some_and(|seconds| seconds < 600) {
                        errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
                    }
                    if seconds.number().is_some_and(|seconds| seconds > 1 << 32) {
                        errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
                    }
                    if one.field("path").is_empty() {
                        errors.push(one.field("path").required(""));
                    }
                    file_path(&one.field("path"), errors);
                }
                _ => {}
            }
        }
    }
}
