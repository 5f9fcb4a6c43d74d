//! From the status that the API has to the one that it should have.

use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use serde_json::{Map, Value, json};

use super::condition::RESIZE;

/// Fields of the status that the kubelet writes.
const OWN: [&str; 16] = [
    "allocatedResources",
    "conditions",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "message",
    "observedGeneration",
    "phase",
    "podIP",
    "podIPs",
    "qosClass",
    "reason",
    "resources",
    "startTime",
];

/// Lists that would be merged by key, and are to be replaced.
const REPLACED: [&str; 2] = ["hostIPs", "podIPs"];

/// The conditions of `wanted` that `known` does not have so. They are merged, so that what vanishes is named.
fn conditions(known: &PodStatus, wanted: &PodStatus) -> Result<Vec<Value>, serde_json::Error> {
    let known = known.conditions.as_deref().unwrap_or_default();
    let differs = |one: &&PodCondition| !known.contains(one);
    let mut out = Vec::new();
    for one in wanted.conditions.iter().flatten().filter(differs) {
        let mut value = serde_json::to_value(one)?;
        let before = known.iter().find(|before| before.type_ == one.type_);
        for (field, had) in [
            ("reason", before.is_some_and(|before| before.reason.is_some())),
            ("message", before.is_some_and(|before| before.message.is_some())),
        ] {
            if had && value.get(field).is_none() {
                value[field] = Value::Null;
            }
        }
        out.push(value);
    }
    let wanted = wanted.conditions.as_deref().unwrap_or_default();
    let holds = |kind: &str| wanted.iter().any(|one| one.type_ == kind);
    for one in known.iter().filter(|one| RESIZE.contains(&one.type_.as_str()) && !holds(&one.type_)) {
        out.push(json!({ "$patch": "delete", "type": one.type_ }));
    }
    Ok(out)
}

/// The strategic merge patch from `known` to `wanted`; `None` when there is nothing to change.
pub(crate) fn patch(
    uid: &str,
    known: &PodStatus,
    wanted: &PodStatus,
) -> Result<Option<Value>, serde_json::Error> {
    let (before, after) = (serde_json::to_value(known)?, serde_json::to_value(wanted)?);
    let mut change = Map::new();
    for field in OWN {
        let (have, want) = (before.get(field), after.get(field));
        if field == "conditions" {
            let changed = conditions(known, wanted)?;
            if !changed.is_empty() {
                change.insert(field.to_owned(), Value::Array(changed));
            }
            continue;
        }
        if have == want {
            continue;
        }
        let mut value = want.cloned().unwrap_or(Value::Null);
        if let (true, Value::Array(items)) = (REPLACED.contains(&field), &mut value) {
            items.insert(0, json!({ "$patch": "replace" }));
        }
        change.insert(field.to_owned(), value);
    }
    let patch = json!({ "metadata": { "uid": uid }, "status": change });
    Ok((!change_is_empty(&patch)).then_some(patch))
}

fn change_is_empty(patch: &Value) -> bool {
    patch["status"].as_object().is_none_or(Map::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written_and_what_vanished_is_removed() {
        let condition = |kind: &str, status: &str| json!({ "type": kind, "status": status });
        let unready = json!({ "type": "Ready", "status": "False", "reason": "ContainersNotReady" });
        let known = json!({ "phase": "Running", "message": "m", "podIPs": [{ "ip": "10.0.0.1" }],
            "conditions": [unready, condition("PodScheduled", "True")] });
        let known: PodStatus = serde_json::from_value(known).unwrap();
        let wanted = json!({ "phase": "Running", "podIPs": [{ "ip": "10.0.0.2" }],
            "conditions": [condition("Ready", "True"), condition("PodScheduled", "True")] });
        let wanted: PodStatus = serde_json::from_value(wanted).unwrap();
        let ready = json!({ "type": "Ready", "status": "True", "reason": null });
        let got = patch("u", &known, &wanted).unwrap().unwrap();
        let expected = json!({ "metadata": { "uid": "u" }, "status": { "message": null,
            "podIPs": [{ "$patch": "replace" }, { "ip": "10.0.0.2" }], "conditions": [ready] } });
        assert_eq!(got, expected);
        assert_eq!(patch("u", &wanted, &wanted).unwrap(), None);
    }
}
