//! What a container or a pod asks for, and how that may change.

use std::collections::HashSet;

use super::super::at::At;
use super::super::{ErrorKind, FieldError};
use super::Pod;
use crate::names;
use crate::quantity::Quantity;

const WHOLE: &str = "must be an integer";
const QUOTA_COUNTS: [&str; 10] = [
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
    "endpoints",
];

/// Whether a resource is one of Kubernetes' own.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether a resource is counted in whole units.
fn is_whole(name: &str) -> bool {
    QUOTA_COUNTS.contains(&name) || (!is_native(name) && !name.starts_with("requests."))
}

/// The quantity at a place, after saying what is wrong with it.
pub(in super::super) fn quantity(at: &At<'_>, errors: &mut Vec<FieldError>) -> Option<Quantity> {
    let Some(text) = at.quantity_text() else {
        errors.push(at.invalid("must be a quantity"));
        return None;
    };
    match Quantity::parse(&text) {
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

impl At<'_> {
    fn quantity_text(&self) -> Option<String> {
        match self.value {
            serde_json::Value::String(text) => Some(text.clone()),
            serde_json::Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

/// The amount of a resource, which is whole for resources that are counted.
pub(in super::super) fn amount(at: &At<'_>, name: &str, errors: &mut Vec<FieldError>) -> Option<Quantity> {
    let found = quantity(at, errors)?;
    if is_whole(name) && found.milli_value() % 1000 != 0 {
        errors.push(at.invalid(WHOLE));
    }
    Some(found)
}

fn container_resource(at: &At<'_>, name: &str, errors: &mut Vec<FieldError>) {
    let fault = |detail: String| FieldError::invalid(at.path.as_str(), name, detail);
    let faults = names::qualified_name(name);
    if !faults.is_empty() {
        errors.extend(faults.into_iter().map(fault));
        return;
    }
    let is_standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge(name);
    if !name.contains('/') && !is_standard {
        errors.push(fault("must be a standard resource type or fully qualified".into()));
        errors.push(fault("must be a standard resource for containers".into()));
    } else if !is_native(name) && name.starts_with("requests.") {
        errors.push(fault("doesn't follow extended resource name standard".into()));
    }
}

fn pod_resource(at: &At<'_>, name: &str, errors: &mut Vec<FieldError>) {
    if !matches!(name, "cpu" | "memory") && !is_huge(name) {
        errors.push(FieldError::not_supported(at.path.as_str(), name, &["cpu", "hugepages-", "memory"]));
    }
}

fn huge_page(at: &At<'_>, name: &str, amount: Quantity, errors: &mut Vec<FieldError>) {
    let size = name.strip_prefix("hugepages-").and_then(|size| Quantity::parse(size).ok());
    let fits = size.is_some_and(|size| size.value() > 0 && amount.value() % size.value() == 0);
    if !fits {
        let detail = format!("{} is not positive integer multiple of {name}", at.text());
        errors.push(at.invalid(detail));
    }
}

/// The requirements of a container.
pub(super) fn container(at: &At<'_>, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    requirements(at, container_resource, errors);
    claims(&at.field("claims"), pod, errors);
}

/// What a pod needs beside its containers.
pub(in super::super) fn overhead(at: &At<'_>, errors: &mut Vec<FieldError>) {
    for (name, value) in at.entries() {
        let value = At { path: format!("{}.limits[{name}]", at.path), ..value };
        container_resource(&value, name, errors);
        amount(&value, name, errors);
    }
}

/// The requirements of a pod as a whole, and that its containers fit into them.
pub(super) fn pod(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let at = spec.field("resources");
    if !at.is_set() {
        return;
    }
    if at.field("claims").is_set() {
        errors.push(at.field("claims").forbidden("claims cannot be set for Resources at pod-level"));
    }
    requirements(&at, pod_resource, errors);
    let parse = |value: &At<'_>| value.quantity_text().and_then(|text| Quantity::parse(&text).ok());
    for (name, limit) in at.field("limits").entries() {
        let Some(most) = parse(&limit) else { continue };
        for (place, it) in spec.field("containers").items().enumerate() {
            let own = it.field("resources").field("limits").field(name);
            if parse(&own).is_some_and(|own| own > most) {
                let path = format!("{}.containers[{place}][{name}].limits", at.path);
                let detail = format!("must be less than or equal to pod limits of {}", limit.text());
                errors.push(FieldError::invalid(path, own.value.clone(), detail));
            }
        }
    }
    for (name, request) in at.field("requests").entries() {
        let Some(given) = parse(&request) else { continue };
        let parts = spec.field("containers");
        let asked =
            parts.items().filter_map(|it| parse(&it.field("resources").field("requests").field(name)));
        let total: i128 = asked.map(Quantity::milli_value).sum();
        if total > given.milli_value() {
            let text = crate::quantity::canonical(&format!("{total}m")).unwrap_or_default();
            let detail = format!("must be greater than or equal to aggregate container requests of {text}");
            errors.push(request.invalid(detail));
        }
    }
}

type Named = fn(&At<'_>, &str, &mut Vec<FieldError>);

fn requirements(at: &At<'_>, named: Named, errors: &mut Vec<FieldError>) {
    let (limits, requests) = (at.field("limits"), at.field("requests"));
    let (mut has_huge, mut has_compute) = (false, false);
    let mut one = |value: &At<'_>, name: &str, errors: &mut Vec<FieldError>| {
        named(value, name, errors);
        let found = amount(value, name, errors)?;
        if is_huge(name) {
            has_huge = true;
            huge_page(value, name, found, errors);
        }
        has_compute |= matches!(name, "cpu" | "memory");
        Some(found)
    };
    for (name, value) in limits.entries() {
        one(&value, name, errors);
    }
    for (name, value) in requests.entries() {
        let Some(request) = one(&value, name, errors) else { continue };
        let overcommitted = is_native(name) && !is_huge(name);
        let limit = limits.field(name).quantity_text();
        match limit.as_ref().map(|text| (text, Quantity::parse(text))) {
            Some((text, Ok(limit))) if !overcommitted && request != limit => {
                let detail = format!("must be equal to {name} limit of {text}");
                errors.push(FieldError::invalid(requests.path.as_str(), value.value.clone(), detail));
            }
            Some((text, Ok(limit))) if request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {text}");
                errors.push(FieldError::invalid(requests.path.as_str(), value.value.clone(), detail));
            }
            Some(_) => {}
            None if !overcommitted => {
                errors.push(limits.required("Limit must be set for non overcommitable resources"));
            }
            None => {}
        }
    }
    if has_huge && !has_compute {
        errors.push(at.forbidden("HugePages require cpu or memory"));
    }
}

fn claims(list: &At<'_>, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    let mut seen: HashSet<String> = HashSet::new();
    for claim in list.items() {
        let (name, request) = (claim.field("name").text(), claim.field("request"));
        if name.is_empty() {
            errors.push(claim.required(""));
            continue;
        }
        let mut key = name.to_owned();
        if !request.is_empty() {
            request.invalid_for(names::dns1123_label(request.text()), errors);
            key = format!("{name}/{}", request.text());
        }
        let whole = request.is_empty() && seen.iter().any(|it| it.split('/').next() == Some(name));
        if seen.contains(name) || whole {
            errors.push(FieldError::duplicate(claim.path.as_str(), name));
        } else if !seen.insert(key.clone()) {
            errors.push(FieldError::duplicate(claim.path.as_str(), key));
        }
        if !pod.claims.contains(&name) {
            let mut known = pod.claims.clone();
            known.sort_unstable();
            let tail = if known.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", known.join(", "))
            };
            let detail = format!("must be one of the names in pod.spec.resourceClaims{tail}");
            let (kind, value) = (ErrorKind::NotFound, name.into());
            errors.push(FieldError { path: claim.path, kind, value, detail });
        }
    }
}

/// The claims of a pod; gives their names.
pub(super) fn pod_claims<'a>(list: &At<'a>, errors: &mut Vec<FieldError>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for claim in list.items() {
        let name = claim.field("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else if seen.contains(&name.text()) {
            errors.push(name.duplicate());
        } else {
            name.invalid_for(names::dns1123_label(name.text()), errors);
            seen.push(name.text());
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"].map(|field| claim.field(field));
        match sources.iter().filter(|source| source.is_set()).count() {
            0 => errors
                .push(claim.invalid("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")),
            1 => {}
            _ => errors.push(claim.invalid(
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            )),
        }
        for source in sources.iter().filter(|source| source.is_set()) {
            source.invalid_for(names::dns1123_subdomain(source.text()), errors);
        }
    }
    seen
}

/// How a container takes a change of its resources.
pub(super) fn resize_policy(list: &At<'_>, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for policy in list.items() {
        let (name, restart) = (policy.field("resourceName").text(), policy.field("restartPolicy").text());
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(policy.path.as_str(), name));
        }
        for (text, known) in [(name, ["cpu", "memory"]), (restart, ["NotRequired", "RestartContainer"])] {
            if text.is_empty() {
                errors.push(list.required(""));
            } else if !known.contains(&text) {
                errors.push(FieldError::not_supported(list.path.as_str(), text, &known));
            }
        }
        if pod.restart_policy == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(list.path.as_str(), restart, detail));
        }
    }
}

/// Devices of a class, asked for as if they were a resource that nodes count.
const BY_CLASS: &str = "deviceclass.resource.kubernetes.io/";

/// What is asked for in a way that nobody answers.
pub(super) fn refuse(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    for it in super::security::containers(spec).map(|it| it.field("resources")) {
        for list in ["limits", "requests"].map(|kind| it.field(kind)) {
            for (_, at) in list.entries().filter(|(name, _)| name.starts_with(BY_CLASS)) {
                errors.push(at.forbidden("devices of a class are asked for by `spec.resourceClaims`"));
            }
        }
    }
}
