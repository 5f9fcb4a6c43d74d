//! Defaults of what makes pods.

use serde_json::{Map, Value, json};

use super::{each, fill, pod};
use crate::object::{Object, child_map};

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
            // Who names the type, and nothing more, has said what is to be.
            if strategy.get("type").is_none() {
                fill(strategy, "type", "RollingUpdate");
                child_map(strategy, "rollingUpdate");
            }
            let rolls = strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate");
            if let Some(Value::Object(rolling)) = strategy.get_mut("rollingUpdate").filter(|_| rolls) {
                fill(rolling, "partition", 0);
            }
            for it in each(spec, "volumeClaimTemplates") {
                fill(it, "apiVersion", "v1");
                fill(it, "kind", "PersistentVolumeClaim");
                super::claim(it);
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
            // What a Job's own defaults are is said when it is made.
            let spec = child_map(child_map(spec, "jobTemplate"), "spec");
            pod_conditions(spec);
            pod_template(spec);
            return;
        }
        _ => return,
    }
    pod_template(spec);
}

/// The template of pods, which is there whether anybody spoke of it.
fn pod_template(spec: &mut Map<String, Value>) {
    pod::spec(child_map(child_map(spec, "template"), "spec"));
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
    let unlimited = spec.get("backoffLimitPerIndex").is_some_and(|limit| !limit.is_null());
    fill(spec, "backoffLimit", if unlimited { i32::MAX } else { 6 });
    fill(spec, "completionMode", "NonIndexed");
    fill(spec, "suspend", false);
    let has_policy = spec.get("podFailurePolicy").is_some_and(|policy| !policy.is_null());
    fill(spec, "podReplacementPolicy", if has_policy { "Failed" } else { "TerminatingOrFailed" });
    pod_conditions(spec);
}

fn pod_conditions(job: &mut Map<String, Value>) {
    if let Some(Value::Object(policy)) = job.get_mut("podFailurePolicy") {
        for rule in each(policy, "rules") {
            each(rule, "onPodConditions").for_each(|condition| fill(condition, "status", "True"));
        }
    }
}

/// Labels that the server gives to a Job's pods itself.
const OWN: [&str; 4] =
    ["batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name", "controller-uid", "job-name"];

/// A Job without labels has those of its pods.
pub(super) fn job_labels(job: &mut Object) {
    if job.labels().is_some_and(|labels| !labels.is_empty()) {
        return;
    }
    let labels = job.get(&["spec", "template", "metadata", "labels"]).and_then(Value::as_object);
    let labels: Vec<(String, Value)> = labels
        .into_iter()
        .flatten()
        .filter(|(key, _)| !OWN.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for (key, value) in labels {
        job.set(&["metadata", "labels", &key], value);
    }
}

/// A ReplicationController selects what its template makes, and is labelled as that.
pub(super) fn replication_controller(object: &mut Object) {
    let labels = object.get(&["spec", "template", "metadata", "labels"]).filter(|it| it.is_object()).cloned();
    let spec = child_map(&mut object.0, "spec");
    fill(spec, "replicas", 1);
    if let Some(Value::Object(template)) = spec.get_mut("template") {
        pod::spec(child_map(template, "spec"));
    }
    let Some(labels) = labels else { return };
    let is_empty = |value: Option<&Value>| value.and_then(Value::as_object).is_none_or(Map::is_empty);
    if is_empty(spec.get("selector")) {
        spec.insert("selector".to_owned(), labels.clone());
    }
    if is_empty(object.get(&["metadata", "labels"])) {
        object.set(&["metadata", "labels"], labels);
    }
}
