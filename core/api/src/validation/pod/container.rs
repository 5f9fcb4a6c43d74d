//! Containers: names, images, ports, resources, mounts.

use std::collections::HashSet;

use super::super::at::At;
use super::super::{ErrorKind, FieldError};
use super::probe::{Kind, lifecycle, probe};
use super::{Pod, env, mount, resources, security};
use crate::names;

const RESTARTS: [&str; 3] = ["Always", "Never", "OnFailure"];
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
        lifecycle(&it.field("lifecycle"), pod, errors);
        for (name, kind) in PROBES {
            probe(&it.field(name), kind, errors);
        }
    }
    host_ports(containers.items(), errors);
    for it in spec.field("initContainers").items() {
        one(&it, pod, &mut seen, errors);
        host_ports([it.clone()], errors);
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
                None => lifecycle(&field, pod, errors),
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
    if it.field("image").is_empty() {
        errors.push(it.field("image").required(""));
    }
    it.field("terminationMessagePolicy").one_of(&["File", "FallbackToLogsOnError"], errors);
    ports(&it.field("ports"), errors);
    env::variables(it, errors);
    mount::volumes(it, &pod.volumes, errors);
    mount::devices(it, &pod.volumes, errors);
    it.field("imagePullPolicy").one_of(&POLICIES, errors);
    resources::container(&it.field("resources"), pod, errors);
    resources::resize_policy(&it.field("resizePolicy"), pod, errors);
    security::container(&it.field("securityContext"), pod.host_users, errors);
    restart(it, errors);
}

/// Rules that say when a container of a pod begins anew.
fn restart(it: &At<'_>, errors: &mut Vec<FieldError>) {
    let (policy, rules) = (it.field("restartPolicy"), it.field("restartPolicyRules"));
    if policy.is_set() && !RESTARTS.contains(&policy.text()) {
        errors.push(FieldError::not_supported(policy.path.as_str(), policy.text(), &RESTARTS));
    }
    if rules.is_empty() {
        return;
    }
    if !policy.is_set() {
        errors.push(policy.required("must specify restartPolicy when restart rules are used"));
    }
    let count = rules.items().count();
    if count > 20 {
        let (kind, detail) = (ErrorKind::TooMany, "must have at most 20 items".to_owned());
        errors.push(FieldError { path: rules.path.clone(), kind, value: count.into(), detail });
    }
    for rule in rules.items() {
        rule.field("action").one_of(&["Restart", "RestartAllContainers"], errors);
        let codes = rule.field("exitCodes");
        if !codes.is_set() {
            errors.push(codes.required("must be specified"));
            continue;
        }
        codes.field("operator").one_of(&["In", "NotIn"], errors);
        let values = codes.field("values");
        if values.is_empty() {
            errors.push(values.required("must be specified"));
        } else if values.items().count() > 255 {
            let detail = "must have at most 255 items".to_owned();
            let (kind, value) = (ErrorKind::TooMany, values.items().count().into());
            errors.push(FieldError { path: values.path, kind, value, detail });
        }
    }
}

fn ports(list: &At<'_>, errors: &mut Vec<FieldError>) {
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
        // One that is no address would open the port on all of them.
        let address = port.field("hostIP");
        if !address.is_empty() {
            address.address(errors);
        }
        port.field("protocol").one_of(&["SCTP", "TCP", "UDP"], errors);
    }
}

/// A port of the node is asked for once.
fn host_ports<'a>(containers: impl IntoIterator<Item = At<'a>>, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for port in containers.into_iter().flat_map(|it| it.field("ports").items()) {
        let host = port.field("hostPort");
        let Some(number) = host.number().filter(|number| *number != 0) else { continue };
        let text = format!("{}/{}/{number}", port.field("protocol").text(), port.field("hostIP").text());
        if !seen.insert(text.clone()) {
            errors.push(FieldError::duplicate(host.path, text));
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
