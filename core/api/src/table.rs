//! What `kubectl get` prints: columns and cells.

mod cluster;
mod network;
mod pod;
mod row;
mod rows;
mod storage;
mod workload;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::GroupVersionKind;
use crate::object::Object;

/// One column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// JSON type.
    pub kind: String,
    /// Format, such as `name`.
    pub format: String,
    /// What it says.
    pub description: String,
    /// 0 is always shown, above only with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// The column's definition in a `Table`.
    pub fn to_value(&self) -> Value {
        json!({"name": self.name, "type": self.kind, "format": self.format,
            "description": self.description, "priority": self.priority})
    }
}

/// The columns of a kind.
pub fn columns(gvk: &GroupVersionKind) -> Vec<Column> {
    rows::headings(gvk)
        .split(',')
        .map(|heading| {
            let (name, priority) = match heading.strip_suffix('+') {
                Some(name) => (name, 1),
                None => (heading, 0),
            };
            Column {
                name: name.to_owned(),
                kind: kind(gvk, name).to_owned(),
                format: if is_name(gvk, name) { "name" } else { "" }.to_owned(),
                description: String::new(),
                priority,
            }
        })
        .collect()
}

fn is_name(gvk: &GroupVersionKind, column: &str) -> bool {
    (column == "Name" && gvk.kind != "Scale") || (column == "Attacher" && gvk.kind == "VolumeAttachment")
}

/// The type that a column is announced with, which is not always that of its cells: so upstream has it.
fn kind(gvk: &GroupVersionKind, name: &str) -> &'static str {
    match (gvk.kind.as_str(), name) {
        ("CSIDriver", "AttachRequired" | "PodInfoOnMount" | "StorageCapacity" | "RequiresRepublish")
        | ("VolumeAttachment", "Attached")
        | ("CronJob", "Suspend")
        | ("PriorityClass", "Global-Default") => "boolean",
        (
            "ReplicaSet" | "ReplicationController" | "DaemonSet" | "Scale",
            "Ready" | "Desired" | "Current" | "Available",
        )
        | ("DaemonSet", "Up-to-date")
        | ("PodDisruptionBudget", "Allowed Disruptions")
        | ("CronJob", "Active")
        | ("PriorityClass", "Value")
        | ("CSINode", "Drivers")
        | (_, "Webhooks" | "Validations" | "Mutations") => "integer",
        _ => "string",
    }
}

/// Where an object's row stands among others; those of one rank stay in the order of the objects.
pub fn rank(gvk: &GroupVersionKind, object: &Object) -> i64 {
    if gvk.kind != "FlowSchema" || gvk.group != crate::flow_control::GROUP {
        return 0;
    }
    object.get(&["spec", "matchingPrecedence"]).and_then(Value::as_i64).unwrap_or(0)
}

/// What is said of a whole row: that its pod has ended.
pub fn conditions(gvk: &GroupVersionKind, object: &Object) -> Vec<Value> {
    let message = match (gvk.kind.as_str(), object.get_str(&["status", "phase"])) {
        ("Pod", Some("Succeeded")) => "The pod has completed successfully.",
        ("Pod", Some("Failed")) => "The pod failed.",
        _ => return Vec::new(),
    };
    let reason = object.get_str(&["status", "phase"]);
    vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
}

/// The cells of an object, one for each of its kind's columns.
pub fn cells(gvk: &GroupVersionKind, object: &Object, now: Timestamp) -> Vec<Value> {
    rows::cells(gvk, object, now)
}

/// The time since `then` (RFC 3339) as kubectl shows ages: `5s`, `3m20s`, `2d`; `<unknown>` when unset.
pub fn age(then: Option<&str>, now: Timestamp) -> String {
    let Some(then) = then.and_then(|text| text.parse::<Timestamp>().ok()) else {
        return "<unknown>".to_owned();
    };
    human(now.as_second() - then.as_second())
}

/// A duration in seconds in kubectl's short form.
pub fn human(seconds: i64) -> String {
    let pair = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => pair(days, "d", hours % 24, "h"),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => pair(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests;
