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
                format: if name == "Name" { "name" } else { "" }.to_owned(),
                description: String::new(),
                priority,
            }
        })
        .collect()
}

/// The JSON type of a column's cells.
fn kind(gvk: &GroupVersionKind, name: &str) -> &'static str {
    match (gvk.kind.as_str(), name) {
        ("CSIDriver", "AttachRequired" | "PodInfoOnMount" | "StorageCapacity" | "RequiresRepublish")
        | ("VolumeAttachment", "Attached")
        | ("PriorityClass", "Global-Default")
        | ("StorageClass", "AllowVolumeExpansion") => "boolean",
        ("ReplicaSet" | "ReplicationController" | "DaemonSet", "Ready" | "Desired" | "Current")
        | ("Deployment" | "DaemonSet", "Up-to-date" | "Available")
        | ("PodDisruptionBudget", "Allowed Disruptions")
        | ("CronJob", "Active")
        | ("PriorityClass", "Value")
        | ("ControllerRevision", "Revision")
        | ("ConfigMap" | "Secret", "Data")
        | ("ServiceAccount", "Secrets")
        | ("HorizontalPodAutoscaler", "MaxPods" | "Replicas")
        | ("CSINode", "Drivers")
        | ("FlowSchema", "MatchingPrecedence")
        | (_, "Webhooks" | "Validations" | "Mutations" | "Count") => "integer",
        _ => "string",
    }
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
mod tests {
    use super::*;
    use crate::Catalog;

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        let object = Object::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        for resource in Catalog::builtin().resources() {
            let gvk = resource.gvk();
            let (columns, cells) = (columns(&gvk), cells(&gvk, &object, Timestamp::UNIX_EPOCH));
            assert_eq!(columns.len(), cells.len(), "{gvk:?}");
            let fits = |(column, cell): (&Column, &Value)| match column.kind.as_str() {
                "integer" => cell.is_i64() || cell.is_u64(),
                "boolean" => cell.is_boolean(),
                _ => cell.is_string(),
            };
            for pair in columns.iter().zip(&cells) {
                assert!(fits(pair), "{gvk:?} {pair:?}");
            }
        }
    }
}
