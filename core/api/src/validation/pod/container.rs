//! Containers: names, images, ports, resources, mounts.

use std::collections::HashSet;

use super::super::FieldError;
use super::super::at::At;
use super::probe::{Kind, lifecycle, probe};
use super::{Pod, env};
use crate::names;
use crate::quantity::Quantity;

const POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const PROBES: [(&str, Kind); 3] =
    [("livenessProbe", Kind::Liveness), ("readinessProbe", Kind::Readiness), ("startupProbe", Kind::Startup)];

/// All containers of a pod: regular ones, and those that run before them.
pub(super) fn all(spec: &At<'_>, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    let containers = spec.field("containers");
    if containers.is_empty() {
        errors.push(containers.required(""));
    }
    let mut seen = HashSet::new();
    for it in containers.items() {
        one(&it, pod, &mut seen, errors);
        lifecycle(&it.field("lifecycle"), errors);
        for (name, kind) in PROBES {
            probe(&it.field(name), kind, errors);
        }
        let policy = it.field("restartPolicy");
        if policy.is_set() && !["Always", "OnFailure", "Never"].contains(&policy.text()) {
            errors.push(FieldError::not_supported(
                policy.path.as_str(),
                policy.text(),
                &["Always", "OnFailure", "Never"],
            ));
        }
    }
    host_ports(&containers, errors);
    for it in spec.field("initContainers").items() {
        one(&it, pod, &mut seen, errors);
        let is_sidecar = it.field("restartPolicy").text() == "Always";
        let lasting = [("lifecycle", None)].into_iter().chain(PROBES.map(|(name, kind)| (name, Some(kind))));
        for (name, kind) in lasting {
            let field = it.field(name);
            match kind {
                _ if field.is_set() && !is_sidecar => {
                    errors.push(
                        field.forbidden("may not be set for init containers without restartPolicy=Always"),
                    );
                }
                Some(kind) => probe(&field, kind, errors),
                None => lifecycle(&field, errors),
            }
        }
    }
}

pub(super) fn one<'a>(it: &At<'a>, pod: &Pod<'_>, seen: &mut HashSet<&'a str>, errors: &mut Vec<FieldError>) {
    let name = it.field("name");
    if name.is_empty() {
        errors.push(name.required(""));
    } else {
        name.invalid_for(names::dns1123_label(name.text()), errors);
    }
    if !name.is_empty() && !seen.insert(name.text()) {
        errors.push(name.duplicate());
    }
    let image = it.field("image");
    if image.is_empty() {
        errors.push(image.required(""));
    } else if image.text().trim() != image.text() {
        errors.push(image.invalid("must not have leading or trailing whitespace"));
    }
    it.field("terminationMessagePolicy").one_of(&["FallbackToLogsOnError", "File"], errors);
    ports(&it.field("ports"), pod, errors);
    env::variables(it, errors);
    mounts(&it.field("volumeMounts"), pod, errors);
    for device in it.field("volumeDevices").items() {
        let name = device.field("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else if !pod.volumes.contains(name.text()) {
            errors.push(name.not_found());
        }
        if device.field("devicePath").is_empty() {
            errors.push(device.field("devicePath").required(""));
        }
    }
    it.field("imagePullPolicy").one_of(&POLICIES, errors);
    resources(&it.field("resources"), errors);
}

fn ports(list: &At<'_>, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for port in list.items() {
        let name = port.field("name");
        if !name.is_empty() {
            let faults = names::port_name(name.text());
            if faults.is_empty() && !seen.insert(name.text()) {
                errors.push(name.duplicate());
            }
            name.invalid_for(faults, errors);
        }
        let (inside, outside) = (port.field("containerPort"), port.field("hostPort"));
        if inside.number().unwrap_or(0) == 0 {
            errors.push(inside.required(""));
        } else {
            inside.port_number(errors);
        }
        if outside.number().unwrap_or(0) != 0 {
            outside.port_number(errors);
        }
        if pod.host_network && outside.number().unwrap_or(0) != inside.number().unwrap_or(0) {
            errors.push(inside.invalid("must match `hostPort` when `hostNetwork` is true"));
        }
        port.field("protocol").one_of(&["SCTP", "TCP", "UDP"], errors);
    }
}

