//! What classes of devices and claims to them say beyond their form: expressions are compiled before they are stored, and
//! devices that others use are given to administrators' namespaces alone.

use std::collections::HashSet;

use keelson_api::validation::FieldError;
use keelson_api::{GroupResource, Object};
use keelson_cel::device::{SelectorError, compile_selector};
use serde_json::Value;

use crate::registry::{Registry, Target};

const GROUP: &str = "resource.k8s.io";
/// The label of namespaces whose claims may be to devices in use.
const ADMIN: &str = "resource.kubernetes.io/admin-access";

/// Adds the faults of a class, claim or template. What was accepted is not looked at again.
pub(crate) fn check(
    registry: &Registry,
    target: &Target,
    object: &Object,
    live: Option<&Object>,
    errors: &mut Vec<FieldError>,
) {
    if target.resource.group != GROUP || !errors.is_empty() {
        return;
    }
    let is_kept = live.is_some_and(|live| live.get(&["spec"]) == object.get(&["spec"]));
    let found = match (object.kind(), target.subresource.as_str()) {
        ("ResourceClaim", "status") => object.get(&["status", "allocation", "devices", "results"]),
        (_, "status") => None,
        ("DeviceClass", _) if !is_kept => {
            selectors(object.get(&["spec", "selectors"]), "spec.selectors", errors);
            None
        }
        ("ResourceClaim", _) if !is_kept => object.get(&["spec", "devices", "requests"]),
        ("ResourceClaimTemplate", _) if !is_kept => object.get(&["spec", "spec", "devices", "requests"]),
        _ => None,
    };
    let list = found.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if target.subresource == "status" {
        let had = live.and_then(|live| live.get(&["status", "allocation", "devices", "results"]));
        let granted = had.and_then(Value::as_array).into_iter().flatten().any(|it| it["adminAccess"] == true);
        let asked = list.iter().position(|it| it["adminAccess"] == true).filter(|_| !granted);
        let path = asked.map(|at| format!("status.allocation.devices.results[{at}].adminAccess"));
        errors.extend(path.and_then(|path| admin(registry, target, path)));
        return;
    }
    let root = if object.kind() == "ResourceClaim" { "spec" } else { "spec.spec" };
    for (at, request) in list.iter().enumerate() {
        let path = format!("{root}.devices.requests[{at}]");
        selectors(request["exactly"].get("selectors"), &format!("{path}.exactly.selectors"), errors);
        let others = request["firstAvailable"].as_array().into_iter().flatten();
        for (place, other) in others.enumerate() {
            selectors(other.get("selectors"), &format!("{path}.firstAvailable[{place}].selectors"), errors);
        }
    }
    let asked = list.iter().position(|it| it["exactly"]["adminAccess"] == true);
    let path = asked.map(|at| format!("spec.devices.requests[{at}].adminAccess"));
    errors.extend(path.and_then(|path| admin(registry, target, path)));
}

/// How a device is told from others.
fn device_id(device: &Value) -> String {
    ["driver", "pool", "device"].map(|field| device[field].as_str().unwrap_or_default()).join("/")
}

/// Takes away what drivers said of devices that a claim has no longer.
pub(crate) fn forget(object: &mut Object, live: &Object) {
    let ids = |object: &Object| -> HashSet<String> {
        let results = object.get(&["status", "allocation", "devices", "results"]);
        results.and_then(Value::as_array).into_iter().flatten().map(device_id).collect()
    };
    let (had, has) = (ids(live), ids(object));
    let Some(mut devices) = object.get(&["status", "devices"]).and_then(Value::as_array).cloned() else {
        return;
    };
    devices.retain(|device| !had.contains(&device_id(device)) || has.contains(&device_id(device)));
    if devices.is_empty() {
        object.remove(&["status", "devices"]);
    } else {
        object.set(&["status", "devices"], devices.into());
    }
}

fn selectors(list: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    for (at, selector) in list.and_then(Value::as_array).into_iter().flatten().enumerate() {
        let source = selector["cel"]["expression"].as_str().unwrap_or_default();
        let path = format!("{path}[{at}].cel.expression");
        match compile_selector(source) {
            Ok(_) => {}
            Err(error @ SelectorError::TooCostly) => {
                errors.push(FieldError::forbidden(path, error.to_string()));
            }
            Err(error @ (SelectorError::Compile(_) | SelectorError::NotBool(_))) => {
                errors.push(FieldError::invalid(path, source, error.to_string()));
            }
        }
    }
}

/// The fault of a claim to devices in use outside of an administrator's namespace.
fn admin(registry: &Registry, target: &Target, path: String) -> Option<FieldError> {
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let found = registry.resource(&GroupResource::new("", "namespaces")).get(namespace);
    let labels = found.as_ref().and_then(|namespace| namespace.labels.as_ref());
    if labels.and_then(|labels| labels.get(ADMIN)).is_some_and(|value| value == "true") {
        return None;
    }
    let detail =
        format!("admin access to devices requires the `{ADMIN}: true` label on the containing namespace");
    Some(FieldError::forbidden(path, detail))
}
