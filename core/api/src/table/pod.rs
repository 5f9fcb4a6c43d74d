//! A pod's row.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age;
use crate::object::Object;

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or("")
}

fn statuses<'a>(pod: &'a Object, field: &str) -> &'a [Value] {
    pod.get(&["status", field]).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn ended(status: &Value) -> Option<String> {
    let state = status.pointer("/state/terminated")?;
    let reason = text(state, "/reason");
    if !reason.is_empty() {
        return Some(reason.to_owned());
    }
    let number = |field: &str| state.get(field).and_then(Value::as_i64).unwrap_or(0);
    Some(match number("signal") {
        0 => format!("ExitCode:{}", number("exitCode")),
        signal => format!("Signal:{signal}"),
    })
}

/// The STATUS column.
fn reason(pod: &Object) -> String {
    let mut reason = pod.get_str(&["status", "phase"]).unwrap_or("").to_owned();
    if let Some(own) = pod.get_str(&["status", "reason"]).filter(|it| !it.is_empty()) {
        reason = own.to_owned();
    }
    let conditions = pod.get(&["status", "conditions"]).and_then(Value::as_array);
    let condition = |kind: &str, field: &str, value: &str| {
        conditions.into_iter().flatten().any(|it| text(it, "/type") == kind && text(it, field) == value)
    };
    if condition("PodScheduled", "/reason", "SchedulingGated") {
        reason = "SchedulingGated".to_owned();
    }
    let specs = pod.get(&["spec", "initContainers"]).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut initializing = false;
    for (at, status) in statuses(pod, "initContainerStatuses").iter().enumerate() {
        let sidecar = specs
            .iter()
            .find(|it| text(it, "/name") == text(status, "/name"))
            .is_some_and(|it| text(it, "/restartPolicy") == "Always");
        let clean = status.pointer("/state/terminated/exitCode").and_then(Value::as_i64) == Some(0);
        let started = status.get("started").and_then(Value::as_bool).unwrap_or(false);
        if clean || (sidecar && started) {
            continue;
        }
        let waiting = text(status, "/state/waiting/reason");
        reason = match ended(status) {
            Some(end) => format!("Init:{end}"),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{at}/{}", specs.len()),
        };
        initializing = true;
        break;
    }
    if !initializing || condition("Initialized", "/status", "True") {
        let mut running = false;
        for status in statuses(pod, "containerStatuses").iter().rev() {
            let waiting = text(status, "/state/waiting/reason");
            if !waiting.is_empty() {
                reason = waiting.to_owned();
            } else if let Some(end) = ended(status) {
                reason = end;
            } else if status.get("ready") == Some(&Value::Bool(true))
                && status.pointer("/state/running").is_some()
            {
                running = true;
            }
        }
        if reason == "Completed" && running {
            let ready = condition("Ready", "/status", "True");
            reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if pod.deletion_timestamp().is_some() {
        if pod.get_str(&["status", "reason"]) == Some("NodeLost") {
            return "Unknown".to_owned();
        }
        if !matches!(pod.get_str(&["status", "phase"]), Some("Succeeded" | "Failed")) {
            return "Terminating".to_owned();
        }
    }
    reason
}

pub(super) fn cells(pod: &Object, now: Timestamp) -> Vec<Value> {
    let all = statuses(pod, "containerStatuses");
    let total = pod.get(&["spec", "containers"]).and_then(Value::as_array).map_or(0, Vec::len);
    let ready = all
        .iter()
        .filter(|it| it.get("ready") == Some(&Value::Bool(true)) && it.pointer("/state/running").is_some());
    let restarts: i64 = all.iter().filter_map(|it| it.get("restartCount")?.as_i64()).sum();
    let last = all.iter().filter_map(|it| it.pointer("/lastState/terminated/finishedAt")?.as_str()).max();
    let restarts = match last {
        Some(last) if restarts > 0 => format!("{restarts} ({} ago)", age(Some(last), now)),
        _ => restarts.to_string(),
    };
    let or_none = |path: &[&str]| match pod.get_str(path) {
        None | Some("") => "<none>".to_owned(),
        Some(value) => value.to_owned(),
    };
    let gates = pod.get(&["spec", "readinessGates"]).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let conditions = pod.get(&["status", "conditions"]).and_then(Value::as_array);
    let open = gates.iter().filter(|gate| {
        conditions
            .into_iter()
            .flatten()
            .any(|it| text(it, "/type") == text(gate, "/conditionType") && text(it, "/status") == "True")
    });
    let gates =
        if gates.is_empty() { "<none>".to_owned() } else { format!("{}/{}", open.count(), gates.len()) };
    vec![
        json!(pod.name().unwrap_or("")),
        json!(format!("{}/{total}", ready.count())),
        json!(reason(pod)),
        json!(restarts),
        json!(age(pod.creation_timestamp(), now)),
        json!(or_none(&["status", "podIP"])),
        json!(or_none(&["spec", "nodeName"])),
        json!(or_none(&["status", "nominatedNodeName"])),
        json!(gates),
    ]
}
