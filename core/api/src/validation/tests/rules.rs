//! Rules of many kinds, a line for each.

use serde_json::{Value, json};

use super::{each_change_has_its_fault, faults, update_faults};

fn named(version: &str, kind: &str, spec: Value) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a", "namespace": "ns"}, "spec": spec})
}

fn global(version: &str, kind: &str, spec: Value) -> Value {
    let mut object = named(version, kind, spec);
    object["metadata"].as_object_mut().unwrap().remove("namespace");
    object
}

fn template(policy: &str) -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "x"}]}})
}

#[test]
fn each_fault_of_a_pods_newer_fields_has_its_path() {
    let pod = named(
        "v1",
        "Pod",
        json!({"containers": [{"name": "c", "image": "x"}],
        "volumes": [{"name": "v", "emptyDir": {}}]}),
    );
    let from_file = |reference: Value| json!([{"name": "A", "valueFrom": {"fileKeyRef": reference}}]);
    each_change_has_its_fault(
        &pod,
        vec![
            (
                "/spec/readinessGates",
                json!([{"conditionType": "-"}]),
                "spec.readinessGates[0].conditionType: Invalid value: \"-\"",
            ),
            (
                "/spec/containers/0/env",
                from_file(json!({"key": "a", "volumeName": "v", "path": "/x"})),
                "spec.containers[0].env[0].valueFrom.fileKeyRef.path: Invalid value: \"/x\": must be a relative path",
            ),
            (
                "/spec/containers/0/env",
                from_file(json!({"key": "a", "path": "x"})),
                "spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: Required value",
            ),
            (
                "/spec/containers/0/env",
                from_file(json!({"key": "a=b", "volumeName": "v", "path": "x"})),
                "spec.containers[0].env[0].valueFrom.fileKeyRef.key: Invalid value: \"a=b\"",
            ),
            (
                "/spec/containers/0/env",
                from_file(json!({"key": "k".repeat(129), "volumeName": "v", "path": "x"})),
                "spec.containers[0].env[0].valueFrom.fileKeyRef.key: Too long: may not be more than 128 bytes",
            ),
            (
                "/spec/volumes/1",
                json!({"name": "i", "image": {}}),
                "spec.volumes[1].image.reference: Required value",
            ),
        ],
    );
    // Of a template the image may be said by who makes pods of it.
    let mut made = named(
        "apps/v1",
        "Deployment",
        json!({"selector": {"matchLabels": {"a": "b"}}, "template": template("Always")}),
    );
    made["spec"]["template"]["spec"]["volumes"] = json!([{"name": "i", "image": {}}]);
    assert_eq!(faults(&made, &[]), Vec::<String>::new());
}

#[test]
fn each_fault_of_a_daemon_sets_update_has_its_path() {
    let good = named(
        "apps/v1",
        "DaemonSet",
        json!({"selector": {"matchLabels": {"a": "b"}}, "template": template("Always")}),
    );
    let rolling = "/spec/updateStrategy/rollingUpdate";
    each_change_has_its_fault(
        &good,
        vec![
            (
                rolling,
                json!({"maxUnavailable": 1, "maxSurge": 1}),
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
            ),
            (
                rolling,
                json!({"maxUnavailable": 0, "maxSurge": 0}),
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
            ),
            (
                rolling,
                json!({"maxUnavailable": 0, "maxSurge": "101%"}),
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: \"101%\": must not be greater than 100%",
            ),
        ],
    );
}

#[test]
fn a_job_with_very_many_indexes_says_how_many_may_fail() {
    let good = named(
        "batch/v1",
        "Job",
        json!({"completionMode": "Indexed", "completions": 100_001, "parallelism": 10,
        "template": template("Never"), "selector": {"matchLabels": {"a": "b"}}}),
    );
    each_change_has_its_fault(
        &good,
        vec![(
            "/spec/backoffLimitPerIndex",
            json!(1),
            "spec.maxFailedIndexes: Required value: must be specified when completions is above 100000",
        )],
    );
    let many = [("/spec/backoffLimitPerIndex", json!(1)), ("/spec/maxFailedIndexes", json!(10_001))];
    let text = "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index";
    assert_eq!(faults(&good, &many), [format!("spec.maxFailedIndexes: Invalid value: 10001: {text}")]);
}

