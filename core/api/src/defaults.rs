//! What the server fills in before an object is stored.

mod device;
mod flow_control;
mod pod;
mod volume;
pub(crate) mod webhook;
mod workload;

use serde_json::{Map, Value, json};

use crate::custom_resource;
use crate::kinds::GroupVersionKind;
use crate::object::{Object, child_map};
use crate::schema::Schema;

pub(crate) fn fill(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    if map.get(field).is_none_or(|have| have.is_null() || have.as_str() == Some("")) {
        map.insert(field.to_owned(), value.into());
    }
}

pub(crate) fn each<'a>(
    map: &'a mut Map<String, Value>,
    field: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Brings an object of a built-in kind into the form in which it is stored, without filling anything in.
pub fn settle(gvk: &GroupVersionKind, object: &mut Object) {
    if let Some(schema) = Schema::builtin(gvk) {
        schema.settle(&mut object.0);
    }
}

/// Brings the metadata of any object into the form in which they are stored.
pub fn settle_metadata(object: &mut Object) {
    let kind = GroupVersionKind::new("", "v1", "ConfigMap");
    let schema = Schema::builtin(&kind).and_then(|schema| schema.field("metadata").cloned());
    if let (Some(schema), Some(Value::Object(metadata))) = (schema, object.0.get_mut("metadata")) {
        schema.settle(metadata);
    }
}

/// Fills in the defaults of a built-in kind.
pub fn apply_defaults(gvk: &GroupVersionKind, object: &mut Object) {
    settle(gvk, object);
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        (custom_resource::GROUP, "CustomResourceDefinition") => custom_resource::defaults::apply(object),
        ("", "Pod") => pod::pod(child_map(&mut object.0, "spec")),
        ("", "Node") => node(object),
        ("", "Service") => {
            service(child_map(&mut object.0, "spec"));
            if let Some(Value::Object(balancer)) =
                object.0.get_mut("status").and_then(|status| status.get_mut("loadBalancer"))
            {
                for ingress in each(balancer, "ingress") {
                    if ingress.get("ip").and_then(Value::as_str).is_some_and(|ip| !ip.is_empty()) {
                        fill(ingress, "ipMode", "VIP");
                    }
                }
            }
        }
        ("", "Secret") => secret(object),
        ("", "Namespace") => namespace(object),
        ("", "PersistentVolumeClaim") => claim(&mut object.0),
        ("", "PersistentVolume") => {
            let spec = child_map(&mut object.0, "spec");
            volume::persistent(spec);
            fill(spec, "persistentVolumeReclaimPolicy", "Retain");
            fill(spec, "volumeMode", "Filesystem");
            fill(child_map(&mut object.0, "status"), "phase", "Pending");
        }
        ("batch", "Job") => {
            workload::apply("Job", child_map(&mut object.0, "spec"));
            workload::job_labels(object);
        }
        ("apps" | "batch", kind) => workload::apply(kind, child_map(&mut object.0, "spec")),
        ("", "ReplicationController") => workload::replication_controller(object),
        ("", "PodTemplate") => {
            if let Some(Value::Object(template)) = object.0.get_mut("template") {
                pod::spec(child_map(template, "spec"));
            }
        }
        ("", "LimitRange") => each(child_map(&mut object.0, "spec"), "limits").for_each(limit),
        ("networking.k8s.io", "IngressClass") => {
            if let Some(Value::Object(parameters)) =
                object.0.get_mut("spec").and_then(|spec| spec.get_mut("parameters"))
            {
                fill(parameters, "scope", "Cluster");
            }
        }
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaler(child_map(&mut object.0, "spec")),
        ("apiregistration.k8s.io", "APIService") => {
            let spec = child_map(&mut object.0, "spec");
            if let Some(service) = spec.get_mut("service").and_then(Value::as_object_mut) {
                fill(service, "port", 443);
            }
        }
        ("", "Endpoints") => {
            for subset in each(&mut object.0, "subsets") {
                each(subset, "ports").for_each(|port| fill(port, "protocol", "TCP"));
            }
        }
        ("discovery.k8s.io", "EndpointSlice") => {
            for port in each(&mut object.0, "ports") {
                port.entry("name").or_insert_with(|| "".into());
                fill(port, "protocol", "TCP");
            }
        }
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration",
        ) => webhook::configuration(object),
        (crate::flow_control::GROUP, "FlowSchema") => {
            flow_control::schema(child_map(&mut object.0, "spec"));
        }
        (crate::flow_control::GROUP, "PriorityLevelConfiguration") => {
            flow_control::level(child_map(&mut object.0, "spec"));
        }
        ("admissionregistration.k8s.io", kind) if kind.contains("AdmissionPolicy") => webhook::policy(object),
        ("resource.k8s.io", kind) => device::apply(kind, object),
        ("networking.k8s.io", "NetworkPolicy") => network_policy(child_map(&mut object.0, "spec")),
        ("scheduling.k8s.io", "PriorityClass") => {
            fill(&mut object.0, "preemptionPolicy", "PreemptLowerPriority")
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => binding(object),
        ("storage.k8s.io", "CSIDriver") => driver(child_map(&mut object.0, "spec")),
        ("storage.k8s.io", "StorageClass") => {
            fill(&mut object.0, "reclaimPolicy", "Delete");
            fill(&mut object.0, "volumeBindingMode", "Immediate");
        }
        _ => {}
    }
}

