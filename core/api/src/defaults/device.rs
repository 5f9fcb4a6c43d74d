//! Claims for devices, their templates, and classes.

use serde_json::{Map, Value};

use super::{each, fill};
use crate::object::Object;

/// Fills in what a claim leaves open.
pub(super) fn apply(kind: &str, object: &mut Object) {
    let spec = match kind {
        "ResourceClaim" => object.0.get_mut("spec"),
        "ResourceClaimTemplate" => object.0.get_mut("spec").and_then(|spec| spec.get_mut("spec")),
        _ => None,
    };
    let Some(Value::Object(devices)) = spec.and_then(|spec| spec.get_mut("devices")) else { return };
    for asked in each(devices, "requests") {
        if let Some(Value::Object(exactly)) = asked.get_mut("exactly") {
            request(exactly);
        }
        each(asked, "firstAvailable").for_each(request);
    }
}

/// One device, unless it says how many.
fn request(it: &mut Map<String, Value>) {
    fill(it, "allocationMode", "ExactCount");
    if it.get("allocationMode").and_then(Value::as_str) == Some("ExactCount") {
        fill(it, "count", 1);
    }
    each(it, "tolerations").for_each(|toleration| fill(toleration, "operator", "Equal"));
}
