//! What statuses may say: counters, conditions, load balancers, amounts. Those of pods, Services, Jobs and claims to
//! devices have rules of their own.

use std::collections::HashSet;
use std::net::IpAddr;

use super::FieldError;
use super::at::At;
use super::condition::conditions;
use super::pod::resources::{amount, quantity};
use crate::names;
use crate::object::Object;

/// Numbers that count something.
fn counters(status: &At<'_>, fields: &[&str], errors: &mut Vec<FieldError>) {
    for field in fields {
        status.field(field).not_negative(errors);
    }
}

/// A part that is larger than its whole.
fn within(status: &At<'_>, parts: &[&str], whole: &str, named: &str, errors: &mut Vec<FieldError>) {
    let most = status.field(whole).number().unwrap_or(0);
    for part in parts.iter().map(|part| status.field(part)) {
        if part.number().is_some_and(|number| number > most) {
            errors.push(part.invalid(format!("cannot be greater than {named}")));
        }
    }
}

/// A count of collisions only grows.
fn collisions(new: &At<'_>, old: &At<'_>, errors: &mut Vec<FieldError>) {
    let (count, was) = (new.field("collisionCount"), old.field("collisionCount"));
    if was.number().is_some_and(|was| count.number().is_none_or(|count| count < was)) {
        errors.push(count.or_zero("cannot be decremented"));
    }
}

pub(super) fn deployment(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let status = At::of(new, "status");
    let all = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ];
    counters(&status, &all, errors);
    let parts = ["updatedReplicas", "readyReplicas", "availableReplicas"];
    within(&status, &parts, "replicas", "status.replicas", errors);
    within(&status, &["availableReplicas"], "readyReplicas", "readyReplicas", errors);
    collisions(&status, &At::of(old, "status"), errors);
}

/// ReplicaSets and ReplicationControllers.
pub(super) fn replicas(new: &Object, _: &Object, errors: &mut Vec<FieldError>) {
    let status = At::of(new, "status");
    let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    counters(&status, &["replicas", "observedGeneration", "terminatingReplicas"], errors);
    counters(&status, &parts, errors);
    within(&status, &parts, "replicas", "status.replicas", errors);
    within(&status, &["availableReplicas"], "readyReplicas", "readyReplicas", errors);
}

pub(super) fn stateful_set(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let status = At::of(new, "status");
    let parts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    counters(&status, &["replicas", "observedGeneration", "collisionCount"], errors);
    counters(&status, &parts, errors);
    within(&status, &parts, "replicas", "status.replicas", errors);
    within(&status, &["availableReplicas"], "readyReplicas", "status.readyReplicas", errors);
    collisions(&status, &At::of(old, "status"), errors);
}

pub(super) fn daemon_set(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let status = At::of(new, "status");
    let all = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    counters(&status, &all, errors);
    collisions(&status, &At::of(old, "status"), errors);
}

pub(super) fn autoscaler(new: &Object, _: &Object, errors: &mut Vec<FieldError>) {
    counters(&At::of(new, "status"), &["currentReplicas", "desiredReplicas"], errors);
}