#[test]
fn a_zone_in_a_schedule_stays_where_it_came_to_be() {
    let job = |schedule: &str| {
        named(
            "batch/v1",
            "CronJob",
            json!({"schedule": schedule,
        "jobTemplate": {"spec": {"template": template("Never")}}}),
        )
    };
    each_change_has_its_fault(
        &job("@hourly"),
        vec![
            (
                "/spec/schedule",
                json!("TZ=UTC 0 * * * *"),
                "spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            ),
            (
                "/spec/jobTemplate/spec/selector",
                json!({"matchLabels": {"a": "b"}}),
                "spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be auto-generated",
            ),
            ("/metadata/name", json!("x".repeat(53)), "metadata.name: Invalid value: "),
        ],
    );
    let old = job("CRON_TZ=UTC 0 * * * *");
    assert_eq!(update_faults(&old, "", &[("/spec/suspend", json!(true))]), Vec::<String>::new());
    let both = update_faults(&old, "", &[("/spec/timeZone", json!("UTC"))]);
    assert_eq!(
        both,
        [
            "spec.schedule: Invalid value: \"CRON_TZ=UTC 0 * * * *\": cannot use both timeZone field and TZ or CRON_TZ in schedule"
        ]
    );
}

#[test]
fn each_fault_of_what_belongs_to_the_cluster_has_its_path() {
    let class = global("networking.k8s.io/v1", "IngressClass", json!({"controller": "a.io/b"}));
    each_change_has_its_fault(
        &class,
        vec![
            (
                "/spec/parameters",
                json!({"kind": "K", "name": "n/m"}),
                "spec.parameters.name: Invalid value: \"n/m\": may not contain '/'",
            ),
            (
                "/spec/parameters",
                json!({"kind": "K", "name": "n", "scope": "Namespace"}),
                "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
            ),
            (
                "/spec/parameters",
                json!({"kind": "K", "name": "n", "scope": "Namespace", "namespace": "A"}),
                "spec.parameters.namespace: Invalid value: \"A\"",
            ),
            (
                "/spec/parameters",
                json!({"apiGroup": "A_", "kind": "K", "name": "n"}),
                "spec.parameters.apiGroup: Invalid value: \"A_\"",
            ),
        ],
    );
    let node = global("v1", "Node", json!({"podCIDRs": ["10.0.0.0/24"]}));
    each_change_has_its_fault(
        &node,
        vec![
            (
                "/spec/podCIDRs",
                json!(["x"]),
                "spec.podCIDRs[0]: Invalid value: \"x\": must be a valid CIDR value",
            ),
            (
                "/spec/podCIDRs",
                json!(["10.0.0.0/24", "10.1.0.0/24"]),
                "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.1.0.0/24\"]: may specify no more than one CIDR for each IP family",
            ),
            (
                "/status",
                json!({"allocatable": {"cpu": "-1"}}),
                "status.allocatable.cpu: Invalid value: \"-1\"",
            ),
        ],
    );
    let volume = global(
        "v1",
        "PersistentVolume",
        json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/x"}}),
    );
    each_change_has_its_fault(
        &volume,
        vec![(
            "/spec/volumeAttributesClassName",
            json!("a"),
            "spec.csi: Required value: has to be specified when using volumeAttributesClassName",
        )],
    );
    let driver = global("storage.k8s.io/v1", "CSIDriver", json!({}));
    each_change_has_its_fault(
        &driver,
        vec![(
            "/spec/nodeAllocatableUpdatePeriodSeconds",
            json!(9),
            "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds",
        )],
    );
}

#[test]
fn each_fault_of_a_slices_hints_has_its_path() {
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "a", "namespace": "ns"}, "endpoints": [{"addresses": ["10.0.0.1"]}]});
    let zones = |names: &[&str]| -> Value { names.iter().map(|name| json!({"name": name})).collect() };
    each_change_has_its_fault(
        &slice,
        vec![
            (
                "/endpoints/0/hints",
                json!({"forZones": zones(&["a"; 9])}),
                "endpoints[0].hints.forZones: Too many: 9: must have at most 8 items",
            ),
            (
                "/endpoints/0/hints",
                json!({"forZones": zones(&["a", "a"])}),
                "endpoints[0].hints.forZones[1].name: Duplicate value: \"a\"",
            ),
            (
                "/endpoints/0/hints",
                json!({"forZones": zones(&["-"])}),
                "endpoints[0].hints.forZones[0].name: Invalid value: \"-\"",
            ),
            (
                "/endpoints/0/hints",
                json!({"forNodes": zones(&["A"])}),
                "endpoints[0].hints.forNodes[0].name: Invalid value: \"A\"",
            ),
        ],
    );
}
