//! Where resources differ: what a writer may not set, and what is kept from the live object.

use keelson_api::custom_resource::names;
use keelson_api::validation::FieldError;
use keelson_api::{Object, ResourceInfo, Status, convert, defaults};
use serde_json::Value;

use self::generation::Counts;
use super::Target;
use crate::custom_resources;

mod gated;
mod generation;
mod job;
pub(crate) mod pod;
mod service;
mod status;
mod storage;

/// The finalizer of foreground deletion.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer that asks for dependents to be left.
pub const ORPHAN: &str = "orphan";

/// Letters of generated names: no vowels and nothing that looks like another.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const MAX_GENERATED: usize = 63;

/// How many names are generated for an object at most, where others have them already.
const NAMES: usize = 8;

/// Brings name and namespace of object and path together. `true` where the name was generated, if possible as one that
/// is not taken.
pub(super) fn take_name(
    object: &mut Object,
    target: &mut Target,
    is_taken: impl Fn(&Target) -> bool,
) -> Result<bool, Status> {
    let own = object.name().unwrap_or_default().to_owned();
    let mut generated = false;
    if !target.name.is_empty() && !own.is_empty() && own != target.name {
        let text =
            format!("the name of the object ({own}) does not match the name on the URL ({})", target.name);
        return Err(Status::bad_request(text));
    }
    if target.name.is_empty() {
        target.name = own;
    }
    if target.name.is_empty()
        && let Some(prefix) = object.generate_name().filter(|prefix| !prefix.is_empty())
    {
        generated = true;
        for _ in 0..NAMES {
            target.name = generate(prefix);
            if !is_taken(target) {
                break;
            }
        }
    }
    object.set_name(&target.name.clone());
    match (&target.namespace, object.namespace().filter(|namespace| !namespace.is_empty())) {
        (Some(path), Some(own)) if path != own => {
            let text =
                "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Status::bad_request(text));
        }
        _ => object.set_namespace(target.namespace.clone().as_deref()),
    }
    Ok(generated)
}

/// An update leaves an object's name and namespace, and begins no deletion.
pub(super) fn check_identity(target: &Target, object: &Object, live: &Object) -> Result<(), Status> {
    let is_other = |own: Option<&str>, wanted: Option<&str>| {
        own.filter(|own| !own.is_empty()).is_some_and(|own| wanted.is_some_and(|wanted| wanted != own))
    };
    if is_other(object.namespace(), target.namespace.as_deref()) {
        let text = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(text));
    }
    let mut faults = Vec::new();
    let mut fixed = |field: &str, value: Value| {
        faults.push(FieldError::invalid(format!("metadata.{field}"), value, "field is immutable"));
    };
    if is_other(object.name(), Some(&target.name)) {
        fixed("name", object.name().unwrap_or_default().into());
    }
    if live.deletion_timestamp().is_none() {
        let begun = ["deletionTimestamp", "deletionGracePeriodSeconds"];
        for (field, value) in begun.iter().filter_map(|field| Some((field, object.metadata()?.get(*field)?)))
        {
            if !value.is_null() {
                fixed(field, value.clone());
            }
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&target.resource.gvk(), &target.name, &faults))
}

fn generate(prefix: &str) -> String {
    let mut name: String = prefix.chars().take(MAX_GENERATED - 5).collect();
    name.extend((0..5).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])));
    name
}

pub(super) fn name_collision(target: &Target) -> Status {
    let resource = target.group_resource();
    let mut status = Status::already_exists(&resource, &target.name);
    status.message = format!(
        "{resource} {:?} already exists, the server was not able to generate a unique name for the object",
        target.name
    );
    status
}

/// Whether a resource's status is written through its own path alone.
fn has_status(resource: &ResourceInfo) -> bool {
    resource.subresource("status").is_some()
}

/// Brings an object into the form in which it is stored: with its defaults, where the path writes what has some.
pub fn settle(resource: &ResourceInfo, subresource: &str, object: &mut Object) {
    let gvk = convert::storage_kind(resource);
    match &resource.custom {
        Some(custom) => {
            custom.apply_defaults(object);
            defaults::settle_metadata(object);
        }
        None if matches!(subresource, "" | "ephemeralcontainers" | "resize") => {
            defaults::apply_defaults(&gvk, object);
        }
        None => defaults::settle(&gvk, object),
    }
}

