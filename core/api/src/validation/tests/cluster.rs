//! Ingresses, policies, quotas, autoscalers, storage: the kinds beside pods and Services.

use serde_json::{Value, json};

use super::{each_change_has_its_fault, update_faults};

fn named(version: &str, kind: &str, fields: Value) -> Value {
    let mut object =
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a", "namespace": "ns"}});
    for (field, value) in fields.as_object().unwrap() {
        object[field] = value.clone();
    }
    object
}

fn global(version: &str, kind: &str, fields: Value) -> Value {
    let mut object = named(version, kind, fields);
    object["metadata"].as_object_mut().unwrap().remove("namespace");
    object
}

#[test]
fn each_fault_of_an_ingress_has_its_path() {
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
    let good = named(
        "networking.k8s.io/v1",
        "Ingress",
        json!({"spec": {"rules": [{"host": "a.example.com", "http": {"paths": paths}}]}}),
    );
    let at = |field: &str| -> &'static str { format!("/spec/rules/0/http/paths/0/{field}").leak() };
    each_change_has_its_fault(
        &good,
        vec![
            (
                "/spec/rules",
                json!([]),
                "spec: Invalid value: {}: either `defaultBackend` or `rules` must be specified",
            ),
            (
                "/spec/rules/0/host",
                json!("10.0.0.1"),
                "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
            ),
            (
                "/spec/rules/0/host",
                json!("*a.com"),
                "spec.rules[0].host: Invalid value: \"*a.com\": a wildcard DNS-1123 subdomain",
            ),
            (
                at("path"),
                json!("a"),
                "spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute path",
            ),
            (
                at("path"),
                json!("/a/../b"),
                "spec.rules[0].http.paths[0].path: Invalid value: \"/a/../b\": must not contain '/../'",
            ),
            (
                at("pathType"),
                json!(null),
                "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
            ),
            (
                at("backend/service/port"),
                json!({}),
                "spec.rules[0].http.paths[0].backend.service.port: Required value: port name or number is required",
            ),
            (
                at("backend/resource"),
                json!({"kind": "A", "name": "b"}),
                "spec.rules[0].http.paths[0].backend: Invalid value: \"\": cannot set both resource and service backends",
            ),
        ],
    );
}

#[test]
fn each_fault_of_a_network_policy_has_its_path() {
    let good = named(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        json!({"spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}]}}),
    );
    each_change_has_its_fault(
        &good,
        vec![
            (
                "/spec/ingress/0/from/0",
                json!({}),
                "spec.ingress[0].from[0]: Required value: must specify a peer",
            ),
            (
                "/spec/ingress/0/from/0",
                json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]}}),
                "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/9\": must be a strict subset of `cidr`",
            ),
            (
                "/spec/ingress/0/from/0",
                json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}),
                "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
            ),
            (
                "/spec/ingress/0/ports/0/endPort",
                json!(79),
                "spec.ingress[0].ports[0].endPort: Invalid value: 79: must be greater than or equal to `port`",
            ),
            (
                "/spec/policyTypes",
                json!(["Sideways"]),
                "spec.policyTypes[0]: Unsupported value: \"Sideways\": supported values: \"Egress\", \"Ingress\"",
            ),
        ],
    );
}

#[test]
fn each_fault_of_an_autoscaler_has_its_path_and_its_behavior_is_filled_in() {
    let good = named(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}}}}),
    );
    each_change_has_its_fault(
        &good,
        vec![
            (
                "/spec/minReplicas",
                json!(5),
                "spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`",
            ),
            ("/spec/maxReplicas", json!(0), "spec.maxReplicas: Invalid value: 0: must be greater than 0"),
            ("/spec/scaleTargetRef/kind", json!(null), "spec.scaleTargetRef.kind: Required value"),
            (
                "/spec/behavior/scaleDown/stabilizationWindowSeconds",
                json!(3601),
                "spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
            ),
            (
                "/spec/metrics",
                json!([{"type": "Pods"}]),
                "spec.metrics[0].pods: Required value: must populate information for the given metric source",
            ),
            (
                "/spec/metrics",
                json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}]),
                "spec.metrics[0].resource.target.averageUtilization: Required value: must set either",
            ),
        ],
    );
}

