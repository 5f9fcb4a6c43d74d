//! Rows of what belongs to the cluster as a whole: nodes, events, roles, leases, policies.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::age;
use super::row::Row;

pub(super) fn node(row: &Row<'_>) -> Vec<Value> {
    let is = |value: &Value, field: &str, want: &str| value.get(field).and_then(Value::as_str) == Some(want);
    let conditions = row.items(&["status", "conditions"]);
    let mut status = match conditions.iter().find(|condition| is(condition, "type", "Ready")) {
        Some(condition) if is(condition, "status", "True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if row.is_true(&["spec", "unschedulable"]) {
        status.push_str(",SchedulingDisabled");
    }
    let roles: BTreeSet<&str> = row
        .it
        .labels()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            None if key == "kubernetes.io/role" => value.as_str(),
            role => role,
        })
        .filter(|role| !role.is_empty())
        .collect();
    let roles = roles.into_iter().collect::<Vec<_>>().join(",");
    let addresses = row.items(&["status", "addresses"]);
    let address = |kind: &str| {
        let found = addresses.iter().find(|address| is(address, "type", kind));
        json!(found.and_then(|address| address.get("address")?.as_str()).unwrap_or("<none>"))
    };
    let info = |field: &str| row.text_or(&["status", "nodeInfo", field], "<unknown>");
    vec![
        row.name(),
        json!(status),
        json!(super::row::or_none(roles)),
        row.age(),
        json!(row.text(&["status", "nodeInfo", "kubeletVersion"])),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

/// A `v1` Event, which is also the stored form of the other version.
pub(super) fn event(row: &Row<'_>) -> Vec<Value> {
    let ago = |paths: &[&[&str]]| {
        let then = paths.iter().map(|path| row.text(path)).find(|text| !text.is_empty());
        age(then, row.now)
    };
    let first = ago(&[&["firstTimestamp"], &["eventTime"]]);
    let (mut last, mut count) =
        (ago(&[&["lastTimestamp"], &["firstTimestamp"], &["eventTime"]]), row.number(&["count"]).max(1));
    if row.get(&["series"]).is_some() {
        last = ago(&[&["series", "lastObservedTime"]]);
        count = row.number(&["series", "count"]);
    }
    let part = |field: &str| row.text(&["involvedObject", field]);
    let target = match part("name") {
        "" => part("kind").to_lowercase(),
        name => format!("{}/{name}", part("kind").to_lowercase()),
    };
    let said = |old: &[&str], new: &[&str]| match row.text(old) {
        "" => row.text(new),
        text => text,
    };
    let mut source = said(&["source", "component"], &["reportingComponent"]).to_owned();
    let instance = said(&["source", "host"], &["reportingInstance"]);
    if !instance.is_empty() {
        source = format!("{source}, {instance}");
    }
    vec![
        json!(last),
        json!(row.text(&["type"])),
        json!(row.text(&["reason"])),
        json!(target),
        json!(part("fieldPath")),
        json!(source),
        json!(row.text(&["message"]).trim()),
        json!(first),
        json!(count),
        row.name(),
    ]
}

pub(super) fn binding(row: &Row<'_>) -> Vec<Value> {
    let subjects = row.items(&["subjects"]);
    let named = |kind: &str| {
        let found = subjects.iter().filter(|subject| subject["kind"] == kind);
        let names = found.map(|subject| {
            let text = |field: &str| subject[field].as_str().unwrap_or("");
            match kind {
                "ServiceAccount" => format!("{}/{}", text("namespace"), text("name")),
                _ => text("name").to_owned(),
            }
        });
        json!(names.collect::<Vec<_>>().join(", "))
    };
    let role = format!("{}/{}", row.text(&["roleRef", "kind"]), row.text(&["roleRef", "name"]));
    vec![row.name(), json!(role), row.age(), named("User"), named("Group"), named("ServiceAccount")]
}

pub(super) fn signing_request(row: &Row<'_>) -> Vec<Value> {
    let conditions = row.items(&["status", "conditions"]);
    let has = |kind: &str| conditions.iter().any(|condition| condition["type"] == kind);
    let mut status = if has("Denied") {
        "Denied".to_owned()
    } else if has("Approved") {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if has("Failed") {
        status.push_str(",Failed");
    }
    if row.get(&["status", "certificate"]).is_some() {
        status.push_str(",Issued");
    }
    let duration = row.get(&["spec", "expirationSeconds"]).and_then(Value::as_i64);
    vec![
        row.name(),
        row.age(),
        row.text_or(&["spec", "signerName"], "<none>"),
        json!(row.text(&["spec", "username"])),
        json!(duration.map_or_else(|| "<none>".to_owned(), super::human)),
        json!(status),
    ]
}

/// `cpu: 1/2` for what is used of each limit; requests and limits in columns of their own.
pub(super) fn quota(row: &Row<'_>) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    // What is not counted yet is not shown.
    for (name, most) in row.get(&["status", "hard"]).and_then(Value::as_object).into_iter().flatten() {
        let used = row.written(&["status", "used", name], "0");
        let text = format!("{name}: {used}/{}", most.as_str().unwrap_or("0"));
        if name.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![row.name(), json!(requests.join(", ")), json!(limits.join(", ")), row.age()]
}

pub(super) fn priority_class(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        json!(row.number(&["value"])),
        json!(row.is_true(&["globalDefault"])),
        row.age(),
        row.text_or(&["preemptionPolicy"], "PreemptLowerPriority"),
    ]
}

/// A policy; `rules` is the list of what it asks or does.
pub(super) fn admission_policy(row: &Row<'_>, rules: &str) -> Vec<Value> {
    let part = |field: &str| row.text(&["spec", "paramKind", field]);
    let kind = match row.get(&["spec", "paramKind"]) {
        Some(_) => format!("{}/{}", part("apiVersion"), part("kind")),
        None => "<unset>".to_owned(),
    };
    vec![row.name(), json!(row.count(&["spec", rules])), json!(kind), row.age()]
}

/// Whether a parameter has a namespace is not known here: without one it is that of the object, or none.
pub(super) fn admission_policy_binding(row: &Row<'_>) -> Vec<Value> {
    let part = |field: &str| row.text(&["spec", "paramRef", field]);
    let reference = match (part("namespace"), part("name"), row.get(&["spec", "paramRef", "selector"])) {
        (_, "", Some(selector)) => spelled_selector(selector),
        (_, "", None) => "<unset>".to_owned(),
        ("", name, _) => format!("*/{name}"),
        (namespace, name, _) => format!("{namespace}/{name}"),
    };
    vec![row.name(), json!(row.text(&["spec", "policyName"])), json!(reference), row.age()]
}

/// A selector as Go spells it out.
fn spelled_selector(selector: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let labels: String = labels.map(|(key, value)| format!("{key}: {},", text(value))).collect();
    let terms = selector["matchExpressions"].as_array().into_iter().flatten();
    let terms: String = terms
        .map(|term| {
            let values: Vec<String> = term["values"].as_array().into_iter().flatten().map(text).collect();
            let (key, operator) = (text(&term["key"]), text(&term["operator"]));
            format!(
                "LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{}],}},",
                values.join(" ")
            )
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{terms}}},}}"
    )
}

