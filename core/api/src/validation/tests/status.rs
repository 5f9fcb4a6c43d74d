//! What statuses may say.

use serde_json::{Value, json};

use super::update_faults;

fn object(version: &str, kind: &str, status: Value) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a", "namespace": "ns"}, "status": status,
        "spec": {"template": {"spec": {}}}})
}

/// The faults of a status after another one.
fn faults(version: &str, kind: &str, before: Value, status: Value) -> Vec<String> {
    let old = object(version, kind, before);
    update_faults(&old, "status", &[("/status", status)])
}

#[test]
fn each_fault_of_a_status_has_its_path() {
    let none = || json!({});
    let long = "x".repeat(1025);
    for (version, kind, before, status, expected) in [
        (
            "apps/v1",
            "Deployment",
            none(),
            json!({"replicas": -1}),
            "status.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "apps/v1",
            "Deployment",
            none(),
            json!({"replicas": 1, "readyReplicas": 2}),
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
        ),
        (
            "apps/v1",
            "Deployment",
            none(),
            json!({"replicas": 3, "readyReplicas": 1, "availableReplicas": 2}),
            "status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas",
        ),
        (
            "apps/v1",
            "Deployment",
            json!({"collisionCount": 2}),
            json!({"collisionCount": 1}),
            "status.collisionCount: Invalid value: 1: cannot be decremented",
        ),
        (
            "apps/v1",
            "Deployment",
            none(),
            json!({"observedGeneration": -1}),
            "status.observedGeneration: Invalid value: -1",
        ),
        (
            "apps/v1",
            "ReplicaSet",
            none(),
            json!({"replicas": 1, "fullyLabeledReplicas": 2}),
            "status.fullyLabeledReplicas: Invalid value: 2: cannot be greater than status.replicas",
        ),
        (
            "v1",
            "ReplicationController",
            none(),
            json!({"replicas": -1}),
            "status.replicas: Invalid value: -1",
        ),
        (
            "apps/v1",
            "StatefulSet",
            none(),
            json!({"replicas": 1, "currentReplicas": 2}),
            "status.currentReplicas: Invalid value: 2: cannot be greater than status.replicas",
        ),
        ("apps/v1", "DaemonSet", none(), json!({"numberReady": -1}), "status.numberReady: Invalid value: -1"),
        (
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            none(),
            json!({"desiredReplicas": -1}),
            "status.desiredReplicas: Invalid value: -1",
        ),
        (
            "policy/v1",
            "PodDisruptionBudget",
            none(),
            json!({"expectedPods": -1}),
            "status.expectedPods: Invalid value: -1",
        ),
        (
            "policy/v1",
            "PodDisruptionBudget",
            none(),
            json!({"conditions": [{"type": "a", "status": "True", "reason": "R-"}]}),
            "status.conditions[0].reason: Invalid value: \"R-\": a condition reason must start with alphabetic character",
        ),
        (
            "policy/v1",
            "PodDisruptionBudget",
            none(),
            json!({"conditions": [{"type": "a", "status": "True", "reason": "R"}]}),
            "status.conditions[0].lastTransitionTime: Required value: must be set",
        ),
        (
            "v1",
            "PersistentVolumeClaim",
            none(),
            json!({"allocatedResources": {"cpu": "1"}}),
            "status.allocatedResources: Unsupported value: \"cpu\": supported values: \"storage\"",
        ),
        (
            "v1",
            "PersistentVolumeClaim",
            none(),
            json!({"allocatedResourceStatuses": {"storage": "Odd"}}),
            "status.allocatedResourceStatus: Unsupported value: \"storage\"",
        ),
        (
            "v1",
            "PersistentVolumeClaim",
            none(),
            json!({"capacity": {"storage": "-1"}}),
            "status.capacity[storage]: Invalid value: \"-1\"",
        ),
        (
            "v1",
            "Node",
            none(),
            json!({"capacity": {"cpu": "-1"}}),
            "status.capacity.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            "v1",
            "Node",
            none(),
            json!({"addresses": [{"type": "Hostname", "address": "a"}, {"type": "Hostname", "address": "a"}]}),
            "status.addresses[1]: Duplicate value",
        ),
        (
            "v1",
            "Namespace",
            none(),
            json!({"phase": "Terminating"}),
            "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty",
        ),
        (
            "v1",
            "ResourceQuota",
            none(),
            json!({"used": {"odd": "1"}}),
            "status.used[odd]: Invalid value: \"odd\"",
        ),
        (
            "networking.k8s.io/v1",
            "Ingress",
            none(),
            json!({"loadBalancer": {"ingress": [{"hostname": "10.0.0.1"}]}}),
            "status.loadBalancer.ingress[0].hostname: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
        ),
        (
            "networking.k8s.io/v1",
            "Ingress",
            none(),
            json!({"loadBalancer": {"ingress": [{"ip": "x"}]}}),
            "status.loadBalancer.ingress[0].ip: Invalid value: \"x\"",
        ),
        (
            "flowcontrol.apiserver.k8s.io/v1",
            "FlowSchema",
            none(),
            json!({"conditions": [{"type": "a"}, {"type": "a"}]}),
            "status.conditions[1].type: Duplicate value: \"a\"",
        ),
        (
            "admissionregistration.k8s.io/v1",
            "ValidatingAdmissionPolicy",
            none(),
            json!({"typeChecking": {"expressionWarnings": [{"warning": "w"}]}}),
            "status.typeChecking.expressionWarnings[0].fieldRef: Required value",
        ),
        (
            "storage.k8s.io/v1",
            "VolumeAttachment",
            none(),
            json!({"attachError": {"message": long}}),
            "status.attachError.message: Too long: may not be more than 262144 bytes",
        ),
    ] {
        let found = faults(version, kind, before, status.clone());
        assert!(
            found.iter().any(|it| it.starts_with(expected)),
            "{kind} {status}\n   found {found:#?}\nexpected {expected}"
        );
    }
}

