//! Rows of what makes pods.

use serde_json::{Value, json};

use super::row::{Row, pairs};

const TEMPLATE: [&str; 3] = ["spec", "template", "spec"];

fn tail(row: &Row<'_>, mut cells: Vec<Value>, selector: &[&str]) -> Vec<Value> {
    cells.extend(row.containers(&TEMPLATE));
    cells.push(row.selector(selector));
    cells
}

pub(super) fn deployment(row: &Row<'_>) -> Vec<Value> {
    let number = |field: &str| row.number(&["status", field]);
    let ready = format!("{}/{}", number("readyReplicas"), row.number(&["spec", "replicas"]));
    let cells = vec![
        row.name(),
        json!(ready),
        json!(number("updatedReplicas")),
        json!(number("availableReplicas")),
        row.age(),
    ];
    tail(row, cells, &["spec", "selector"])
}

/// ReplicaSets and ReplicationControllers.
pub(super) fn replica_set(row: &Row<'_>) -> Vec<Value> {
    let cells = vec![
        row.name(),
        json!(row.number(&["spec", "replicas"])),
        json!(row.number(&["status", "replicas"])),
        json!(row.number(&["status", "readyReplicas"])),
        row.age(),
    ];
    tail(row, cells, &["spec", "selector"])
}

pub(super) fn daemon_set(row: &Row<'_>) -> Vec<Value> {
    let number = |field: &str| json!(row.number(&["status", field]));
    let cells = vec![
        row.name(),
        number("desiredNumberScheduled"),
        number("currentNumberScheduled"),
        number("numberReady"),
        number("updatedNumberScheduled"),
        number("numberAvailable"),
        json!(pairs(row.get(&["spec", "template", "spec", "nodeSelector"]))),
        row.age(),
    ];
    tail(row, cells, &["spec", "selector"])
}

pub(super) fn stateful_set(row: &Row<'_>) -> Vec<Value> {
    let ready = format!("{}/{}", row.number(&["status", "readyReplicas"]), row.number(&["spec", "replicas"]));
    let mut cells = vec![row.name(), json!(ready), row.age()];
    cells.extend(row.containers(&TEMPLATE));
    cells
}

pub(super) fn job(row: &Row<'_>) -> Vec<Value> {
    let succeeded = row.number(&["status", "succeeded"]);
    let parallel = row.number(&["spec", "parallelism"]);
    let completions = match row.get(&["spec", "completions"]) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        None => format!("{succeeded}/1"),
    };
    let is = |kind: &str| row.has_condition(kind, "True");
    let status = if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if row.it.deletion_timestamp().is_some() {
        "Terminating"
    } else {
        let found = ["Suspended", "FailureTarget", "SuccessCriteriaMet"].into_iter().find(|kind| is(kind));
        found.unwrap_or("Running")
    };
    let duration = row.between(&["status", "startTime"], &["status", "completionTime"]);
    let cells = vec![row.name(), json!(status), json!(completions), json!(duration), row.age()];
    tail(row, cells, &["spec", "selector"])
}

pub(super) fn cron_job(row: &Row<'_>) -> Vec<Value> {
    let suspended = match row.get(&["spec", "suspend"]) {
        Some(Value::Bool(true)) => "True",
        Some(Value::Bool(false)) => "False",
        Some(_) | None => "<unset>",
    };
    let mut cells = vec![
        row.name(),
        json!(row.text(&["spec", "schedule"])),
        row.text_or(&["spec", "timeZone"], "<none>"),
        json!(suspended),
        json!(row.count(&["status", "active"])),
        row.since(&["status", "lastScheduleTime"], "<none>"),
        row.age(),
    ];
    cells.extend(row.containers(&["spec", "jobTemplate", "spec", "template", "spec"]));
    cells.push(row.selector(&["spec", "jobTemplate", "spec", "selector"]));
    cells
}

pub(super) fn disruption_budget(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        json!(row.written(&["spec", "minAvailable"], "N/A")),
        json!(row.written(&["spec", "maxUnavailable"], "N/A")),
        json!(row.number(&["status", "disruptionsAllowed"])),
        row.age(),
    ]
}

pub(super) fn controller_revision(row: &Row<'_>) -> Vec<Value> {
    let owner = row.it.owner_references().iter().find(|owner| owner["controller"] == true);
    let owner = owner.map(|owner| {
        let text = |field: &str| owner[field].as_str().unwrap_or("").to_owned();
        let group = text("apiVersion").split_once('/').map(|(group, _)| format!(".{group}"));
        format!("{}{}/{}", text("kind").to_lowercase(), group.unwrap_or_default(), text("name"))
    });
    vec![
        row.name(),
        json!(owner.unwrap_or_else(|| "<none>".to_owned())),
        json!(row.number(&["revision"])),
        row.age(),
    ]
}

/// `37%/80%` for each metric of an autoscaler, two of them at most.
pub(super) fn autoscaler(row: &Row<'_>) -> Vec<Value> {
    let reference = format!(
        "{}/{}",
        row.text(&["spec", "scaleTargetRef", "kind"]),
        row.text(&["spec", "scaleTargetRef", "name"])
    );
    let current = row.items(&["status", "currentMetrics"]);
    let metrics = row.items(&["spec", "metrics"]);
    let all: Vec<String> =
        metrics.iter().enumerate().map(|(at, spec)| metric(spec, current.get(at))).collect();
    let shown = all[..all.len().min(2)].join(", ");
    let targets = match all.len() {
        0 => "<none>".to_owned(),
        1 | 2 => shown,
        many => format!("{shown} + {} more...", many - 2),
    };
    vec![
        row.name(),
        json!(reference),
        json!(targets),
        json!(row.written(&["spec", "minReplicas"], "<unset>")),
        json!(row.number(&["spec", "maxReplicas"])),
        json!(row.number(&["status", "currentReplicas"])),
        row.age(),
    ]
}

fn metric(spec: &Value, status: Option<&Value>) -> String {
    let kind = spec["type"].as_str().unwrap_or("");
    let source = match kind {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let (target, now) = (&spec[source]["target"], status.map(|status| &status[source]["current"]));
    let amount = |value: &Value, field: &str| match value.get(field) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(_) | None => None,
    };
    let pair = |field: &str, unit: &str| {
        let wanted = amount(target, field).map(|it| format!("{it}{unit}"));
        let have = now.and_then(|now| amount(now, field)).map(|it| format!("{it}{unit}"));
        wanted.map(|wanted| format!("{}/{wanted}", have.unwrap_or_else(|| "<unknown>".to_owned())))
    };
    let resource = spec[source]["name"].as_str().filter(|_| kind.ends_with("Resource"));
    let label = resource.map(|name| format!("{name}: ")).unwrap_or_default();
    if let Some(text) = pair("averageValue", "") {
        let mark = if matches!(kind, "External" | "Object") { " (avg)" } else { "" };
        return format!("{label}{text}{mark}");
    }
    let found = pair("value", "").or_else(|| pair("averageUtilization", "%"));
    let unaimed = || {
        let have = now.and_then(|now| amount(now, "averageUtilization")).map(|it| format!("{it}%"));
        format!("{}/<auto>", have.unwrap_or_else(|| "<unknown>".to_owned()))
    };
    format!("{label}{}", found.unwrap_or_else(unaimed))
}
