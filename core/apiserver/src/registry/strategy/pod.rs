//! What the server says about a pod itself: its class of service, and why it is not scheduled.

use keelson_api::Object;
use keelson_api::object::format_time;
use keelson_api::quality_of_service::quality_of_service;
use serde_json::{Value, json};

/// The status of a new pod, once its spec is final.
pub(super) fn finish(pod: &mut Object, now: jiff::Timestamp) {
    let class = quality_of_service(pod);
    pod.set(&["status", "qosClass"], class.into());
    let gated = pod.get(&["spec", "schedulingGates"]).and_then(Value::as_array);
    if gated.is_some_and(|gates| !gates.is_empty()) {
        pod.set(
            &["status", "conditions"],
            json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": format_time(now),
            }]),
        );
    }
}

/// What a writer of the status leaves out and what nobody may change.
pub(super) fn keep(pod: &mut Object, live: &Object) {
    if let Some(class) = live.get(&["status", "qosClass"]) {
        pod.set(&["status", "qosClass"], class.clone());
    }
}

/// Of a write through `resize` takes what containers ask for, and how they take its change.
pub(super) fn resize(pod: &mut Object, live: &Object) {
    let mut resized = live.clone();
    for list in ["containers", "initContainers"] {
        let asked = pod.get(&["spec", list]).and_then(Value::as_array).cloned().unwrap_or_default();
        let Some(Value::Array(containers)) = resized.0.get_mut("spec").and_then(|spec| spec.get_mut(list))
        else {
            continue;
        };
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            let Some(asked) = asked.iter().find(|asked| asked.get("name") == container.get("name")) else {
                continue;
            };
            for field in ["resources", "resizePolicy"] {
                match asked.get(field) {
                    Some(value) => drop(container.insert(field.to_owned(), value.clone())),
                    None => drop(container.remove(field)),
                }
            }
        }
    }
    resized.set_resource_version(pod.resource_version());
    *pod = resized;
}