/// What a creator may not set.
pub(crate) fn before_create(resource: &ResourceInfo, object: &mut Object) {
    // A kubelet registers its node with its status.
    if has_status(resource) && !is(resource, "", "nodes") {
        match status::initial(resource) {
            Some(initial) => object.set(&["status"], initial),
            None => drop(object.remove(&["status"])),
        }
    }
    gated::drop_fields(resource, object, None);
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("batch", "jobs") => job::before_create(object),
        ("", "namespaces") => keep_finalizer(object),
        ("", "serviceaccounts") => name_secrets(object),
        ("", "persistentvolumeclaims") => storage::settle_claim(object, None),
        _ => {}
    }
    if custom_resources::is_definitions(resource) {
        names::begin(object);
    }
    object.set_generation((generation::counts(resource) != Counts::Nothing).then_some(1));
    let phase = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => "Active",
        ("", "pods" | "persistentvolumeclaims" | "persistentvolumes") => "Pending",
        _ => return,
    };
    object.set(&["status", "phase"], phase.into());
}

/// What the server says about a new object, once its spec is final.
pub(super) fn finish_create(resource: &ResourceInfo, object: &mut Object, now: jiff::Timestamp) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod::finish(object, now),
        ("", "persistentvolumes") => storage::date_phase(object, None, now),
        ("resource.k8s.io", "resourceslices") => date_taints(object, now),
        _ => {}
    }
}

/// A namespace is held until its content is gone, whatever else its creator says.
fn keep_finalizer(namespace: &mut Object) {
    const OWN: &str = "kubernetes";
    let list = namespace.0.get_mut("spec").and_then(|spec| spec.get_mut("finalizers"));
    if let Some(Value::Array(list)) = list.filter(|list| !list.as_array().is_some_and(Vec::is_empty))
        && !list.iter().any(|it| it == OWN)
    {
        list.push(OWN.into());
    }
}

/// Of an account's Secrets the names are kept alone.
fn name_secrets(account: &mut Object) {
    let Some(Value::Array(secrets)) = account.0.get_mut("secrets") else { return };
    for secret in secrets.iter_mut().filter_map(Value::as_object_mut) {
        secret.retain(|field, _| field == "name");
    }
}

/// A device's taint says since when it is there.
fn date_taints(slice: &mut Object, now: jiff::Timestamp) {
    let now = keelson_api::object::format_time(now);
    let devices = slice.0.get_mut("spec").and_then(|spec| spec.get_mut("devices"));
    for device in devices.and_then(Value::as_array_mut).into_iter().flatten() {
        let taints = device.get_mut("taints").and_then(Value::as_array_mut);
        for taint in taints.into_iter().flatten().filter_map(Value::as_object_mut) {
            if taint.get("timeAdded").is_none_or(Value::is_null) {
                taint.insert("timeAdded".to_owned(), now.as_str().into());
            }
        }
    }
}

fn is(resource: &ResourceInfo, group: &str, plural: &str) -> bool {
    resource.group == group && resource.plural == plural
}

