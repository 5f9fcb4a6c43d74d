//! What an update of a Service keeps of what was given to it, and what it gives back with its type.

use std::collections::{HashMap, HashSet};

use keelson_api::Object;
use serde_json::Value;

fn kind(service: &Object) -> &str {
    service.get_str(&["spec", "type"]).unwrap_or("ClusterIP")
}

fn needs_address(service: &Object) -> bool {
    kind(service) != "ExternalName"
}

fn needs_node_ports(service: &Object) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => {
            service.get(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false))
        }
        _ => false,
    }
}

fn node_ports(service: &Object) -> HashSet<i64> {
    let ports = service.get(&["spec", "ports"]).and_then(Value::as_array).into_iter().flatten();
    ports.filter_map(|port| port.get("nodePort")?.as_i64()).filter(|port| *port != 0).collect()
}

/// Fields that are unset or as they were, so that their writer did not choose them.
fn inherited(new: &Object, old: &Object, path: &[&str]) -> bool {
    new.get(path).is_none_or(|value| value.is_null() || value == "" || Some(value) == old.get(path))
}

/// Fills in what the writer left out, and takes out what the new type does not have.
pub(super) fn before_update(new: &mut Object, old: &Object) {
    if needs_address(old) && needs_address(new) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let path = ["spec", field];
            if new.get(&path).is_none_or(|value| value.is_null() || value == "")
                && let Some(value) = old.get(&path)
            {
                new.set(&path, value.clone());
            }
        }
    }
    if needs_address(old) && !needs_address(new) && inherited(new, old, &["spec", "clusterIP"]) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            new.remove(&["spec", field]);
        }
    }
    if needs_node_ports(old) && needs_node_ports(new) {
        keep_node_ports(new, old);
    }
    if needs_node_ports(old) && !needs_node_ports(new) {
        let (before, now) = (node_ports(old), node_ports(new));
        if now.is_subset(&before)
            && let Some(Value::Array(mut ports)) = new.remove(&["spec", "ports"])
        {
            for port in ports.iter_mut().filter_map(Value::as_object_mut) {
                port.remove("nodePort");
            }
            new.set(&["spec", "ports"], ports.into());
        }
    }
    let outside = |service: &Object| matches!(kind(service), "NodePort" | "LoadBalancer");
    if outside(old) && !outside(new) && inherited(new, old, &["spec", "externalTrafficPolicy"]) {
        new.remove(&["spec", "externalTrafficPolicy"]);
    }
    let balanced = |service: &Object| kind(service) == "LoadBalancer";
    if balanced(old) && !balanced(new) {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort"] {
            if inherited(new, old, &["spec", field]) {
                new.remove(&["spec", field]);
            }
        }
        new.remove(&["status", "loadBalancer"]);
    }
}

/// A port keeps its node port by its name, unless another port has taken it.
fn keep_node_ports(new: &mut Object, old: &Object) {
    let mut used: HashSet<i64> = node_ports(old).intersection(&node_ports(new)).copied().collect();
    let name = |port: &Value| port.get("name").and_then(Value::as_str).unwrap_or("").to_owned();
    let known: HashMap<String, i64> = old
        .get(&["spec", "ports"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|port| Some((name(port), port.get("nodePort")?.as_i64()?)))
        .collect();
    let Some(Value::Array(mut ports)) = new.remove(&["spec", "ports"]) else { return };
    for port in &mut ports {
        let unset = port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) == 0;
        if unset
            && let Some(number) = known.get(&name(port))
            && used.insert(*number)
        {
            port["nodePort"] = (*number).into();
        }
    }
    new.set(&["spec", "ports"], ports.into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(spec: Value) -> Object {
        Object::from_value(json!({"spec": spec})).unwrap()
    }

    #[test]
    fn a_service_that_becomes_internal_gives_its_node_ports_back() {
        let old =
            service(json!({"type": "NodePort", "clusterIP": "10.96.0.5", "externalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "nodePort": 30001}]}));
        let mut new = old.clone();
        new.set(&["spec", "type"], "ClusterIP".into());
        before_update(&mut new, &old);
        assert_eq!(
            new,
            service(json!({"type": "ClusterIP", "clusterIP": "10.96.0.5", "ports": [{"port": 80}]}))
        );
    }

    #[test]
    fn what_a_writer_leaves_out_stays() {
        let old = service(json!({"type": "NodePort", "clusterIP": "10.96.0.5",
            "ports": [{"name": "a", "port": 80, "nodePort": 30001}]}));
        let mut new = service(
            json!({"type": "NodePort", "ports": [{"name": "a", "port": 81}, {"name": "b", "port": 82}]}),
        );
        before_update(&mut new, &old);
        assert_eq!(new.get_str(&["spec", "clusterIP"]), Some("10.96.0.5"));
        let ports = new.get(&["spec", "ports"]).unwrap();
        assert_eq!((&ports[0]["nodePort"], &ports[1]["nodePort"]), (&json!(30001), &Value::Null));
    }
}
