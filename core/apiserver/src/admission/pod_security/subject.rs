//! What a policy looks at: pods, and the templates of those that make pods.

use keelson_api::resource_list::containers;
use keelson_api::{Object, ResourceInfo};
use serde_json::Value;

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";

/// Where a resource has the template of its pods.
pub(super) fn template_path(resource: &ResourceInfo) -> Option<&'static [&'static str]> {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "podtemplates") => Some(&["template"]),
        ("", "replicationcontrollers") | ("batch", "jobs") => Some(&["spec", "template"]),
        ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets") => {
            Some(&["spec", "template"])
        }
        ("batch", "cronjobs") => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

/// The template of an object's pods.
pub(super) fn template(resource: &ResourceInfo, object: &Object) -> Option<Object> {
    let template = object.get(template_path(resource)?)?.clone();
    Object::from_value(template).ok()
}

/// Whether an update changes what a policy may forbid.
pub(super) fn is_significant(old: &Object, new: &Object) -> bool {
    if old.annotation(SECCOMP_POD) != new.annotation(SECCOMP_POD) {
        return true;
    }
    let seccomp = |pod: &Object, name: &str| {
        let key = format!("container.seccomp.security.alpha.kubernetes.io/{name}");
        pod.annotation(&key).map(str::to_owned)
    };
    let name = |container: &Value| container["name"].as_str().unwrap_or_default().to_owned();
    let differs = |a: &Value, b: &Value| {
        a.get("image") != b.get("image") || seccomp(old, &name(a)) != seccomp(new, &name(b))
    };
    let placed = ["containers", "initContainers"].iter().any(|field| {
        containers(old, field).count() != containers(new, field).count()
            || containers(old, field).zip(containers(new, field)).any(|(old, new)| differs(old, new))
    });
    placed
        || containers(new, "ephemeralContainers").any(|own| {
            let before = containers(old, "ephemeralContainers").find(|it| name(it) == name(own));
            before.is_none_or(|before| differs(before, own))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_looked_at_again_when_what_it_runs_changes() {
        let pod = |image: &str, label: &str, debug: Value| {
            let spec = json!({"containers": [{"name": "c", "image": image}], "ephemeralContainers": debug});
            Object::from_value(json!({"metadata": {"labels": {"a": label}}, "spec": spec})).unwrap()
        };
        let old = pod("x", "1", json!([]));
        assert!(!is_significant(&old, &pod("x", "2", json!([]))));
        assert!(is_significant(&old, &pod("y", "1", json!([]))));
        assert!(is_significant(&old, &pod("x", "1", json!([{"name": "d", "image": "z"}]))));
    }
}
