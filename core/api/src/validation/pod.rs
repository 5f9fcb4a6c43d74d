//! Pods and pod templates.

use std::collections::HashMap;

use super::FieldError;
use super::at::At;
use super::selector::labels;
use crate::names;
use crate::object::Object;

pub(super) mod annotation;
pub(super) mod container;
mod env;
pub(super) mod ephemeral;
mod mount;
mod probe;
pub(super) mod resize;
pub(super) mod resources;
pub(super) mod scheduling;
mod security;
pub(super) mod status;
pub(super) mod update;
mod volume;

pub(crate) use volume::REFUSED;
pub(super) use volume::driver_name;

/// What the rules of a container need to know of its pod.
struct Pod<'a> {
    volumes: HashMap<&'a str, At<'a>>,
    claims: Vec<&'a str>,
    restart_policy: &'a str,
    host_users: bool,
    grace: Option<i64>,
    /// The operating system for which it is, where it says one.
    os: Option<&'a str>,
}

const SECONDS: &str = "must be between 1 and 2147483647, inclusive";

/// A pod.
pub(super) fn pod(object: &Object, errors: &mut Vec<FieldError>) {
    let at = At::of(object, "spec");
    spec(&at, object.name(), errors);
    for list in ["containers", "initContainers"].map(|list| at.field(list)) {
        for image in list.items().map(|it| it.field("image")) {
            if image.text().trim() != image.text() {
                errors.push(image.invalid("must not have leading or trailing whitespace"));
            }
        }
    }
    if at.field("hostNetwork").is_true() {
        host_ports(&at, Missing::Refused, errors);
    }
    if !at.field("serviceAccountName").is_empty() {
        return;
    }
    for source in at.field("volumes").items().flat_map(|it| it.field("projected").field("sources").items()) {
        let token = source.field("serviceAccountToken");
        if token.is_set() {
            errors.push(token.forbidden("must not be specified when serviceAccountName is not set"));
        }
    }
}

/// A pod that does not exist yet.
pub(super) fn new(object: &Object, errors: &mut Vec<FieldError>) {
    let at = At::of(object, "spec");
    let later = at.field("ephemeralContainers");
    if !later.is_empty() {
        errors.push(later.forbidden("cannot be set on create"));
    }
    let node = at.field("nodeName");
    if !node.is_empty() && !at.field("schedulingGates").is_empty() {
        errors.push(node.forbidden("cannot be set until all schedulingGates have been cleared"));
    }
    let metadata = At::of(object, "metadata");
    security::annotations(&metadata, &at, errors);
    annotation::all(&metadata.field("annotations"), &at, errors);
    volume::refuse(&at.field("volumes"), errors);
    volume::refuse_gated(&at.field("volumes"), errors);
    resources::refuse(&at, errors);
}

/// A template, with the restart policies that its owner allows.
pub(super) fn template(at: &At<'_>, policies: &[&str], errors: &mut Vec<FieldError>) {
    let metadata = at.field("metadata");
    labels(&At { path: format!("{}.labels", at.path), ..metadata.field("labels") }, errors);
    for (key, _) in metadata.field("annotations").entries() {
        let path = format!("{}.annotations", at.path);
        let faults = names::qualified_name(&key.to_lowercase()).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(path.as_str(), key, fault)));
    }
    let inside = at.field("spec");
    spec(&inside, None, errors);
    if inside.field("hostNetwork").is_true() {
        host_ports(&inside, Missing::Allowed, errors);
    }
    security::annotations(&metadata, &inside, errors);
    let annotations = metadata.field("annotations");
    let annotations = At { path: format!("{}.annotations", at.path), ..annotations };
    annotation::all(&annotations, &inside, errors);
    volume::refuse_gated(&inside.field("volumes"), errors);
    let policy = inside.field("restartPolicy");
    if ["Always", "Never", "OnFailure"].contains(&policy.text()) && !policies.contains(&policy.text()) {
        errors.push(FieldError::not_supported(policy.path.as_str(), policy.text(), policies));
    }
    let later = inside.field("ephemeralContainers");
    if !later.is_empty() {
        errors.push(later.forbidden("ephemeral containers not allowed in pod template"));
    }
}

/// Whether a port of the node may be left to be filled in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Allowed,
    Refused,
}

