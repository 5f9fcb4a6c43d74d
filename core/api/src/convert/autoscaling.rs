//! `autoscaling/v1` and `autoscaling/v2` HorizontalPodAutoscaler. The older version knows one metric, the use of CPU;
//! the other metrics, the conditions and the behaviour travel in its annotations.

use serde_json::{Map, Value, json};

use crate::object::Object;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

fn is_cpu(metric: &Value, target: &str) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && !metric["resource"][target]["averageUtilization"].is_null()
}

fn insert(map: &mut Map<String, Value>, field: &str, value: &Value) {
    if !value.is_null() {
        map.insert(field.to_owned(), value.clone());
    }
}

/// Where a source of `autoscaling/v2` has its amounts, and how the annotation names them: `Value` and
/// `AverageValue` with the prefix `target` or `current`.
struct Words {
    amounts: &'static str,
    prefix: &'static str,
}

const TARGET: Words = Words { amounts: "target", prefix: "target" };
const NOW: Words = Words { amounts: "current", prefix: "current" };

impl Words {
    /// A metric in the annotation's form.
    fn to_annotation(&self, metric: &Value) -> Value {
        let (kind, field) = source(metric);
        let from = &metric[field];
        let amounts = &from[self.amounts];
        let mut to = Map::new();
        let prefixed = |name: &str| format!("{}{name}", self.prefix);
        match field {
            "resource" | "containerResource" => {
                insert(&mut to, "name", &from["name"]);
                insert(&mut to, "container", &from["container"]);
                insert(&mut to, &prefixed("AverageUtilization"), &amounts["averageUtilization"]);
                insert(&mut to, &prefixed("AverageValue"), &amounts["averageValue"]);
            }
            "pods" => {
                insert(&mut to, "metricName", &from["metric"]["name"]);
                insert(&mut to, "selector", &from["metric"]["selector"]);
                insert(&mut to, &prefixed("AverageValue"), &amounts["averageValue"]);
            }
            "object" => {
                insert(&mut to, "metricName", &from["metric"]["name"]);
                insert(&mut to, "selector", &from["metric"]["selector"]);
                insert(&mut to, "target", &from["describedObject"]);
                insert(&mut to, &prefixed("Value"), &amounts["value"]);
                insert(&mut to, "averageValue", &amounts["averageValue"]);
            }
            _ => {
                insert(&mut to, "metricName", &from["metric"]["name"]);
                insert(&mut to, "metricSelector", &from["metric"]["selector"]);
                insert(&mut to, &prefixed("Value"), &amounts["value"]);
                insert(&mut to, &prefixed("AverageValue"), &amounts["averageValue"]);
            }
        }
        json!({"type": kind, field: to})
    }

    /// A metric from the annotation's form.
    fn restored(&self, metric: &Value) -> Value {
        let (kind, field) = source(metric);
        let from = &metric[field];
        let prefixed = |name: &str| &from[format!("{}{name}", self.prefix).as_str()];
        let mut amounts = Map::new();
        insert(&mut amounts, "averageUtilization", prefixed("AverageUtilization"));
        insert(&mut amounts, "value", prefixed("Value"));
        insert(&mut amounts, "averageValue", prefixed("AverageValue"));
        if field == "object" {
            insert(&mut amounts, "averageValue", &from["averageValue"]);
        }
        if self.amounts == "target" {
            let form = ["averageUtilization", "averageValue", "value"]
                .into_iter()
                .find(|name| amounts.contains_key(*name));
            let form = match form {
                Some("averageUtilization") => "Utilization",
                Some("averageValue") => "AverageValue",
                Some(_) | None => "Value",
            };
            amounts.insert("type".into(), form.into());
        }
        let mut to = Map::new();
        if matches!(field, "resource" | "containerResource") {
            insert(&mut to, "name", &from["name"]);
            insert(&mut to, "container", &from["container"]);
        } else {
            let mut identity = Map::new();
            insert(&mut identity, "name", &from["metricName"]);
            let selector = if field == "external" { "metricSelector" } else { "selector" };
            insert(&mut identity, "selector", &from[selector]);
            to.insert("metric".into(), identity.into());
            if field == "object" {
                insert(&mut to, "describedObject", &from["target"]);
            }
        }
        to.insert(self.amounts.to_owned(), amounts.into());
        json!({"type": kind, field: to})
    }
}

fn source(metric: &Value) -> (&str, &'static str) {
    let kind = metric["type"].as_str().unwrap_or("");
    let field = match kind {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        _ => "external",
    };
    (kind, field)
}

fn take(object: &mut Object, path: &[&str]) -> Vec<Value> {
    match object.remove(path) {
        Some(Value::Array(list)) => list,
        Some(_) | None => Vec::new(),
    }
}

