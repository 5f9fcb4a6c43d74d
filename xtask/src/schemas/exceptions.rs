//! What the sources do not say: list keys that differ from merge keys, atomic structs, retained keys.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::source::{Strategy, camel};

/// Keys of apply where they differ from the merge key: (type's last name, field, keys).
const LIST_KEYS: &[(&str, &str, &[&str])] = &[
    ("Container", "ports", &["containerPort", "protocol"]),
    ("EphemeralContainer", "ports", &["containerPort", "protocol"]),
    ("ServiceSpec", "ports", &["port", "protocol"]),
    ("PodSpec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
];

/// Lists that a strategic merge patch merges, but apply replaces.
const PATCH_ONLY: &[(&str, &str)] = &[("PodStatus", "hostIPs"), ("JobStatus", "conditions")];

/// Lists that are replaced as a whole by every patch.
const ATOMIC_LISTS: &[(&str, &str)] = &[("StatefulSetSpec", "volumeClaimTemplates")];

/// Lists that a strategic merge patch replaces although apply merges them.
const APPLY_ONLY: &[(&str, &str)] = &[
    ("NodeStatus", "declaredFeatures"),
    ("ClusterRole", "rules"),
    ("CSIDriverSpec", "volumeLifecycleModes"),
    ("HorizontalPodAutoscalerStatus", "nothing"),
];

const ATOMIC_TYPES: &[&str] = &[
    "ObjectReference",
    "LocalObjectReference",
    "TypedLocalObjectReference",
    "TypedObjectReference",
    "SecretReference",
    "ConfigMapKeySelector",
    "SecretKeySelector",
    "ObjectFieldSelector",
    "ResourceFieldSelector",
    "LabelSelector",
    "NodeSelector",
    "NodeSelectorTerm",
    "ScopeSelector",
    "TopologySelectorTerm",
    "OwnerReference",
    "FileKeySelector",
    "EndpointAddress",
    "EndpointPort",
    "RoleRef",
    "Subject",
    "CrossVersionObjectReference",
    "IngressClassParametersReference",
    "StorageOSVolumeSource",
    "ParamRef",
    "ParamKind",
    "MatchResources",
    "NamedRuleWithOperations",
];

const ATOMIC_MAPS: &[(&str, &str)] = &[
    ("ReplicationControllerSpec", "selector"),
    ("ServiceSpec", "selector"),
    ("PodSpec", "nodeSelector"),
    ("CSIPersistentVolumeSource", "nothing"),
];

const RETAIN_KEYS: &[(&str, &str)] = &[("DeploymentSpec", "strategy"), ("PodSpec", "volumes")];

pub(crate) fn annotate(name: &str, schema: &mut Value, strategies: &BTreeMap<String, Strategy>) {
    let last = name.rsplit('.').next().unwrap_or("");
    if ATOMIC_TYPES.contains(&last) && !(name.contains("admissionregistration") && last == "Subject") {
        schema["x-kubernetes-map-type"] = json!("atomic");
    }
    if matches!(last, "RawExtension" | "JSON" | "FieldsV1") {
        schema["x-kubernetes-preserve-unknown-fields"] = json!(true);
    }
    let is = |table: &[(&str, &str)], field: &str| table.contains(&(last, field));
    for (field, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten()
    {
        if is(ATOMIC_MAPS, field) {
            property["x-kubernetes-map-type"] = json!("atomic");
        }
        if is(RETAIN_KEYS, field) && property.get("items").is_none() {
            property["x-kubernetes-patch-strategy"] = json!("retainKeys");
        }
        let strategy = strategies.iter().find(|(rust, _)| camel(rust).eq_ignore_ascii_case(field));
        match strategy.map(|(_, strategy)| strategy) {
            Some(Strategy::List(_)) if is(ATOMIC_LISTS, field) => {
                property["x-kubernetes-list-type"] = json!("atomic");
            }
            Some(Strategy::List(keys)) => {
                let own = LIST_KEYS.iter().find(|(of, list, _)| *of == last && list == field);
                let list_keys = own.map_or_else(|| json!(keys), |(_, _, keys)| json!(keys));
                if is(PATCH_ONLY, field) {
                    property["x-kubernetes-list-type"] = json!("atomic");
                } else {
                    property["x-kubernetes-list-type"] = json!("map");
                    property["x-kubernetes-list-map-keys"] = list_keys;
                }
                if let ([key], false) = (keys.as_slice(), is(APPLY_ONLY, field)) {
                    let retain = if is(RETAIN_KEYS, field) { "merge,retainKeys" } else { "merge" };
                    property["x-kubernetes-patch-strategy"] = json!(retain);
                    property["x-kubernetes-patch-merge-key"] = json!(key);
                }
            }
            Some(Strategy::Set) => {
                property["x-kubernetes-list-type"] = json!("set");
                if (last, field.as_str()) == ("ObjectMeta", "finalizers")
                    || (last, field.as_str()) == ("NodeSpec", "podCIDRs")
                {
                    property["x-kubernetes-patch-strategy"] = json!("merge");
                }
            }
            Some(Strategy::AtomicMap) => property["x-kubernetes-map-type"] = json!("atomic"),
            None if property.get("items").is_some() => property["x-kubernetes-list-type"] = json!("atomic"),
            None => {}
        }
    }
}