/// In the node's network a container's ports are the node's.
fn host_ports(at: &At<'_>, missing: Missing, errors: &mut Vec<FieldError>) {
    for port in at.field("containers").items().flat_map(|it| it.field("ports").items()) {
        let (inside, outside) = (port.field("containerPort"), port.field("hostPort"));
        let number = outside.number().unwrap_or(0);
        if (number != 0 || missing == Missing::Refused) && number != inside.number().unwrap_or(0) {
            errors.push(outside.or_zero("must match `containerPort` when `hostNetwork` is true"));
        }
    }
}

fn spec(at: &At<'_>, name: Option<&str>, errors: &mut Vec<FieldError>) {
    let grace = at.field("terminationGracePeriodSeconds");
    if !grace.is_set() {
        errors.push(grace.required(""));
    }
    let pod = Pod {
        volumes: volume::all(&at.field("volumes"), name, errors),
        claims: resources::pod_claims(&at.field("resourceClaims"), errors),
        restart_policy: at.field("restartPolicy").text(),
        host_users: at.field("hostUsers").value != false,
        grace: grace.number(),
        os: at.field("os").is_set().then(|| at.field("os").field("name").text()),
    };
    container::all(at, &pod, errors);
    ephemeral::all(at, &pod, errors);
    resources::pod(at, errors);
    at.field("restartPolicy").one_of(&["Always", "OnFailure", "Never"], errors);
    dns(at, errors);
    labels(&at.field("nodeSelector"), errors);
    security::pod(at, errors);
    scheduling::affinity(&at.field("affinity"), errors);
    scheduling::gates(at, errors);
    scheduling::spread(at, errors);
    let subdomains = ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"];
    for name in subdomains.map(|field| at.field(field)) {
        if !name.is_empty() {
            name.invalid_for(names::dns1123_subdomain(name.text()), errors);
        }
    }
    for name in ["hostname", "subdomain"].map(|field| at.field(field)) {
        if !name.is_empty() {
            name.invalid_for(names::dns1123_label(name.text()), errors);
        }
    }
    let deadline = at.field("activeDeadlineSeconds");
    if deadline.number().is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds)) {
        errors.push(deadline.invalid(SECONDS));
    }
    scheduling::tolerations(&at.field("tolerations"), errors);
    for alias in at.field("hostAliases").items() {
        alias.field("ip").address(errors);
        for name in alias.field("hostnames").items() {
            name.invalid_for(names::dns1123_subdomain(name.text()), errors);
        }
    }
    let policy = at.field("preemptionPolicy");
    if policy.is_set() {
        policy.one_of(&["PreemptLowerPriority", "Never"], errors);
    }
    resources::overhead(&at.field("overhead"), errors);
    host_name(at, errors);
}

fn host_name(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let name = at.field("hostnameOverride");
    if !name.is_set() {
        return;
    }
    if at.field("setHostnameAsFQDN").is_true() {
        errors.push(name.forbidden("may not be specified when setHostnameAsFQDN is true"));
    }
    if at.field("hostNetwork").is_true() {
        errors.push(name.forbidden("may not be specified when hostNetwork is true"));
    }
    if name.text().len() > 64 {
        errors.push(name.too_long(64));
    }
    name.invalid_for(names::dns1123_subdomain(name.text()), errors);
}

fn dns(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let policy = at.field("dnsPolicy");
    policy.one_of(&["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], errors);
    let config = at.field("dnsConfig");
    let servers = config.field("nameservers");
    if policy.text() == "None" && !config.is_set() {
        errors.push(config.required("must provide `dnsConfig` when `dnsPolicy` is None"));
        return;
    }
    if policy.text() == "None" && servers.is_empty() {
        errors.push(servers.required("must provide at least one DNS nameserver when `dnsPolicy` is None"));
        return;
    }
    if servers.items().count() > 3 {
        errors.push(servers.invalid("must not have more than 3 nameservers"));
    }
    servers.items().for_each(|server| server.address(errors));
    let searches = config.field("searches");
    if searches.items().count() > 32 {
        errors.push(searches.invalid("must not have more than 32 search paths"));
    }
    let length: usize = searches.items().map(|search| search.text().len() + 1).sum();
    if length.saturating_sub(1) > 2048 {
        let detail = "must not have more than 2048 characters (including spaces) in the search list";
        errors.push(searches.invalid(detail));
    }
    for search in searches.items().filter(|search| search.text() != ".") {
        let text = search.text().strip_suffix('.').unwrap_or(search.text());
        let faults = names::dns1123_subdomain_with_underscore(text).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(search.path.as_str(), text, fault)));
    }
    for option in config.field("options").items() {
        if option.field("name").is_empty() {
            errors.push(FieldError::required(option.path, "must not be empty"));
        }
    }
}
