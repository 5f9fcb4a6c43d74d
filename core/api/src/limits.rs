//! What a `LimitRange` sets and refuses.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::object::{Object, child_map};
use crate::quantity::{Amount, Quantity};
use crate::resource_list::{self, ResourceList, containers};

/// The annotation that tells which amounts were set.
pub const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// One entry of `spec.limits`.
#[derive(Clone, Debug, Default)]
pub struct LimitItem {
    kind: String,
    min: ResourceList,
    max: ResourceList,
    default: ResourceList,
    default_request: ResourceList,
    ratio: ResourceList,
}

/// The entries of a LimitRange.
pub fn items(range: &Object) -> Vec<LimitItem> {
    let items = range.get(&["spec", "limits"]).and_then(Value::as_array).into_iter().flatten();
    let read = |item: &Value, field: &str| resource_list::read(item.get(field));
    items
        .map(|item| LimitItem {
            kind: item["type"].as_str().unwrap_or_default().to_owned(),
            min: read(item, "min"),
            max: read(item, "max"),
            default: read(item, "default"),
            default_request: read(item, "defaultRequest"),
            ratio: read(item, "maxLimitRequestRatio"),
        })
        .collect()
}

/// Gives the containers of a pod the amounts that they do not say, and notes it in [`ANNOTATION`].
pub fn fill_in(pod: &mut Object, items: &[LimitItem]) {
    let (mut limits, mut requests) = (ResourceList::new(), ResourceList::new());
    for item in items.iter().filter(|item| item.kind == "Container") {
        limits.extend(item.default.clone());
        requests.extend(item.default_request.clone());
    }
    if limits.is_empty() && requests.is_empty() {
        return;
    }
    let mut notes = Vec::new();
    for (field, what) in [("containers", "container"), ("initContainers", "init container")] {
        let Some(Value::Array(list)) = child_map(&mut pod.0, "spec").get_mut(field) else { continue };
        for container in list.iter_mut().filter_map(Value::as_object_mut) {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            let resources = child_map(container, "resources");
            for (field, word, defaults) in [("requests", "request", &requests), ("limits", "limit", &limits)]
            {
                let set = complete(resources, field, defaults);
                if !set.is_empty() {
                    notes.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        pod.set_annotation(ANNOTATION, &format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
}

/// Sets what is missing; the names of it.
fn complete(resources: &mut Map<String, Value>, field: &str, defaults: &ResourceList) -> Vec<String> {
    if defaults.is_empty() {
        return Vec::new();
    }
    let own = child_map(resources, field);
    let mut set = Vec::new();
    for (name, amount) in defaults {
        if !own.contains_key(name) {
            own.insert(name.clone(), amount.to_string().into());
            set.push(name.clone());
        }
    }
    set
}

/// What is wrong with a pod.
pub fn pod_faults(pod: &Object, items: &[LimitItem]) -> Vec<String> {
    let mut faults = Vec::new();
    for item in items {
        match item.kind.as_str() {
            "Container" => {
                for container in containers(pod, "containers").chain(containers(pod, "initContainers")) {
                    let own = |which: &str| {
                        resource_list::read(container.get("resources").and_then(|it| it.get(which)))
                    };
                    check(item, &own("requests"), &own("limits"), &mut faults);
                }
            }
            "Pod" => {
                let own = |which: &str| resource_list::of_pod(pod, which, false);
                check(item, &own("requests"), &own("limits"), &mut faults);
            }
            _ => {}
        }
    }
    faults
}

/// What is wrong with a claim.
pub fn claim_faults(claim: &Object, items: &[LimitItem]) -> Vec<String> {
    let requests = resource_list::read(claim.get(&["spec", "resources", "requests"]));
    let mut faults = Vec::new();
    for item in items.iter().filter(|item| item.kind == "PersistentVolumeClaim") {
        for (name, least) in &item.min {
            faults.extend(too_little(&item.kind, name, *least, &requests, &BTreeMap::new()));
        }
        for (name, most) in &item.max {
            let head = format!("maximum {name} usage per {} is {most}", item.kind);
            match requests.get(name) {
                None => faults.push(format!("{head}.  No request is specified")),
                Some(asked) if asked > most => faults.push(format!("{head}, but request is {asked}")),
                Some(_) => {}
            }
        }
    }
    faults
}

fn check(item: &LimitItem, requests: &ResourceList, limits: &ResourceList, faults: &mut Vec<String>) {
    for (name, least) in &item.min {
        faults.extend(too_little(&item.kind, name, *least, requests, limits));
    }
    for (name, most) in &item.max {
        faults.extend(too_much(&item.kind, name, *most, requests, limits));
    }
    for (name, most) in &item.ratio {
        faults.extend(too_wide(&item.kind, name, *most, requests, limits));
    }
}

fn too_little(
    kind: &str,
    name: &str,
    least: Amount,
    requests: &ResourceList,
    limits: &ResourceList,
) -> Option<String> {
    let head = format!("minimum {name} usage per {kind} is {least}");
    match (requests.get(name), limits.get(name)) {
        (None, _) => Some(format!("{head}.  No request is specified")),
        (Some(request), _) if *request < least => Some(format!("{head}, but request is {request}")),
        (_, Some(limit)) if *limit < least => Some(format!("{head}, but limit is {limit}")),
        (Some(_), _) => None,
    }
}

fn too_much(
    kind: &str,
    name: &str,
    most: Amount,
    requests: &ResourceList,
    limits: &ResourceList,
) -> Option<String> {
    let head = format!("maximum {name} usage per {kind} is {most}");
    match (requests.get(name), limits.get(name)) {
        (_, None) => Some(format!("{head}.  No limit is specified")),
        (_, Some(limit)) if *limit > most => Some(format!("{head}, but limit is {limit}")),
        (Some(request), _) if *request > most => Some(format!("{head}, but request is {request}")),
        (_, Some(_)) => None,
    }
}

fn too_wide(
    kind: &str,
    name: &str,
    most: Amount,
    requests: &ResourceList,
    limits: &ResourceList,
) -> Option<String> {
    let head = format!("{name} max limit to request ratio per {kind} is {most}");
    let given =
        |list: &ResourceList| list.get(name).map(|it| it.quantity()).filter(|it| *it != Quantity::ZERO);
    let Some(request) = given(requests) else {
        return Some(format!("{head}, but no request is specified or request is 0"));
    };
    let Some(limit) = given(limits) else {
        return Some(format!("{head}, but no limit is specified or limit is 0"));
    };
    #[allow(clippy::cast_precision_loss)]
    let number = |quantity: Quantity| quantity.milli_value() as f64;
    let ratio = number(limit) / number(request);
    (ratio > number(most.quantity()) / 1000.0).then(|| format!("{head}, but provided ratio is {ratio:.6}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn range(limits: Value) -> Vec<LimitItem> {
        items(&Object::from_value(json!({"spec": {"limits": limits}})).unwrap())
    }

    fn pod(resources: Value) -> Object {
        Object::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}}))
            .unwrap()
    }

    #[test]
    fn what_is_set_is_noted() {
        let items = range(json!([{"type": "Container", "default": {"cpu": "1", "memory": "1Gi"},
            "defaultRequest": {"cpu": "500m", "memory": "512Mi"}}]));
        let mut pod = pod(json!({"limits": {"cpu": "2"}}));
        fill_in(&mut pod, &items);
        let resources = pod.get(&["spec", "containers"]).unwrap()[0]["resources"].clone();
        let expected =
            json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "512Mi"}});
        assert_eq!(resources, expected);
        assert_eq!(
            pod.annotation(ANNOTATION),
            Some("LimitRanger plugin set: cpu, memory request for container c; memory limit for container c")
        );
    }

    #[test]
    fn each_bound_has_its_own_words() {
        let table = [
            (
                json!({"min": {"cpu": "100m"}}),
                json!({}),
                "minimum cpu usage per Container is 100m.  No request is specified",
            ),
            (
                json!({"min": {"cpu": "100m"}}),
                json!({"requests": {"cpu": "50m"}}),
                "minimum cpu usage per Container is 100m, but request is 50m",
            ),
            (
                json!({"max": {"memory": "1Gi"}}),
                json!({"limits": {"memory": "2Gi"}}),
                "maximum memory usage per Container is 1Gi, but limit is 2Gi",
            ),
            (
                json!({"max": {"cpu": "1"}}),
                json!({}),
                "maximum cpu usage per Container is 1.  No limit is specified",
            ),
            (
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "250m"}}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 2.500000",
            ),
        ];
        for (mut limit, resources, text) in table {
            limit["type"] = "Container".into();
            assert_eq!(pod_faults(&pod(resources), &range(json!([limit]))), [text]);
        }
        let right = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}});
        let limit = json!([{"type": "Pod", "min": {"cpu": "100m"}, "max": {"cpu": "200m"}, "maxLimitRequestRatio": {"cpu": "2"}}]);
        assert!(pod_faults(&pod(right), &range(limit)).is_empty());
    }

    #[test]
    fn a_claim_is_neither_too_small_nor_too_large() {
        let items = range(
            json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "5Gi"}}]),
        );
        let claim = |size: &str| {
            Object::from_value(json!({"spec": {"resources": {"requests": {"storage": size}}}})).unwrap()
        };
        assert_eq!(
            claim_faults(&claim("6Gi"), &items),
            ["maximum storage usage per PersistentVolumeClaim is 5Gi, but request is 6Gi"]
        );
        assert!(claim_faults(&claim("1Gi"), &items).is_empty());
    }
}
