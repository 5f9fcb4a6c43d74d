//! The objects of `metrics.k8s.io/v1beta1`, their lists and tables (pure).

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::figures::{PodUsage, Usage};

/// The group and version.
pub(crate) const GROUP_VERSION: &str = "metrics.k8s.io/v1beta1";

/// Nanocores in the form that quantities have.
fn cpu(nano: u64) -> String {
    match nano {
        0 => "0".to_owned(),
        nano if nano % 1_000_000_000 == 0 => (nano / 1_000_000_000).to_string(),
        nano if nano % 1_000_000 == 0 => format!("{}m", nano / 1_000_000),
        nano if nano % 1000 == 0 => format!("{}u", nano / 1000),
        nano => format!("{nano}n"),
    }
}

/// Bytes in the form that quantities have.
fn memory(bytes: u64) -> String {
    let units = [(30, "Gi"), (20, "Mi"), (10, "Ki")];
    let fitting = units.into_iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    fitting.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// Milliseconds as Go writes durations.
fn duration(milliseconds: i64) -> String {
    let (minutes, rest) = (milliseconds / 60_000, milliseconds % 60_000);
    let seconds = format!("{}s", rest as f64 / 1e3);
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

fn time(milliseconds: i64) -> String {
    let time = Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn usage(cpu_nano: u64, bytes: u64) -> Value {
    json!({ "cpu": cpu(cpu_nano), "memory": memory(bytes) })
}

fn object(kind: &str, metadata: Value, at: i64, window: i64) -> Value {
    json!({
        "kind": kind, "apiVersion": GROUP_VERSION, "metadata": metadata,
        "timestamp": time(at), "window": duration(window),
    })
}

fn metadata(name: &str, namespace: Option<&str>, labels: Option<&Value>, at: i64) -> Value {
    let mut metadata = json!({ "name": name, "creationTimestamp": time(at) });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    if let Some(labels) = labels.filter(|labels| labels.is_object()) {
        metadata["labels"] = labels.clone();
    }
    metadata
}

/// What a node uses, with the labels of its Node.
pub(crate) fn node_metrics(name: &str, labels: Option<&Value>, found: Usage, now: i64) -> Value {
    let mut value = object("NodeMetrics", metadata(name, None, labels, now), found.at, found.window);
    value["usage"] = usage(found.cpu, found.memory);
    value
}

/// What a pod uses, with its labels.
pub(crate) fn pod_metrics(
    namespace: &str,
    name: &str,
    labels: Option<&Value>,
    found: &PodUsage,
    now: i64,
) -> Value {
    let at = found.values().map(|one| one.at).min().unwrap_or(now);
    let window = found.values().map(|one| one.window).max().unwrap_or_default();
    let mut value = object("PodMetrics", metadata(name, Some(namespace), labels, now), at, window);
    let container =
        |(name, one): (&String, &Usage)| json!({ "name": name, "usage": usage(one.cpu, one.memory) });
    value["containers"] = found.iter().map(container).collect();
    value
}

/// A list of one kind.
pub(crate) fn list(kind: &str, items: Vec<Value>) -> Value {
    json!({ "kind": format!("{kind}List"), "apiVersion": GROUP_VERSION, "metadata": {}, "items": items })
}

/// What a row's object carries of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    Nothing,
    Metadata,
    Object,
}

/// One or several objects, each with what it uses in sum.
pub(crate) fn table(rows: &[(Value, u64, u64)], include: Include) -> Value {
    let column = |name: &str, format: &str, description: &str| json!({ "name": name, "type": "string", "format": format, "description": description, "priority": 0 });
    let row = |(object, cpu_nano, bytes): &(Value, u64, u64)| {
        let cells = json!([object["metadata"]["name"], cpu(*cpu_nano), memory(*bytes), object["window"]]);
        let mut row = Map::from_iter([("cells".to_owned(), cells)]);
        match include {
            Include::Nothing => {}
            Include::Metadata => {
                let partial = json!({
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
                });
                row.insert("object".to_owned(), partial);
            }
            Include::Object => {
                row.insert("object".to_owned(), object.clone());
            }
        }
        Value::Object(row)
    };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": [
            column("Name", "name", "Name of the resource"),
            column("cpu", "quantity", ""),
            column("memory", "quantity", ""),
            column("Window", "duration", ""),
        ],
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

/// What the group has.
pub(crate) fn resources() -> Value {
    let resource = |name: &str, kind: &str, namespaced: bool| json!({ "name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"] });
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP_VERSION,
        "resources": [resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)],
    })
}

/// The group, and what stands above it.
pub(crate) fn group() -> Value {
    let version = json!({ "groupVersion": GROUP_VERSION, "version": "v1beta1" });
    json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": "metrics.k8s.io", "versions": [version],
        "preferredVersion": version,
    })
}

/// A refusal.
pub(crate) fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "reason": reason, "message": message,
    })
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn quantities_and_durations_have_the_usual_form() {
        assert_eq!(
            [0, 2_000_000_000, 250_000_000, 1000, 12_345].map(cpu),
            ["0", "2", "250m", "1u", "12345n"]
        );
        assert_eq!([0, 4096, 1 << 20, 3 << 30, 1025].map(memory), ["0", "4Ki", "1Mi", "3Gi", "1025"]);
        assert_eq!([15_012, 65_000, 3_600_000].map(duration), ["15.012s", "1m5s", "1h0m0s"]);
    }

    #[test]
    fn a_pod_has_the_usage_of_each_container_and_the_time_of_the_oldest() {
        let one = |at, window| Usage { cpu: 1_000_000, memory: 2048, at, window };
        let usage = PodUsage::from([("a".to_owned(), one(2000, 15_000)), ("b".to_owned(), one(1000, 1000))]);
        let found = pod_metrics("n", "p", Some(&json!({"app": "x"})), &usage, 3000);
        assert_eq!(
            found,
            json!({
                "kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
                "metadata": {"name": "p", "namespace": "n", "labels": {"app": "x"}, "creationTimestamp": "1970-01-01T00:00:03Z"},
                "timestamp": "1970-01-01T00:00:01Z", "window": "15s",
                "containers": [
                    {"name": "a", "usage": {"cpu": "1m", "memory": "2Ki"}},
                    {"name": "b", "usage": {"cpu": "1m", "memory": "2Ki"}},
                ],
            })
        );
        let table = table(&[(found, 2_000_000, 4096)], Include::Metadata);
        assert_eq!(table["rows"][0]["cells"], json!(["p", "2m", "4Ki", "15s"]));
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    }
}
