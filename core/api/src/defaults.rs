//! What the server fills in before an object is stored.

mod pod;
mod workload;

use serde_json::{Map, Value};

use crate::kinds::GroupVersionKind;
use crate::object::{Object, child_map};

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

/// Fills in the defaults of a built-in kind.
pub fn apply_defaults(gvk: &GroupVersionKind, object: &mut Object) {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => pod::spec(child_map(&mut object.0, "spec")),
        ("", "Service") => service(child_map(&mut object.0, "spec")),
        ("", "Secret") => secret(object),
        ("", "Namespace") => namespace(object),
        ("", "PersistentVolumeClaim") => fill(child_map(&mut object.0, "spec"), "volumeMode", "Filesystem"),
        ("apps" | "batch", kind) => workload::apply(kind, child_map(&mut object.0, "spec")),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => binding(object),
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
    if spec.get("type").and_then(Value::as_str) != Some("ExternalName") {
        fill(spec, "internalTrafficPolicy", "Cluster");
    }
    if matches!(spec.get("type").and_then(Value::as_str), Some("NodePort" | "LoadBalancer")) {
        fill(spec, "externalTrafficPolicy", "Cluster");
    }
    if spec.get("type").and_then(Value::as_str) == Some("LoadBalancer") {
        fill(spec, "allocateLoadBalancerNodePorts", true);
    }
    for port in each(spec, "ports") {
        fill(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or(Value::Null);
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

fn binding(object: &mut Object) {
    fill(child_map(&mut object.0, "roleRef"), "apiGroup", "rbac.authorization.k8s.io");
    for subject in each(&mut object.0, "subjects") {
        if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
            fill(subject, "apiGroup", "rbac.authorization.k8s.io");
        }
    }
}
