//! Where a container finds its volumes.

use std::collections::{HashMap, HashSet};

use super::super::FieldError;
use super::super::at::At;
use super::container::local_path;

type Volumes<'a> = HashMap<&'a str, At<'a>>;

/// The texts of a field in every item of a list.
fn texts<'a>(list: &At<'a>, field: &'static str) -> HashSet<&'a str> {
    list.items().map(move |it| it.field(field).text()).filter(|text| !text.is_empty()).collect()
}

/// The volumes that are mounted.
pub(super) fn volumes(container: &At<'_>, known: &Volumes<'_>, errors: &mut Vec<FieldError>) {
    let devices = container.field("volumeDevices");
    let (device_names, device_paths) = (texts(&devices, "name"), texts(&devices, "devicePath"));
    let mut seen = HashSet::new();
    for mount in container.field("volumeMounts").items() {
        let (name, path) = (mount.field("name"), mount.field("mountPath"));
        if name.is_empty() {
            errors.push(name.required(""));
        } else if !known.contains_key(name.text()) {
            errors.push(name.not_found());
        }
        if path.is_empty() {
            errors.push(path.required(""));
        } else if !seen.insert(path.text()) {
            errors.push(path.invalid("must be unique"));
        }
        if device_names.contains(name.text()) {
            errors.push(name.invalid("must not already exist in volumeDevices"));
        }
        if device_paths.contains(path.text()) {
            errors.push(path.invalid("must not already exist as a path in volumeDevices"));
        }
        let (sub, expanded) = (mount.field("subPath"), mount.field("subPathExpr"));
        if !sub.is_empty() && !expanded.is_empty() {
            errors.push(expanded.invalid("subPathExpr and subPath are mutually exclusive"));
        }
        for below in [sub, expanded] {
            local_path(&below, errors);
        }
        propagation(container, &mount, errors);
        read_only(&mount, errors);
    }
}

fn propagation(container: &At<'_>, mount: &At<'_>, errors: &mut Vec<FieldError>) {
    let at = mount.field("mountPropagation");
    if !at.is_set() {
        return;
    }
    let known = ["Bidirectional", "HostToContainer", "None"];
    if !known.contains(&at.text()) {
        errors.push(FieldError::not_supported(at.path.as_str(), at.value.clone(), &known));
    }
    if at.text() == "Bidirectional" && !container.field("securityContext").field("privileged").is_true() {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(at.forbidden(detail));
    }
}

fn read_only(mount: &At<'_>, errors: &mut Vec<FieldError>) {
    let at = mount.field("recursiveReadOnly");
    if !at.is_set() || at.text() == "Disabled" {
        return;
    }
    let known = ["Disabled", "Enabled", "IfPossible"];
    if !known.contains(&at.text()) {
        errors.push(FieldError::not_supported(at.path.as_str(), at.value.clone(), &known));
        return;
    }
    if !mount.field("readOnly").is_true() {
        errors.push(at.forbidden("may only be specified when readOnly is true"));
    }
    if !matches!(mount.field("mountPropagation").text(), "" | "None") {
        errors.push(at.forbidden("may only be specified when mountPropagation is None or not specified"));
    }
}

/// The volumes that are given as block devices.
pub(super) fn devices(container: &At<'_>, known: &Volumes<'_>, errors: &mut Vec<FieldError>) {
    let mounts = container.field("volumeMounts");
    let (mount_names, mount_paths) = (texts(&mounts, "name"), texts(&mounts, "mountPath"));
    let (mut names, mut paths) = (HashSet::new(), HashSet::new());
    for device in container.field("volumeDevices").items() {
        let (name, path) = (device.field("name"), device.field("devicePath"));
        match known.get(name.text()) {
            _ if name.is_empty() => errors.push(name.required("")),
            None => errors.push(name.not_found()),
            Some(volume)
                if !volume.field("persistentVolumeClaim").is_set() && !volume.field("ephemeral").is_set() =>
            {
                let detail =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(name.invalid(detail));
            }
            Some(_) => {}
        }
        if path.is_empty() {
            errors.push(path.required(""));
        } else {
            if !paths.insert(path.text()) {
                errors.push(path.invalid("must be unique"));
            }
            if path.text().split('/').any(|part| part == "..") {
                errors.push(path.invalid("can not contain backsteps ('..')"));
            }
        }
        if !name.is_empty() && !names.insert(name.text()) {
            errors.push(name.invalid("must be unique"));
        }
        if mount_names.contains(name.text()) {
            errors.push(name.invalid("must not already exist in volumeMounts"));
        }
        if mount_paths.contains(path.text()) {
            errors.push(path.invalid("must not already exist as a path in volumeMounts"));
        }
    }
}