/// A port of the node is asked for once.
fn host_ports(containers: &At<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for port in containers.items().flat_map(|it| it.field("ports").items()) {
        let host = port.field("hostPort");
        let Some(number) = host.number().filter(|number| *number != 0) else { continue };
        let text = format!("{}/{}/{number}", port.field("protocol").text(), port.field("hostIP").text());
        if !seen.insert(text.clone()) {
            errors.push(FieldError::duplicate(host.path, text));
        }
    }
}

fn mounts(list: &At<'_>, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for mount in list.items() {
        let (name, path) = (mount.field("name"), mount.field("mountPath"));
        if name.is_empty() {
            errors.push(name.required(""));
        } else if !pod.volumes.contains(name.text()) {
            errors.push(name.not_found());
        }
        if path.is_empty() {
            errors.push(path.required(""));
        } else if !seen.insert(path.text()) {
            errors.push(path.invalid("must be unique"));
        }
        let (sub, expanded) = (mount.field("subPath"), mount.field("subPathExpr"));
        if !sub.is_empty() && !expanded.is_empty() {
            errors.push(expanded.invalid("subPathExpr and subPath are mutually exclusive"));
        }
        for below in [sub, expanded] {
            local_path(&below, errors);
        }
        let propagation = mount.field("mountPropagation");
        if propagation.is_set() {
            propagation.one_of(&["Bidirectional", "HostToContainer", "None"], errors);
        }
    }
}

/// A path that does not lead out of where it begins.
pub(super) fn local_path(path: &At<'_>, errors: &mut Vec<FieldError>) {
    if path.text().starts_with('/') {
        errors.push(path.invalid("must be a relative path"));
    }
    if path.text().split('/').any(|part| part == "..") {
        errors.push(path.invalid("must not contain '..'"));
    }
}

/// The quantity at a place, after saying what is wrong with it.
pub(in super::super) fn quantity(at: &At<'_>, errors: &mut Vec<FieldError>) -> Option<Quantity> {
    match Quantity::parse(at.text()) {
        Ok(quantity) if quantity < Quantity::ZERO => {
            errors.push(at.invalid("must be greater than or equal to 0"));
            None
        }
        Ok(quantity) => Some(quantity),
        Err(error) => {
            errors.push(at.invalid(error.to_string()));
            None
        }
    }
}

fn resource_name(at: &At<'_>, name: &str, errors: &mut Vec<FieldError>) {
    let fault = |detail: String| FieldError::invalid(at.path.as_str(), name, detail);
    let faults = names::qualified_name(name);
    if !faults.is_empty() {
        errors.extend(faults.into_iter().map(fault));
        return;
    }
    let is_standard =
        matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !is_standard {
        errors.push(fault("must be a standard resource type or fully qualified".into()));
        errors.push(fault("must be a standard resource for containers".into()));
    }
}

fn resources(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let (limits, requests) = (at.field("limits"), at.field("requests"));
    for (name, value) in limits.entries() {
        resource_name(&value, name, errors);
        quantity(&value, errors);
    }
    for (name, value) in requests.entries() {
        resource_name(&value, name, errors);
        let Some(request) = quantity(&value, errors) else { continue };
        let limit = limits.value.get(name).and_then(|limit| limit.as_str());
        let Some(limit_text) = limit else { continue };
        let Ok(limit) = Quantity::parse(limit_text) else { continue };
        let detail = format!("must be less than or equal to {name} limit of {limit_text}");
        let is_native = matches!(name, "cpu" | "memory" | "ephemeral-storage");
        if is_native && request > limit {
            errors.push(FieldError::invalid(requests.path.as_str(), value.text(), detail));
        } else if !is_native && request != limit {
            let detail = format!("must be equal to {name} limit of {limit_text}");
            errors.push(FieldError::invalid(requests.path.as_str(), value.text(), detail));
        }
    }
}
