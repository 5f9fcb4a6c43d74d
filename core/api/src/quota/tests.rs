use serde_json::json;

use super::*;

fn uses(group: &str, plural: &str, document: Value) -> Value {
    resource_list::to_value(&usage(
        &GroupResource::new(group, plural),
        &Object::from_value(document).unwrap(),
    ))
}

fn pod(spec: Value) -> Object {
    Object::from_value(json!({"spec": spec})).unwrap()
}

#[test]
fn each_kind_counts_what_it_uses() {
    let resources = json!({"requests": {"cpu": "1", "example.com/gpu": "2"}, "limits": {"memory": "1Gi"}});
    let spec = json!({"containers": [{"name": "c", "resources": resources}]});
    assert_eq!(
        uses("", "pods", json!({"spec": spec})),
        json!({"count/pods": "1", "pods": "1", "cpu": "1", "requests.cpu": "1", "requests.example.com/gpu": "2", "limits.memory": "1Gi"})
    );
    assert_eq!(
        uses("", "pods", json!({"spec": spec, "status": {"phase": "Succeeded"}})),
        json!({"count/pods": "1"})
    );
    assert_eq!(
        uses("", "services", json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}})),
        json!({"count/services": "1", "services": "1", "services.nodeports": "2", "services.loadbalancers": "1"})
    );
    assert_eq!(
        uses(
            "",
            "persistentvolumeclaims",
            json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}})
        ),
        json!({"count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1", "requests.storage": "1Gi",
            "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1", "fast.storageclass.storage.k8s.io/requests.storage": "1Gi"})
    );
    assert_eq!(uses("apps", "deployments", json!({})), json!({"count/deployments.apps": "1"}));
    let requests = json!([{"name": "a", "exactly": {"deviceClassName": "gpu", "count": 2}}, {"name": "b", "firstAvailable": [
        {"deviceClassName": "gpu", "count": 1}, {"deviceClassName": "tpu", "count": 4}]}]);
    assert_eq!(
        uses("resource.k8s.io", "resourceclaims", json!({"spec": {"devices": {"requests": requests}}})),
        json!({"count/resourceclaims.resource.k8s.io": "1", "gpu.deviceclass.resource.k8s.io/devices": "3",
            "tpu.deviceclass.resource.k8s.io/devices": "4"})
    );
}

#[test]
fn what_is_limited_has_to_be_stated() {
    let pods = &GroupResource::new("", "pods");
    let hard = resource_list::read(Some(&json!({"requests.cpu": "1", "limits.memory": "1Gi", "pods": "4"})));
    let silent =
        pod(json!({"containers": [{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "1"}}}]}));
    assert_eq!(missing(pods, &silent, &hard), ["limits.memory for: a,b", "requests.cpu for: a"]);
}

#[test]
fn scopes_say_which_pods_a_quota_is_about() {
    let pods = &GroupResource::new("", "pods");
    let quota = |spec: Value| Object::from_value(json!({"spec": spec})).unwrap();
    let classes = |operator: &str, values: Value| {
        quota(
            json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": values}]}}),
        )
    };
    let plain = pod(json!({"containers": [{"name": "c"}]}));
    let ends = pod(json!({"activeDeadlineSeconds": 5, "priorityClassName": "high", "containers": [
        {"name": "c", "resources": {"requests": {"cpu": "1"}}}]}));
    let affine = pod(
        json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"namespaceSelector": {}}]}}}),
    );
    let table = [
        (quota(json!({"scopes": ["Terminating"]})), &ends, true),
        (quota(json!({"scopes": ["Terminating"]})), &plain, false),
        (quota(json!({"scopes": ["BestEffort", "NotTerminating"]})), &plain, true),
        (quota(json!({"scopes": ["NotBestEffort"]})), &ends, true),
        (classes("In", json!(["high"])), &ends, true),
        (classes("NotIn", json!(["high"])), &plain, true),
        (classes("Exists", json!([])), &plain, false),
        (quota(json!({"scopes": ["CrossNamespacePodAffinity"]})), &affine, true),
        (quota(json!({"scopes": ["CrossNamespacePodAffinity"]})), &plain, false),
        (quota(json!({})), &plain, true),
    ];
    for (quota, pod, expected) in table {
        assert_eq!(is_about(&quota, pods, pod), expected, "{quota:?} {pod:?}");
    }
}

#[test]
fn more_than_is_allowed_is_refused_with_the_numbers() {
    let list = |value: Value| resource_list::read(Some(&value));
    let hard = list(json!({"cpu": "1", "pods": "10"}));
    let used = list(json!({"cpu": "500m", "pods": "1"}));
    let more = list(json!({"cpu": "600m", "pods": "1"}));
    let names = grant(&hard, &used, &more).unwrap_err();
    assert_eq!(
        exceeded("q", &names, &more, &used, &hard),
        "exceeded quota: q, requested: cpu=600m, used: cpu=500m, limited: cpu=1"
    );
    let sums = grant(&hard, &used, &list(json!({"cpu": "500m"}))).unwrap();
    assert_eq!(resource_list::to_value(&sums), json!({"cpu": "1", "pods": "1"}));
    assert!(increase(&used, &more).is_empty());
}