#[test]
fn a_job_that_has_ended_stays_as_it_ended() {
    let is = |kinds: &[&str]| -> Value {
        kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect()
    };
    let (start, end) = ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
    let running = json!({"startTime": start, "active": 1, "succeeded": 1});
    let complete = json!({"startTime": start, "completionTime": end, "succeeded": 1,
        "conditions": is(&["SuccessCriteriaMet", "Complete"])});
    let failed = json!({"startTime": start, "failed": 1, "conditions": is(&["FailureTarget", "Failed"])});
    let found = |before: &Value, status: &Value| faults("batch/v1", "Job", before.clone(), status.clone());
    assert_eq!(found(&running, &complete), Vec::<String>::new());
    let with = |base: &Value, field: &str, value: Value| {
        let mut changed = base.clone();
        changed[field] = value;
        changed
    };
    let lost = |base: &Value, field: &str| with(base, field, Value::Null);
    for (before, status, expected) in [
        (
            &running,
            with(&complete, "active", json!(1)),
            "status.active: Invalid value: 1: active>0 is invalid for finished job",
        ),
        (
            &running,
            with(&complete, "terminating", json!(1)),
            "status.terminating: Invalid value: 1: terminating>0 is invalid for finished job",
        ),
        (
            &running,
            with(&complete, "conditions", is(&["Complete"])),
            "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (
            &running,
            with(&complete, "conditions", is(&["SuccessCriteriaMet", "Complete", "Failed"])),
            "status.conditions: Invalid value: cannot set Complete=True and Failed=true conditions",
        ),
        (
            &running,
            with(&failed, "conditions", is(&["Failed"])),
            "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            &running,
            lost(&complete, "completionTime"),
            "status.completionTime: Required value: completionTime is required for Complete jobs",
        ),
        (
            &running,
            with(&running, "completionTime", json!(end)),
            "status.completionTime: Invalid value: \"2026-01-01T00:01:00Z\": cannot set completionTime when there is no Complete=True condition",
        ),
        (
            &running,
            with(&running, "ready", json!(2)),
            "status.ready: Invalid value: 2: cannot set more ready pods than active",
        ),
        (
            &running,
            with(&running, "succeeded", json!(0)),
            "status.succeeded: Invalid value: 0: cannot decrease the succeeded counter",
        ),
        (
            &running,
            lost(&running, "startTime"),
            "status.startTime: Required value: startTime cannot be removed for unsuspended job",
        ),
        (
            &running,
            with(&running, "completedIndexes", json!("0")),
            "status.completedIndexes: Invalid value: \"0\": cannot set non-empty completedIndexes when non-indexed completion mode",
        ),
        (
            &running,
            with(&running, "failedIndexes", json!("0")),
            "status.failedIndexes: Invalid value: \"0\": cannot set non-null failedIndexes when backoffLimitPerIndex is null",
        ),
        (
            &running,
            with(&running, "uncountedTerminatedPods", json!({"failed": ["a"], "succeeded": ["a"]})),
            "status.uncountedTerminatedPods.failed[0]: Duplicate value: \"a\"",
        ),
        (
            &complete,
            lost(&complete, "conditions"),
            "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
        ),
        (
            &complete,
            with(&complete, "completionTime", json!(start)),
            "status.completionTime: Invalid value: \"2026-01-01T00:00:00Z\": completionTime cannot be mutated",
        ),
        (
            &failed,
            with(&failed, "conditions", is(&["FailureTarget"])),
            "status.conditions: Invalid value: cannot disable the terminal Failed=True condition",
        ),
    ] {
        let faults = found(before, &status);
        assert!(
            faults.iter().any(|it| it == expected),
            "{status}\n   found {faults:#?}\nexpected {expected}"
        );
    }
}

#[test]
fn indexes_of_a_job_that_are_both_done_and_failed_are_refused() {
    let mut job = object("batch/v1", "Job", json!({}));
    job["spec"] = json!({"completionMode": "Indexed", "completions": 5, "parallelism": 2, "backoffLimitPerIndex": 1,
        "template": {"spec": {}}});
    let found = |done: &str, failed: &str| {
        let status = json!({"completedIndexes": done, "failedIndexes": failed});
        update_faults(&job, "status", &[("/status", status)])
    };
    assert_eq!(found("0,2-3", "1,4"), Vec::<String>::new());
    assert_eq!(
        found("0,2-3", "3"),
        [
            "status.failedIndexes: Invalid value: \"3\": failedIndexes and completedIndexes overlap at index: 3"
        ]
    );
    assert_eq!(
        found("5", ""),
        [
            "status.completedIndexes: Invalid value: \"5\": error parsing completedIndexes: too large index: \"5\""
        ]
    );
}
