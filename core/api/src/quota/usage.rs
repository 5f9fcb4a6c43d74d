//! How much one object uses.

use serde_json::Value;

use super::count_name;
use crate::kinds::GroupResource;
use crate::object::Object;
use crate::quantity::Amount;
use crate::resource_list::{self, ResourceList, containers};

/// Resources that may be limited without a prefix, as requests are.
const PLAIN: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Objects of these are also counted under their plain names.
const COUNTED: [&str; 6] = [
    "configmaps",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];

/// What an object uses, by the names that quotas limit.
pub fn usage(resource: &GroupResource, object: &Object) -> ResourceList {
    let mut list = ResourceList::new();
    list.insert(count_name(resource), Amount::whole(1));
    if resource.group.is_empty() && COUNTED.contains(&resource.resource.as_str()) {
        list.insert(resource.resource.clone(), Amount::whole(1));
    }
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "pods") => pod(object, &mut list),
        ("", "services") => service(object, &mut list),
        ("", "persistentvolumeclaims") => claim(object, &mut list),
        ("resource.k8s.io", "resourceclaims") => devices(object, &mut list),
        _ => {}
    }
    list
}

/// Resources that a quota limits and that an object has to state, but does not; for pods, by container.
pub fn missing(resource: &GroupResource, object: &Object, hard: &ResourceList) -> Vec<String> {
    if !(resource.group.is_empty() && resource.resource == "pods") {
        return Vec::new();
    }
    let of_pod = |name: &str| states(object.get(&["spec", "resources"]), name);
    let required = |name: &&String| {
        PLAIN.iter().any(|plain| {
            name.as_str() == *plain
                || *name == &format!("requests.{plain}")
                || *name == &format!("limits.{plain}")
        })
    };
    let all = || containers(object, "containers").chain(containers(object, "initContainers"));
    let mut texts: Vec<(String, Vec<String>)> = Vec::new();
    for name in hard.keys().filter(required) {
        let silent: Vec<&str> = all()
            .filter(|container| !of_pod(name) && !states(container.get("resources"), name))
            .filter_map(|container| container.get("name")?.as_str())
            .collect();
        if !silent.is_empty() {
            let mut names: Vec<String> = silent.into_iter().map(str::to_owned).collect();
            names.sort();
            texts.push((name.clone(), names));
        }
    }
    texts.into_iter().map(|(name, who)| format!("{name} for: {}", who.join(","))).collect()
}

fn states(resources: Option<&Value>, name: &str) -> bool {
    let (which, plain) = match name.split_once('.') {
        Some(("limits", plain)) => ("limits", plain),
        Some(("requests", plain)) => ("requests", plain),
        Some(_) | None => ("requests", name),
    };
    resources.and_then(|it| it.get(which)?.get(plain)).is_some()
}

fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

/// A pod that has ended uses nothing but its own place among the objects.
fn pod(pod: &Object, list: &mut ResourceList) {
    if matches!(pod.get_str(&["status", "phase"]), Some("Succeeded" | "Failed")) {
        return;
    }
    list.insert("pods".to_owned(), Amount::whole(1));
    for (name, amount) in resource_list::of_pod(pod, "requests", true) {
        let huge = name.starts_with("hugepages-");
        if PLAIN.contains(&name.as_str()) || huge {
            list.insert(name.clone(), amount);
        }
        if PLAIN.contains(&name.as_str()) || huge || is_extended(&name) {
            list.insert(format!("requests.{name}"), amount);
        }
    }
    for (name, amount) in resource_list::of_pod(pod, "limits", true) {
        if PLAIN.contains(&name.as_str()) {
            list.insert(format!("limits.{name}"), amount);
        }
    }
}

fn service(service: &Object, list: &mut ResourceList) {
    let ports = service.get(&["spec", "ports"]).and_then(Value::as_array).map_or(0, Vec::len);
    let ports = i64::try_from(ports).unwrap_or(i64::MAX);
    let (mut nodeports, mut balancers) = (0, 0);
    match service.get_str(&["spec", "type"]) {
        Some("NodePort") => nodeports = ports,
        Some("LoadBalancer") => {
            balancers = 1;
            let allocates =
                service.get(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false));
            let all = service.get(&["spec", "ports"]).and_then(Value::as_array).into_iter().flatten();
            let own = all.filter(|port| port["nodePort"].as_i64().is_some_and(|number| number != 0)).count();
            nodeports = if allocates { ports } else { i64::try_from(own).unwrap_or(i64::MAX) };
        }
        Some(_) | None => {}
    }
    list.insert("services.nodeports".to_owned(), Amount::whole(nodeports));
    list.insert("services.loadbalancers".to_owned(), Amount::whole(balancers));
}

fn claim(claim: &Object, list: &mut ResourceList) {
    let older = claim.annotation("volume.beta.kubernetes.io/storage-class");
    let class = older.or_else(|| claim.get_str(&["spec", "storageClassName"])).filter(|it| !it.is_empty());
    let text = |path: &[&str]| claim.get_str(path).and_then(|text| Amount::parse(text).ok());
    // What a volume has been given counts while it is more than what is asked for.
    let asked = text(&["spec", "resources", "requests", "storage"]);
    let given = text(&["status", "allocatedResources", "storage"]);
    let size = match (asked, given) {
        (Some(asked), Some(given)) => Some(asked.max(given)),
        (asked, _) => asked,
    };
    let mut named = vec![];
    named.extend(class.map(|class| format!("{class}.storageclass.storage.k8s.io/")));
    for prefix in &named {
        list.insert(format!("{prefix}persistentvolumeclaims"), Amount::whole(1));
    }
    if let Some(size) = size {
        list.insert("requests.storage".to_owned(), size);
        for prefix in &named {
            list.insert(format!("{prefix}requests.storage"), size);
        }
    }
}

fn devices(claim: &Object, list: &mut ResourceList) {
    let requests =
        claim.get(&["spec", "devices", "requests"]).and_then(Value::as_array).into_iter().flatten();
    for request in requests {
        // Of alternatives the most demanding counts, for each class.
        let alternatives =
            request.get("firstAvailable").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let exact = request.get("exactly").into_iter().chain(alternatives);
        let mut most = ResourceList::new();
        for one in exact {
            let Some(class) = one.get("deviceClassName").and_then(Value::as_str) else { continue };
            // All devices of a pool may be as many as one claim can have.
            let all = one.get("allocationMode").and_then(Value::as_str) == Some("All");
            let count = if all { 32 } else { one.get("count").and_then(Value::as_i64).unwrap_or(1) };
            let name = format!("{class}.deviceclass.resource.k8s.io/devices");
            let known = most.get(&name).copied().unwrap_or_default();
            most.insert(name, known.max(Amount::whole(count)));
        }
        resource_list::add(list, &most);
    }
}
