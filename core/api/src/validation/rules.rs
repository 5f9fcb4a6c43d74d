//! Which rules a kind has for its own fields.

use super::at::At;
use super::{FieldError, config, pod, rbac, service, storage, workload};
use crate::kinds::GroupVersionKind;
use crate::object::Object;

/// The rules that every state of an object follows.
pub(super) fn state(gvk: &GroupVersionKind, object: &Object, is_new: bool, errors: &mut Vec<FieldError>) {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => pod::pod(object, errors),
        ("", "Service") => service::service(object, errors),
        ("", "ConfigMap") => config::config_map(object, errors),
        ("", "Secret") => config::secret(object, errors),
        ("", "PersistentVolumeClaim") => storage::claim(object, errors),
        ("", "PersistentVolume") => storage::volume(object, errors),
        ("storage.k8s.io", "StorageClass") => storage::class(object, errors),
        ("apps", kind) => workload::workload(kind, object, errors),
        ("batch", "Job") => workload::job(&At::of(object, "spec"), is_new, errors),
        ("batch", "CronJob") => workload::cron_job(object, errors),
        ("policy", "PodDisruptionBudget") => workload::disruption_budget(object, errors),
        ("rbac.authorization.k8s.io", kind @ ("Role" | "ClusterRole")) => {
            rbac::role(object, kind == "Role", errors);
        }
        ("rbac.authorization.k8s.io", kind @ ("RoleBinding" | "ClusterRoleBinding")) => {
            rbac::binding(object, kind == "RoleBinding", errors);
        }
        _ => {}
    }
}

/// The rules of a change through the object itself. What did not change is not judged again.
pub(super) fn change(gvk: &GroupVersionKind, new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let same = |field: &str| new.0.get(field) == old.0.get(field);
    if ["spec", "data", "binaryData", "rules", "roleRef", "subjects"].into_iter().all(same) {
        return;
    }
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => pod::update::pod(new, old, errors),
        ("", "Service") => service::update(new, old, errors),
        _ => {}
    }
    state(gvk, new, false, errors);
}