fn service(spec: &mut Map<String, Value>) {
    fill(spec, "type", "ClusterIP");
    fill(spec, "sessionAffinity", "None");
    match spec.get("sessionAffinity").and_then(Value::as_str) {
        Some("ClientIP") => {
            let client = child_map(child_map(spec, "sessionAffinityConfig"), "clientIP");
            fill(client, "timeoutSeconds", 10800);
        }
        Some("None") => drop(spec.remove("sessionAffinityConfig")),
        _ => {}
    }
    if spec.get("type").and_then(Value::as_str) != Some("ExternalName") {
        fill(spec, "internalTrafficPolicy", "Cluster");
    }
    let outside = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let kind = spec.get("type").and_then(Value::as_str);
    if matches!(kind, Some("NodePort" | "LoadBalancer")) || (kind == Some("ClusterIP") && outside) {
        fill(spec, "externalTrafficPolicy", "Cluster");
    }
    if spec.get("type").and_then(Value::as_str) == Some("LoadBalancer") {
        fill(spec, "allocateLoadBalancerNodePorts", true);
    }
    for port in each(spec, "ports") {
        fill(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or(Value::Null);
        port.remove_entry("targetPort").filter(|(_, it)| *it != 0).map(|(name, it)| port.insert(name, it));
        fill(port, "targetPort", number);
    }
}

fn secret(object: &mut Object) {
    fill(&mut object.0, "type", "Opaque");
    let Some(Value::Object(texts)) = object.0.remove("stringData") else { return };
    use base64::Engine as _;
    let data = child_map(&mut object.0, "data");
    for (key, value) in texts {
        let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or(""));
        data.insert(key, encoded.into());
    }
}

fn namespace(object: &mut Object) {
    if let Some(name) = object.name().map(str::to_owned) {
        object.set_label("kubernetes.io/metadata.name", &name);
    }
    fill(child_map(&mut object.0, "spec"), "finalizers", vec!["kubernetes"]);
    fill(child_map(&mut object.0, "status"), "phase", "Active");
}

/// What pods may have of a node is all of it, unless it says otherwise.
fn node(object: &mut Object) {
    let Some(Value::Object(status)) = object.0.get_mut("status") else { return };
    if let Some(capacity) = status.get("capacity").filter(|it| it.is_object()).cloned() {
        fill(status, "allocatable", capacity);
    }
}

pub(super) fn claim(object: &mut Map<String, Value>) {
    fill(child_map(object, "spec"), "volumeMode", "Filesystem");
    fill(child_map(object, "status"), "phase", "Pending");
}

fn autoscaler(spec: &mut Map<String, Value>) {
    fill(spec, "minReplicas", 1);
    if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        spec.insert("metrics".to_owned(), json!([metric]));
    }
    let Some(Value::Object(behavior)) = spec.get_mut("behavior") else { return };
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let up = child_map(behavior, "scaleUp");
    fill(up, "stabilizationWindowSeconds", 0);
    fill(up, "selectPolicy", "Max");
    fill(up, "policies", json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, percent]));
    let down = child_map(behavior, "scaleDown");
    fill(down, "selectPolicy", "Max");
    fill(down, "policies", json!([percent]));
}