/// A part of the control plane, and how it is.
pub(super) fn component(row: &Row<'_>) -> Vec<Value> {
    let healthy = row.items(&["conditions"]).iter().find(|it| it["type"] == "Healthy");
    let text = |field: &str| healthy.and_then(|it| it[field].as_str()).unwrap_or("");
    let status = match healthy {
        Some(it) if it["status"] == "True" => "Healthy",
        Some(_) => "Unhealthy",
        None => "Unknown",
    };
    vec![row.name(), json!(status), json!(text("message")), json!(text("error"))]
}

pub(super) fn flow_schema(row: &Row<'_>) -> Vec<Value> {
    let missing = row
        .items(&["status", "conditions"])
        .iter()
        .find(|condition| condition["type"] == "Dangling")
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or("?");
    vec![
        row.name(),
        json!(row.text(&["spec", "priorityLevelConfiguration", "name"])),
        json!(row.number(&["spec", "matchingPrecedence"])),
        row.text_or(&["spec", "distinguisherMethod", "type"], "<none>"),
        row.age(),
        json!(missing),
    ]
}

pub(super) fn priority_level(row: &Row<'_>) -> Vec<Value> {
    let limited = |path: &[&str]| {
        let whole: Vec<&str> = ["spec", "limited"].iter().chain(path).copied().collect();
        row.get(&whole).cloned().unwrap_or_else(|| json!("<none>"))
    };
    let queues = |field| limited(&["limitResponse", "queuing", field]);
    vec![
        row.name(),
        json!(row.text(&["spec", "type"])),
        limited(&["nominalConcurrencyShares"]),
        queues("queues"),
        queues("handSize"),
        queues("queueLengthLimit"),
        row.age(),
    ]
}
