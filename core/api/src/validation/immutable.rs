//! Fields that must not change after creation.

use serde_json::Value;

use super::FieldError;
use crate::kinds::GroupVersionKind;
use crate::object::Object;

const FIXED: &str = "field is immutable";

pub(super) fn update(gvk: &GroupVersionKind, new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let paths: &[&[&str]] = match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") => &[&["spec", "selector"]],
        ("apps", "StatefulSet") => {
            &[&["spec", "selector"], &["spec", "serviceName"], &["spec", "podManagementPolicy"]]
        }
        ("batch", "Job") => &[&["spec", "selector"], &["spec", "completionMode"]],
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => &[&["roleRef"]],
        ("storage.k8s.io", "StorageClass") => {
            &[&["provisioner"], &["parameters"], &["reclaimPolicy"], &["volumeBindingMode"]]
        }
        ("scheduling.k8s.io", "PriorityClass") => &[&["value"], &["preemptionPolicy"]],
        ("", "Secret") => &[&["type"]],
        ("", "PersistentVolumeClaim") => &[
            &["spec", "accessModes"],
            &["spec", "storageClassName"],
            &["spec", "selector"],
            &["spec", "volumeMode"],
        ],
        _ => &[],
    };
    for path in paths {
        // A claim gets its class later, where none was the default when it was made.
        if *path == ["spec", "storageClassName"] && old.get(path).is_none() {
            continue;
        }
        if new.get(path) != old.get(path) {
            let value = new.get(path).cloned().unwrap_or(Value::Null);
            errors.push(FieldError::invalid(path.join("."), value, FIXED));
        }
    }
    let sealed = matches!(gvk.kind.as_str(), "ConfigMap" | "Secret")
        && gvk.group.is_empty()
        && old.get(&["immutable"]) == Some(&Value::Bool(true));
    if sealed {
        if new.get(&["immutable"]) != Some(&Value::Bool(true)) {
            errors.push(FieldError::forbidden("immutable", "field is immutable when `immutable` is set"));
        }
        for field in ["data", "binaryData"] {
            if new.get(&[field]) != old.get(&[field]) {
                errors.push(FieldError::forbidden(field, "field is immutable when `immutable` is set"));
            }
        }
    }
}