/// What an annotation holds; one that cannot be read is as none.
fn unpack(object: &mut Object, annotation: &str) -> Option<Value> {
    let text = object.remove(&["metadata", "annotations", annotation])?;
    serde_json::from_str(text.as_str()?).ok()
}

pub(super) fn v2_to_v1(object: &mut Object) {
    let metrics = take(object, &["spec", "metrics"]);
    let current = take(object, &["status", "currentMetrics"]);
    let conditions = take(object, &["status", "conditions"]);
    let behavior = object.remove(&["spec", "behavior"]);
    if let Some(metric) = metrics.iter().find(|it| is_cpu(it, "target")) {
        let percentage = metric["resource"]["target"]["averageUtilization"].clone();
        object.set(&["spec", "targetCPUUtilizationPercentage"], percentage);
    }
    if let Some(metric) = current.iter().find(|it| is_cpu(it, "current")) {
        let percentage = metric["resource"]["current"]["averageUtilization"].clone();
        object.set(&["status", "currentCPUUtilizationPercentage"], percentage);
    }
    let others: Vec<Value> =
        metrics.iter().filter(|it| !is_cpu(it, "target")).map(|it| TARGET.to_annotation(it)).collect();
    let current: Vec<Value> = current.iter().map(|it| NOW.to_annotation(it)).collect();
    for (annotation, list) in [(METRICS, others), (CURRENT, current), (CONDITIONS, conditions)] {
        if !list.is_empty() {
            object.set_annotation(annotation, &Value::Array(list).to_string());
        }
    }
    if let Some(behavior) = behavior {
        object.set_annotation(BEHAVIOR, &behavior.to_string());
    }
}

pub(super) fn v1_to_v2(object: &mut Object) {
    let mut metrics = Vec::new();
    if let Some(percentage) = object.remove(&["spec", "targetCPUUtilizationPercentage"]) {
        metrics.push(json!({"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": percentage},
        }}));
    }
    if let Some(Value::Array(others)) = unpack(object, METRICS) {
        metrics.extend(others.iter().map(|it| TARGET.restored(it)));
    }
    if !metrics.is_empty() {
        object.set(&["spec", "metrics"], metrics.into());
    }
    if let Some(behavior) = unpack(object, BEHAVIOR) {
        object.set(&["spec", "behavior"], behavior);
    }
    let percentage = object.remove(&["status", "currentCPUUtilizationPercentage"]);
    let mut current: Vec<Value> = match unpack(object, CURRENT) {
        Some(Value::Array(list)) => list.iter().map(|it| NOW.restored(it)).collect(),
        Some(_) | None => Vec::new(),
    };
    if let Some(percentage) = percentage
        && !current.iter().any(|it| is_cpu(it, "current"))
    {
        current.push(json!({"type": "Resource", "resource": {
            "name": "cpu", "current": {"averageUtilization": percentage},
        }}));
    }
    if !current.is_empty() {
        object.set(&["status", "currentMetrics"], current.into());
    }
    if let Some(conditions) = unpack(object, CONDITIONS) {
        object.set(&["status", "conditions"], conditions);
    }
    if object.annotations().is_some_and(Map::is_empty) {
        object.remove(&["metadata", "annotations"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::convert;
    use crate::kinds::GroupVersionKind;

    #[test]
    fn an_autoscaler_survives_the_way_through_its_older_version() {
        let v2 = Object::from_value(json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "maxReplicas": 5,
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}},
                    {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "10"}}},
                    {"type": "Object", "object": {"metric": {"name": "q"}, "describedObject": {"kind": "Queue", "name": "x"},
                        "target": {"type": "Value", "value": "3"}}},
                ],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
            },
            "status": {
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 50, "averageValue": "1"}}}],
                "conditions": [{"type": "AbleToScale", "status": "True"}],
            },
        }))
        .unwrap();
        let mut v1 = v2.clone();
        convert(&mut v1, &GroupVersionKind::new("autoscaling", "v1", "HorizontalPodAutoscaler"));
        assert_eq!(v1.get(&["spec", "targetCPUUtilizationPercentage"]), Some(&json!(70)));
        assert_eq!(v1.get(&["status", "currentCPUUtilizationPercentage"]), Some(&json!(50)));
        let others: Value = serde_json::from_str(v1.annotation(METRICS).unwrap()).unwrap();
        assert_eq!(others[0]["pods"]["targetAverageValue"], "10");
        convert(&mut v1, &GroupVersionKind::new("autoscaling", "v2", "HorizontalPodAutoscaler"));
        assert_eq!(v1, v2);
    }
}
