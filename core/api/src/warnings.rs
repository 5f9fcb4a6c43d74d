//! What is accepted, and still worth a word to its writer: deprecated fields, and what does not do what it seems to.

use std::collections::HashMap;

use serde_json::Value;

use crate::custom_resource;
use crate::kinds::{GroupVersionKind, ResourceInfo};
use crate::object::Object;
use crate::quantity::Quantity;
use crate::validation;

const SELECTORS: [(&str, &str, &str); 5] = [
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];
const ANNOTATIONS: [(&str, &str); 2] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];
const VOLUMES: [(&str, &str); 8] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
];

/// The warning about every use of a built-in resource whose version is deprecated.
pub fn deprecated(resource: &ResourceInfo) -> Option<&'static str> {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        ("", "endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        }
        _ => None,
    }
}

/// The warnings about a write; nothing where what it says of itself did not change.
pub fn of(gvk: &GroupVersionKind, new: &Object, old: Option<&Object>) -> Vec<String> {
    let mut found = Vec::new();
    if old.is_some_and(|old| old.get(&["spec"]) == new.get(&["spec"])) {
        return found;
    }
    if custom_resource::is_definition(gvk) {
        return custom_resource::formats::warnings(new, old);
    }
    let place: &[&str] = match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => &[],
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet")
        | ("batch", "Job")
        | ("", "ReplicationController") => &["spec", "template"],
        ("batch", "CronJob") => &["spec", "jobTemplate", "spec", "template"],
        ("", "PodTemplate") => &["template"],
        _ => return found,
    };
    let nothing = Value::Null;
    let part = |field: &str| {
        let path: Vec<&str> = place.iter().copied().chain([field]).collect();
        new.get(&path).unwrap_or(&nothing)
    };
    let path = place.iter().fold(String::new(), |path, part| path + part + ".");
    annotations(part("metadata"), &path, &mut found);
    spec(part("spec"), &format!("{path}spec"), &mut found);
    found
}

fn items(value: &Value) -> impl Iterator<Item = (usize, &Value)> {
    value.as_array().into_iter().flatten().enumerate()
}

fn annotations(metadata: &Value, path: &str, found: &mut Vec<String>) {
    for (key, why) in ANNOTATIONS {
        if metadata["annotations"].get(key).is_some() {
            found.push(format!("{path}metadata.annotations[{key}]: {why}"));
        }
    }
}

fn spec(spec: &Value, path: &str, found: &mut Vec<String>) {
    for (key, since, instead) in SELECTORS {
        if spec["nodeSelector"].get(key).is_some() {
            found.push(format!(
                "{path}.nodeSelector[{key}]: deprecated since {since}; use {instead:?} instead"
            ));
        }
    }
    for (place, alias) in items(&spec["hostAliases"]) {
        let same = items(&spec["hostAliases"]).take(place).any(|(_, earlier)| earlier["ip"] == alias["ip"]);
        if same {
            let ip = alias["ip"].as_str().unwrap_or_default();
            found.push(format!("{path}.hostAliases[{place}].ip: duplicates {ip:?}"));
        }
    }
    for (place, secret) in items(&spec["imagePullSecrets"]) {
        let name = secret["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            found.push(format!("{path}.imagePullSecrets[{place}].name: invalid empty name {name:?}"));
        } else if items(&spec["imagePullSecrets"]).take(place).any(|(_, earlier)| earlier["name"] == name) {
            found.push(format!("{path}.imagePullSecrets[{place}].name: duplicate name {name:?}"));
        }
    }
    for (place, volume) in items(&spec["volumes"]) {
        for (source, why) in VOLUMES {
            if !volume[source].is_null() {
                found.push(format!("{path}.volumes[{place}].{source}: {why}"));
            }
        }
        for (source, instead) in validation::REFUSED_VOLUMES {
            if path != "spec" && !volume[source].is_null() {
                found.push(format!(
                    "{path}.volumes[{place}].{source}: its pods will be refused, volumes of type {source} are not supported; use {instead}"
                ));
            }
        }
    }
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        found.push(format!(
            "{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    for list in ["initContainers", "containers"] {
        for (place, it) in items(&spec[list]) {
            container(it, &format!("{path}.{list}[{place}]"), found);
        }
    }
}

fn container(it: &Value, path: &str, found: &mut Vec<String>) {
    for kind in ["limits", "requests"] {
        for name in ["memory", "ephemeral-storage"] {
            let Some(text) = it["resources"][kind][name].as_str() else { continue };
            if Quantity::parse(text).is_ok_and(|amount| amount.milli_value() % 1000 != 0) {
                found.push(format!(
                    "{path}.resources.{kind}[{name}]: fractional byte value {text:?} is invalid, must be an integer"
                ));
            }
        }
    }
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (place, variable) in items(&it["env"]) {
        let Some(name) = variable["name"].as_str() else { continue };
        // A variable that is built from the earlier one of its name does not hide it.
        let builds = variable["value"].as_str().is_some_and(|text| text.contains(&format!("$({name})")));
        if names.insert(name, place).is_some() && !builds {
            found.push(format!(
                "{path}.env[{place}]: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
    for (place, port) in items(&it["ports"]) {
        let key = |port: &Value| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            (protocol, port["containerPort"].clone(), port["hostPort"].clone(), port["hostIP"].clone())
        };
        if let Some((earlier, _)) =
            items(&it["ports"]).take(place).find(|(_, earlier)| key(earlier) == key(port))
        {
            found.push(format!(
                "{path}.ports[{place}]: duplicate port definition with {path}.ports[{earlier}]"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_writer_is_told_what_is_deprecated_and_what_is_hidden() {
        let pod = Object::from_value(json!({"apiVersion": "v1", "kind": "Pod", "spec": {
            "nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "containers": [{"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
                "resources": {"limits": {"memory": "1500m"}}}],
        }}))
        .unwrap();
        assert_eq!(
            of(&pod.gvk(), &pod, None),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            ]
        );
        assert!(of(&pod.gvk(), &pod, Some(&pod)).is_empty());
    }
}