/// What a container gets when it says nothing: what it may have at most; and it asks for that, or for the least.
fn limit(it: &mut Map<String, Value>) {
    if it.get("type").and_then(Value::as_str) != Some("Container") {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let Some(Value::Object(amounts)) = it.get(from).cloned() else { continue };
        let filled = child_map(it, to);
        for (name, amount) in amounts {
            filled.entry(name).or_insert(amount);
        }
    }
}

/// A policy is about what comes in; about what goes out if it says something of that.
fn network_policy(spec: &mut Map<String, Value>) {
    let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    fill(spec, "policyTypes", types);
    for direction in ["ingress", "egress"] {
        for rule in each(spec, direction) {
            each(rule, "ports").for_each(|port| fill(port, "protocol", "TCP"));
        }
    }
}

fn driver(spec: &mut Map<String, Value>) {
    fill(spec, "attachRequired", true);
    for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        fill(spec, field, false);
    }
    fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    fill(spec, "volumeLifecycleModes", json!(["Persistent"]));
}

fn binding(object: &mut Object) {
    fill(child_map(&mut object.0, "roleRef"), "apiGroup", "rbac.authorization.k8s.io");
    for subject in each(&mut object.0, "subjects") {
        if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
            fill(subject, "apiGroup", "rbac.authorization.k8s.io");
        }
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_filled_in_stays_when_a_document_is_settled_again() {
        let container = json!({"name": "c", "image": "i", "ports": [{"containerPort": 80}],
            "livenessProbe": {"grpc": {"port": 1}}, "readinessProbe": {"httpGet": {"port": 1}},
            "env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]});
        let volumes = json!([{"name": "a", "hostPath": {"path": "/"}}, {"name": "b"},
            {"name": "c", "configMap": {"name": "x"}}, {"name": "d", "projected": {"sources":
                [{"serviceAccountToken": {"path": "t"}}, {"downwardAPI": {"items":
                    [{"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}},
            {"name": "e", "iscsi": {"targetPortal": "p", "iqn": "q", "lun": 0}},
            {"name": "f", "rbd": {"monitors": ["m"], "image": "i"}},
            {"name": "g", "scaleIO": {"gateway": "g", "system": "s", "secretRef": {}}},
            {"name": "h", "azureDisk": {"diskName": "d", "diskURI": "u"}},
            {"name": "i", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]);
        let pod = json!({"containers": [container], "volumes": volumes});
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod});
        let job = json!({"template": template});
        for (group, version, kind, spec) in [
            ("", "v1", "Pod", pod.clone()),
            ("", "v1", "Service", json!({"ports": [{"port": 1}], "sessionAffinity": "ClientIP"})),
            ("", "v1", "PersistentVolume", json!({"hostPath": {"path": "/"}})),
            ("", "v1", "PersistentVolumeClaim", json!({})),
            ("", "v1", "ReplicationController", json!({"template": template})),
            ("apps", "v1", "Deployment", json!({"template": template})),
            ("apps", "v1", "ReplicaSet", json!({"template": template})),
            ("apps", "v1", "DaemonSet", json!({"template": template})),
            ("apps", "v1", "StatefulSet", json!({"template": template, "volumeClaimTemplates": [{}]})),
            ("batch", "v1", "Job", job.clone()),
            ("batch", "v1", "CronJob", json!({"schedule": "* * * * *", "jobTemplate": {"spec": job}})),
            (
                "autoscaling",
                "v2",
                "HorizontalPodAutoscaler",
                json!({"maxReplicas": 3, "behavior": {"scaleUp": {}}}),
            ),
            ("networking.k8s.io", "v1", "NetworkPolicy", json!({"podSelector": {}, "egress": []})),
            ("networking.k8s.io", "v1", "Ingress", json!({"rules": [{}]})),
            ("policy", "v1", "PodDisruptionBudget", json!({"minAvailable": 0})),
            ("storage.k8s.io", "v1", "CSIDriver", json!({})),
        ] {
            let gvk = GroupVersionKind::new(group, version, kind);
            let document = json!({"apiVersion": gvk.api_version(), "kind": kind, "metadata": {"name": "x"}, "spec": spec});
            let mut filled = Object::from_value(document).unwrap();
            apply_defaults(&gvk, &mut filled);
            let mut settled = filled.clone();
            settle(&gvk, &mut settled);
            assert_eq!(settled, filled, "{kind}");
        }
    }
}
