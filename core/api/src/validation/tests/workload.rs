//! What makes pods.

use serde_json::{Value, json};

use super::{each_change_has_its_fault, update_faults};

fn template(policy: &str) -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "x"}]}})
}

fn job() -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "ns"}, "spec": {
        "completions": 3, "parallelism": 3, "completionMode": "Indexed", "template": template("Never"),
        "selector": {"matchLabels": {"a": "b"}},
    }})
}

#[test]
fn each_fault_of_a_job_has_its_path() {
    let rule = |rule: Value| json!({"rules": [rule]});
    each_change_has_its_fault(
        &job(),
        vec![
            (
                "/spec/completions",
                json!(null),
                "spec.completions: Required value: when completion mode is Indexed",
            ),
            ("/spec/backoffLimitPerIndex", json!(-1), "spec.backoffLimitPerIndex: Invalid value: -1"),
            (
                "/spec/managedBy",
                json!("me"),
                "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path",
            ),
            (
                "/spec/podFailurePolicy",
                rule(json!({"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}})),
                "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
            ),
            (
                "/spec/podFailurePolicy",
                rule(json!({"action": "Ignore", "onExitCodes": {"operator": "In", "values": [0]}})),
                "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
            ),
            (
                "/spec/podFailurePolicy",
                rule(json!({"action": "Ignore"})),
                "spec.podFailurePolicy.rules[0]: Invalid value",
            ),
            (
                "/spec/successPolicy",
                rule(json!({"succeededIndexes": "0-5"})),
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"0-5\": error parsing succeededIndexes: too large index",
            ),
            (
                "/spec/successPolicy",
                rule(json!({"succeededCount": 9})),
                "spec.successPolicy.rules[0].succeededCount: Invalid value: 9: must be less than or equal to 3",
            ),
            (
                "/spec/template/spec/restartPolicy",
                json!("Always"),
                "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ),
        ],
    );
}

#[test]
fn a_job_keeps_its_work_but_an_indexed_one_may_grow_as_a_whole() {
    let grown = [("/spec/completions", json!(5)), ("/spec/parallelism", json!(5))];
    assert!(update_faults(&job(), "", &grown).is_empty());
    assert_eq!(
        update_faults(&job(), "", &[("/spec/completions", json!(5))]),
        ["spec.completions: Invalid value: 5: can only be modified in tandem with spec.parallelism"]
    );
    let moved = [("/spec/template/spec/nodeSelector", json!({"a": "b"}))];
    let found = update_faults(&job(), "", &moved);
    assert!(found[0].starts_with("spec.template: Invalid value") && found[0].ends_with("field is immutable"));
    let mut suspended = job();
    suspended["spec"]["suspend"] = true.into();
    assert!(update_faults(&suspended, "", &moved).is_empty());
}

#[test]
fn each_fault_of_a_schedule_is_told() {
    let mut spec = job()["spec"].clone();
    spec.as_object_mut().unwrap().remove("selector");
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "c", "namespace": "ns"},
        "spec": {"schedule": "*/5 1-3 ? JAN mon,fri", "jobTemplate": {"spec": spec}}});
    each_change_has_its_fault(
        &cron,
        vec![
            (
                "/spec/schedule",
                json!("* * * *"),
                "spec.schedule: Invalid value: \"* * * *\": expected exactly 5 fields, found 4: [* * * *]",
            ),
            (
                "/spec/schedule",
                json!("61 * * * *"),
                "spec.schedule: Invalid value: \"61 * * * *\": end of range (61) above maximum (59): 61",
            ),
            (
                "/spec/schedule",
                json!("*/0 * * * *"),
                "spec.schedule: Invalid value: \"*/0 * * * *\": step of range should be a positive number: */0",
            ),
            (
                "/spec/schedule",
                json!("TZ=UTC * * * * *"),
                "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule",
            ),
            (
                "/spec/schedule",
                json!("@often"),
                "spec.schedule: Invalid value: \"@often\": unrecognized descriptor: @often",
            ),
            (
                "/spec/timeZone",
                json!("Local"),
                "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone",
            ),
            (
                "/spec/timeZone",
                json!("Nowhere/City"),
                "spec.timeZone: Invalid value: \"Nowhere/City\": unknown time zone Nowhere/City",
            ),
            ("/metadata/name", json!("a".repeat(53)), "metadata.name: Invalid value"),
        ],
    );
}

#[test]
fn a_stateful_set_keeps_what_its_pods_are_bound_by() {
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s", "namespace": "ns"}, "spec": {
        "serviceName": "s", "selector": {"matchLabels": {"a": "b"}}, "template": template("Always"),
    }});
    assert!(
        update_faults(&set, "", &[("/spec/replicas", json!(3)), ("/spec/minReadySeconds", json!(5))])
            .is_empty()
    );
    let found = update_faults(&set, "", &[("/spec/serviceName", json!("t"))]);
    assert_eq!(
        found,
        [
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
        ]
    );
}