#[test]
fn each_fault_of_quotas_and_limits_has_its_path() {
    let quota = named("v1", "ResourceQuota", json!({"spec": {"hard": {"pods": "5"}}}));
    each_change_has_its_fault(
        &quota,
        vec![
            (
                "/spec/hard",
                json!({"pods": "1500m"}),
                "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
            ),
            (
                "/spec/hard",
                json!({"chairs": "1"}),
                "spec.hard[chairs]: Invalid value: \"chairs\": must be a standard resource",
            ),
            (
                "/spec/scopes",
                json!(["BestEffort", "NotBestEffort"]),
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
            ),
            (
                "/spec/scopeSelector",
                json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}),
                "spec.scopeSelector.matchExpressions.values: Required value",
            ),
        ],
    );
    let found = update_faults(&quota, "", &[("/spec/scopes", json!(["BestEffort"]))]);
    assert_eq!(found, ["spec.scopes: Invalid value: [\"BestEffort\"]: field is immutable"]);
    let limits = named(
        "v1",
        "LimitRange",
        json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1"}}]}}),
    );
    each_change_has_its_fault(
        &limits,
        vec![
            (
                "/spec/limits/0/min",
                json!({"cpu": "3"}),
                "spec.limits[0].min[cpu]: Invalid value: \"3\": min value 3 is greater than max value 2",
            ),
            (
                "/spec/limits/0/type",
                json!("Thing"),
                "spec.limits[0].type: Invalid value: \"Thing\": must be a standard limit type or fully qualified",
            ),
            (
                "/spec/limits/0/maxLimitRequestRatio",
                json!({"cpu": "500m"}),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
            ),
        ],
    );
}

#[test]
fn classes_and_volumes_stay_what_they_are() {
    let class = global("storage.k8s.io/v1", "StorageClass", json!({"provisioner": "example.com/p"}));
    let changed = [("/provisioner", json!("example.com/q")), ("/parameters", json!({"a": "b"}))];
    assert_eq!(
        update_faults(&class, "", &changed),
        [
            "parameters: Forbidden: updates to parameters are forbidden.",
            "provisioner: Forbidden: updates to provisioner are forbidden.",
        ]
    );
    assert!(update_faults(&class, "", &[("/allowVolumeExpansion", json!(true))]).is_empty());
    let volume = global(
        "v1",
        "PersistentVolume",
        json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/a"}}}),
    );
    assert!(update_faults(&volume, "", &[("/spec/capacity/storage", json!("2Gi"))]).is_empty());
    assert_eq!(
        update_faults(&volume, "", &[("/spec/hostPath/path", json!("/b"))]),
        ["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"]
    );
    let mut claim = named(
        "v1",
        "PersistentVolumeClaim",
        json!({"spec": {"resources": {"requests": {"storage": "1Gi"}}, "accessModes": ["ReadWriteOnce"]}}),
    );
    claim["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
    let size = |size: &str| [("/spec/resources/requests/storage", json!(size))];
    assert!(update_faults(&claim, "", &size("2Gi")).is_empty());
    assert_eq!(
        update_faults(&claim, "", &size("1Mi")),
        ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
    );
    let priority = global("scheduling.k8s.io/v1", "PriorityClass", json!({"value": 5}));
    assert_eq!(
        update_faults(&priority, "", &[("/value", json!(6))]),
        ["value: Forbidden: may not be changed in an update."]
    );
    each_change_has_its_fault(
        &priority,
        vec![
            (
                "/value",
                json!(1_000_000_001),
                "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
            ),
            (
                "/metadata/name",
                json!("system-a"),
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved",
            ),
        ],
    );
}

#[test]
fn each_fault_of_metadata_has_its_path() {
    let map = named("v1", "ConfigMap", json!({}));
    each_change_has_its_fault(
        &map,
        vec![
            (
                "/metadata/finalizers",
                json!(["a"]),
                "metadata.finalizers[0]: Invalid value: \"a\": name is neither a standard finalizer name nor is it fully qualified",
            ),
            (
                "/metadata/ownerReferences",
                json!([{"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": ""}]),
                "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
            ),
            (
                "/metadata/ownerReferences",
                json!([{"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "1", "controller": true}, {"apiVersion": "v1", "kind": "Pod", "name": "b", "uid": "2", "controller": true}]),
                "metadata.ownerReferences: Invalid value",
            ),
            ("/metadata/annotations", json!({"a b": "c"}), "metadata.annotations: Invalid value: \"a b\""),
            ("/metadata/labels", json!({"a": "b c"}), "metadata.labels: Invalid value: \"b c\""),
            (
                "/metadata/managedFields",
                json!([{"operation": "Guess"}]),
                "metadata.managedFields[0].operation: Invalid value: \"Guess\": must be `Apply` or `Update`",
            ),
        ],
    );
}