/// What an update keeps from the live object.
pub(crate) fn before_update(target: &Target, object: &mut Object, live: &Object) {
    let record = object.remove(&["metadata", "managedFields"]);
    match target.subresource.as_str() {
        "" => {
            if has_status(&target.resource) {
                keep(object, live, "status");
            }
            if is(&target.resource, "", "namespaces") {
                keep(object, live, "spec");
            }
            gated::drop_fields(&target.resource, object, Some(live));
            match (target.resource.group.as_str(), target.resource.plural.as_str()) {
                ("", "services") => service::before_update(object, live),
                ("", "serviceaccounts") => name_secrets(object),
                ("", "persistentvolumeclaims") => storage::settle_claim(object, Some(live)),
                ("resource.k8s.io", "resourceslices") => date_taints(object, jiff::Timestamp::now()),
                _ => {}
            }
        }
        "ephemeralcontainers" => {
            let containers = object.remove(&["spec", "ephemeralContainers"]);
            let version = object.resource_version().map(str::to_owned);
            *object = live.clone();
            object.set_resource_version(version.as_deref());
            match containers {
                Some(containers) => object.set(&["spec", "ephemeralContainers"], containers),
                None => drop(object.remove(&["spec", "ephemeralContainers"])),
            }
        }
        "resize" => pod::resize(object, live),
        // Of a certificate's request this writes its conditions, and what a status is written with.
        "approval" => {
            let said = std::mem::replace(object, live.clone());
            let conditions = said.get(&["status", "conditions"]).cloned();
            status::write_metadata(&target.resource, object, &said);
            object.set_resource_version(said.resource_version());
            match conditions {
                Some(conditions) => object.set(&["status", "conditions"], conditions),
                None => drop(object.remove(&["status", "conditions"])),
            }
        }
        "status" => {
            let mut said = std::mem::replace(object, live.clone());
            match said.remove(&["status"]) {
                Some(status) => object.set(&["status"], status),
                None => drop(object.remove(&["status"])),
            }
            status::write_metadata(&target.resource, object, &said);
            gated::drop_fields(&target.resource, object, Some(live));
            if is(&target.resource, "", "pods") {
                pod::keep(object, live);
            } else if is(&target.resource, "", "persistentvolumes") {
                storage::date_phase(object, Some(live), jiff::Timestamp::now());
            }
            if is(&target.resource, "resource.k8s.io", "resourceclaims") {
                crate::devices::forget(object, live);
            }
        }
        _ => {}
    }
    let kept = [
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "selfLink",
    ];
    let metadata = live.metadata().cloned().unwrap_or_default();
    for field in kept {
        match metadata.get(field) {
            Some(value) => object.set(&["metadata", field], value.clone()),
            None => drop(object.remove(&["metadata", field])),
        }
    }
    // The record of an apply is that of the new state, whatever is kept of the object; of another write it is made yet.
    match record {
        Some(record) => object.set(&["metadata", "managedFields"], record),
        None => drop(object.remove(&["metadata", "managedFields"])),
    }
    object.set_name(&target.name);
    object.set_namespace(target.namespace.as_deref());
}

fn keep(object: &mut Object, live: &Object, field: &str) {
    match live.get(&[field]) {
        Some(value) => object.set(&[field], value.clone()),
        None => drop(object.remove(&[field])),
    }
}

/// Counts a change of anything but metadata and status.
pub(super) fn set_generation(target: &Target, object: &mut Object, live: &Object) {
    let is_counted = generation::counts(&target.resource) == Counts::Changes;
    if !is_counted || matches!(target.subresource.as_str(), "status" | "binding") {
        return;
    }
    // Without a status of its own that field is one as others are.
    let plain_status = target.resource.custom.is_some() && !has_status(&target.resource);
    let differs = |a: &Object, b: &Object| {
        a.0.iter().any(|(field, value)| match field.as_str() {
            "metadata" | "apiVersion" => false,
            "status" if !plain_status => false,
            _ => b.0.get(field) != Some(value),
        })
    };
    // A Deployment's annotations become those of its ReplicaSets.
    let annotations =
        is(&target.resource, "apps", "deployments") && object.annotations() != live.annotations();
    if annotations || differs(object, live) || differs(live, object) {
        object.set_generation(Some(live.generation().unwrap_or(0) + 1));
    }
}

/// Whether an object that is being deleted has nothing left that holds it.
pub(super) fn is_finished(resource: &ResourceInfo, object: &Object) -> bool {
    let held = object.finalizers().next().is_some() || is_held_by_spec(resource, object);
    let waits = object.deletion_grace_period_seconds().is_some_and(|seconds| seconds > 0);
    object.deletion_timestamp().is_some() && !held && !waits
}

/// Whether a namespace still has its own finalizers.
pub(super) fn is_held_by_spec(resource: &ResourceInfo, object: &Object) -> bool {
    resource.group.is_empty()
        && resource.plural == "namespaces"
        && object.get(&["spec", "finalizers"]).and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}
