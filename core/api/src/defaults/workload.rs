//! Defaults of what makes pods.

use serde_json::{Map, Value, json};

use super::{fill, pod};
use crate::object::child_map;

pub(super) fn apply(kind: &str, spec: &mut Map<String, Value>) {
    match kind {
        "Deployment" => {
            fill(spec, "replicas", 1);
            fill(spec, "revisionHistoryLimit", 10);
            fill(spec, "progressDeadlineSeconds", 600);
            rolling(child_map(spec, "strategy"), json!("25%"), json!("25%"));
        }
        "ReplicaSet" => fill(spec, "replicas", 1),
        "StatefulSet" => {
            fill(spec, "replicas", 1);
            fill(spec, "revisionHistoryLimit", 10);
            fill(spec, "podManagementPolicy", "OrderedReady");
            let strategy = child_map(spec, "updateStrategy");
            fill(strategy, "type", "RollingUpdate");
            if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
                fill(child_map(strategy, "rollingUpdate"), "partition", 0);
            }
            let retention = child_map(spec, "persistentVolumeClaimRetentionPolicy");
            fill(retention, "whenDeleted", "Retain");
            fill(retention, "whenScaled", "Retain");
        }
        "DaemonSet" => {
            fill(spec, "revisionHistoryLimit", 10);
            rolling(child_map(spec, "updateStrategy"), json!(1), json!(0));
        }
        "Job" => job(spec),
        "CronJob" => {
            fill(spec, "concurrencyPolicy", "Allow");
            fill(spec, "suspend", false);
            fill(spec, "successfulJobsHistoryLimit", 3);
            fill(spec, "failedJobsHistoryLimit", 1);
            if let Some(Value::Object(template)) = spec.get_mut("jobTemplate") {
                job(child_map(template, "spec"));
            }
            return;
        }
        _ => return,
    }
    if let Some(Value::Object(template)) = spec.get_mut("template") {
        pod::spec(child_map(template, "spec"));
    }
}

fn rolling(strategy: &mut Map<String, Value>, unavailable: Value, surge: Value) {
    fill(strategy, "type", "RollingUpdate");
    if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
        let rolling = child_map(strategy, "rollingUpdate");
        fill(rolling, "maxUnavailable", unavailable);
        fill(rolling, "maxSurge", surge);
    }
}

fn job(spec: &mut Map<String, Value>) {
    let unset = spec.get("completions").is_none() && spec.get("parallelism").is_none();
    if unset {
        fill(spec, "completions", 1);
    }
    fill(spec, "parallelism", 1);
    fill(spec, "backoffLimit", 6);
    fill(spec, "completionMode", "NonIndexed");
    fill(spec, "suspend", false);
    fill(spec, "podReplacementPolicy", "TerminatingOrFailed");
    if let Some(Value::Object(template)) = spec.get_mut("template") {
        pod::spec(child_map(template, "spec"));
    }
}