pub(super) fn disruption_budget(new: &Object, _: &Object, errors: &mut Vec<FieldError>) {
    let status = At::of(new, "status");
    conditions(&status.field("conditions"), errors);
    counters(&status, &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"], errors);
}

pub(super) fn claim(new: &Object, _: &Object, errors: &mut Vec<FieldError>) {
    const STATES: [&str; 5] = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    let status = At::of(new, "status");
    for (_, size) in status.field("capacity").entries() {
        quantity(&size, errors);
    }
    let states =
        At { path: "status.allocatedResourceStatus".into(), ..status.field("allocatedResourceStatuses") };
    for (name, state) in states.entries() {
        claim_resource(&states, name, errors);
        if !STATES.contains(&state.text()) {
            errors.push(FieldError::not_supported(states.path.as_str(), name, &STATES));
        }
    }
    let given = status.field("allocatedResources");
    for (name, size) in given.entries() {
        claim_resource(&given, name, errors);
        quantity(&size, errors);
    }
    let modified = status.field("modifyVolumeStatus");
    if modified.is_set() {
        modified.field("status").one_of(&["InProgress", "Infeasible", "Pending"], errors);
    }
}

/// What a claim may be given: storage, and what others define.
fn claim_resource(at: &At<'_>, name: &str, errors: &mut Vec<FieldError>) {
    let faults = names::qualified_name(name);
    let is_native = !name.contains('/') || name.contains("kubernetes.io/");
    if faults.is_empty() && is_native && name != "storage" {
        errors.push(FieldError::not_supported(at.path.as_str(), name, &["storage"]));
    }
    errors.extend(faults.into_iter().map(|fault| FieldError::invalid(at.path.as_str(), name, fault)));
}

/// A node's amounts and addresses, which it may also come with.
pub(super) fn node(object: &Object, errors: &mut Vec<FieldError>) {
    let status = At::of(object, "status");
    for list in ["capacity", "allocatable"].map(|list| status.field(list)) {
        for (name, value) in list.entries() {
            amount(&At { path: format!("{}.{name}", list.path), ..value }, name, errors);
        }
    }
    let mut seen = HashSet::new();
    for address in status.field("addresses").items() {
        if !seen.insert((address.field("type").text(), address.field("address").text())) {
            errors.push(address.duplicate());
        }
    }
}

pub(super) fn node_status(new: &Object, _: &Object, errors: &mut Vec<FieldError>) {
    node(new, errors);
}

pub(super) fn ingress(new: &Object, _: &Object, errors: &mut Vec<FieldError>) {
    for point in At::of(new, "status").field("loadBalancer").field("ingress").items() {
        let (ip, host) = (point.field("ip"), point.field("hostname"));
        if !ip.is_empty() {
            ip.address(errors);
        }
        if !host.is_empty() {
            host.invalid_for(names::dns1123_subdomain(host.text()), errors);
            if host.text().parse::<IpAddr>().is_ok() {
                errors.push(host.invalid("must be a DNS name, not an IP address"));
            }
        }
    }
}

pub(super) fn namespace(new: &Object, _: &Object, errors: &mut Vec<FieldError>) {
    let phase = At { path: "status.Phase".into(), ..At::of(new, "status").field("phase") };
    match (new.deletion_timestamp().is_some(), phase.text()) {
        (false, "Active") | (true, "Terminating") => {}
        (false, _) => errors.push(phase.invalid("may only be 'Active' if `deletionTimestamp` is empty")),
        (true, _) => {
            errors.push(phase.invalid("may only be 'Terminating' if `deletionTimestamp` is not empty"));
        }
    }
}

pub(super) fn quota(new: &Object, _: &Object, errors: &mut Vec<FieldError>) {
    for list in ["hard", "used"].map(|list| At::of(new, "status").field(list)) {
        super::cluster::quota_amounts(&list, errors);
    }
}

/// Conditions of flow control, which have a type and no more rules.
pub(super) fn flow_control(new: &Object, _: &Object, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for kind in At::of(new, "status").field("conditions").items().map(|it| it.field("type")) {
        if !seen.insert(kind.text()) {
            errors.push(kind.duplicate());
        }
        if kind.is_empty() {
            errors.push(kind.required("must not be empty"));
        }
    }
}

pub(super) fn policy(new: &Object, _: &Object, errors: &mut Vec<FieldError>) {
    let status = At::of(new, "status");
    for warning in status.field("typeChecking").field("expressionWarnings").items() {
        for field in ["fieldRef", "warning"].map(|field| warning.field(field)) {
            if field.is_empty() {
                errors.push(field.required(""));
            }
        }
    }
    conditions(&status.field("conditions"), errors);
}

pub(super) fn attachment(new: &Object, _: &Object, errors: &mut Vec<FieldError>) {
    const MAX_METADATA: usize = 256 * 1024;
    const MAX_MESSAGE: usize = 1024;
    let status = At::of(new, "status");
    let metadata = status.field("attachmentMetadata");
    if metadata.entries().map(|(key, value)| key.len() + value.text().len()).sum::<usize>() > MAX_METADATA {
        errors.push(metadata.too_long(MAX_METADATA));
    }
    for error in ["attachError", "detachError"].map(|error| status.field(error)) {
        if error.field("message").text().len() > MAX_MESSAGE {
            // The limit that is told is that of the metadata.
            errors.push(error.field("message").too_long(MAX_METADATA));
        }
        let code = error.field("errorCode");
        if code.number().is_some_and(|code| code < 0) {
            errors.push(code.invalid("must be between 0 and 2147483647, inclusive"));
        }
    }
}
