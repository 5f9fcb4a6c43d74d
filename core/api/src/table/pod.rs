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

/// What has restarted, and when the last time; ready containers and all of them.
struct Containers {
    ready: usize,
    total: usize,
    restarts: i64,
    last: Option<String>,
}

/// While a pod begins, only its init containers count; afterwards those that go on beside the others do.
fn containers(pod: &Object) -> Containers {
    let list =
        |field: &str| pod.get(&["spec", field]).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let is_sidecar = |it: &Value| text(it, "/restartPolicy") == "Always";
    let sidecars: Vec<&str> =
        list("initContainers").iter().filter(|it| is_sidecar(it)).map(|it| text(it, "/name")).collect();
    let is_ready = |it: &&Value| it.get("ready") == Some(&Value::Bool(true));
    let mut found =
        Containers { ready: 0, total: list("containers").len() + sidecars.len(), restarts: 0, last: None };
    let mut counted: Vec<&Value> = Vec::new();
    let mut initializing = false;
    let all = statuses(pod, "initContainerStatuses");
    for status in all {
        counted.push(status);
        let clean = status.pointer("/state/terminated/exitCode").and_then(Value::as_i64) == Some(0);
        let runs = sidecars.contains(&text(status, "/name"))
            && status.get("started").and_then(Value::as_bool).unwrap_or(false);
        if !clean && runs && is_ready(&status) {
            found.ready += 1;
        }
        if !clean && !runs {
            initializing = true;
            break;
        }
    }
    let conditions = pod.get(&["status", "conditions"]).and_then(Value::as_array);
    let initialized = conditions
        .into_iter()
        .flatten()
        .any(|it| text(it, "/type") == "Initialized" && text(it, "/status") == "True");
    if !initializing || initialized {
        counted.retain(|status| sidecars.contains(&text(status, "/name")));
        let own = statuses(pod, "containerStatuses");
        counted.extend(own);
        found.ready += own.iter().filter(|it| is_ready(it) && it.pointer("/state/running").is_some()).count();
    }
    found.restarts = counted.iter().filter_map(|it| it.get("restartCount")?.as_i64()).sum();
    let ends = counted.iter().filter_map(|it| it.pointer("/lastState/terminated/finishedAt")?.as_str());
    found.last = ends.max().map(str::to_owned);
    found
}

pub(super) fn cells(pod: &Object, now: Timestamp) -> Vec<Value> {
    let Containers { ready, total, restarts, last } = containers(pod);
    let restarts = match last {
        Some(last) if restarts > 0 => format!("{restarts} ({} ago)", age(Some(&last), now)),
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
        json!(format!("{ready}/{total}")),
        json!(reason(pod)),
        json!(restarts),
        json!(age(pod.creation_timestamp(), now)),
        json!(or_none(&["status", "podIP"])),
        json!(or_none(&["spec", "nodeName"])),
        json!(or_none(&["status", "nominatedNodeName"])),
        json!(gates),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(document: Value) -> Vec<Value> {
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        cells(&Object::from_value(document).unwrap(), now)
    }

    fn status(spec: Value, status: Value) -> Vec<Value> {
        let pod = json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec, "status": status});
        row(pod)[1..4].to_vec()
    }

    #[test]
    fn the_status_says_what_holds_a_pod_up() {
        let one = json!({"containers": [{"name": "c"}]});
        let two = json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
        let crash = json!({"phase": "Running", "containerStatuses": [{"name": "c", "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:05:00Z"}}}]});
        assert_eq!(
            status(one.clone(), crash),
            [json!("0/1"), json!("CrashLoopBackOff"), json!("3 (5m ago)")]
        );
        let begins = json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]});
        assert_eq!(status(two.clone(), begins), [json!("0/1"), json!("Init:1/2"), json!("0")]);
        let fails = json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]});
        assert_eq!(status(two, fails), [json!("0/1"), json!("Init:CrashLoopBackOff"), json!("2")]);
        let done = json!({"phase": "Succeeded", "containerStatuses": [
            {"name": "c", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]});
        assert_eq!(status(one, done), [json!("0/1"), json!("Completed"), json!("0")]);
    }

    #[test]
    fn a_sidecar_counts_beside_the_others() {
        let spec = json!({"containers": [{"name": "c"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]});
        let state = json!({"phase": "Running",
            "initContainerStatuses": [{"name": "s", "ready": true, "started": true, "restartCount": 1, "state": {"running": {}}}],
            "containerStatuses": [{"name": "c", "ready": true, "restartCount": 1, "state": {"running": {}}}]});
        assert_eq!(status(spec, state), [json!("2/2"), json!("Running"), json!("2")]);
    }

    #[test]
    fn a_pod_that_ends_is_terminating_unless_its_node_is_lost() {
        let ending = |status: Value| {
            row(json!({"metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:10:30Z"}, "status": status}))[2]
                .clone()
        };
        assert_eq!(ending(json!({"phase": "Running"})), "Terminating");
        assert_eq!(ending(json!({"phase": "Running", "reason": "NodeLost"})), "Unknown");
        assert_eq!(ending(json!({"phase": "Succeeded"})), "Succeeded");
    }
}
