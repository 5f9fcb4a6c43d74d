//! Services.

use std::collections::HashSet;

use serde_json::Value;

use super::FieldError;
use super::at::At;
use super::selector::labels;
use crate::names;
use crate::object::Object;

const ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

pub(super) fn service(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    let kind = spec.field("type");
    kind.one_of(&["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], errors);
    let headless = spec.field("clusterIP").text() == "None";
    let ports = spec.field("ports");
    if ports.is_empty() && !headless && kind.text() != "ExternalName" {
        errors.push(ports.required(""));
    }
    match kind.text() {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {} services", kind.text());
            errors.push(FieldError::invalid("spec.clusterIPs[0]", "None", detail));
        }
        "ExternalName" => external_name(&spec, errors),
        _ => {}
    }
    self::ports(&ports, errors);
    labels(&spec.field("selector"), errors);
    affinity(&spec, errors);
    for address in spec.field("externalIPs").items() {
        if address.text().parse::<std::net::IpAddr>().is_err() {
            errors.push(address.invalid(ADDRESS));
        }
    }
    policies(&spec, errors);
}

fn external_name(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    if !spec.field("clusterIP").is_empty() {
        errors.push(FieldError::forbidden("spec.clusterIPs[0]", "may not be set for ExternalName services"));
    }
    let name = spec.field("externalName");
    let text = name.text().strip_suffix('.').unwrap_or(name.text());
    if text.is_empty() {
        errors.push(name.required(""));
    } else {
        name.invalid_for(names::dns1123_subdomain(text), errors);
    }
}

fn ports(list: &At<'_>, errors: &mut Vec<FieldError>) {
    let needs_names = list.items().count() > 1;
    let (mut seen_names, mut seen, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for port in list.items() {
        let name = port.field("name");
        if name.is_empty() {
            if needs_names {
                errors.push(name.required(""));
            }
        } else {
            name.invalid_for(names::dns1123_label(name.text()), errors);
            if !seen_names.insert(name.text()) {
                errors.push(name.duplicate());
            }
        }
        port.field("port").port_number(errors);
        port.field("protocol").one_of(&["SCTP", "TCP", "UDP"], errors);
        let target = port.field("targetPort");
        target.port(errors);
        let protocol = port.field("protocol").text();
        if !seen.insert((protocol, port.field("port").number())) {
            let value = serde_json::json!({"port": port.field("port").value, "protocol": protocol});
            errors.push(FieldError::duplicate(port.path.as_str(), value));
        }
        let node = port.field("nodePort");
        if let Some(number) = node.number().filter(|number| *number != 0)
            && !node_ports.insert((protocol, number))
        {
            errors.push(node.duplicate());
        }
    }
}

fn affinity(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let affinity = spec.field("sessionAffinity");
    affinity.one_of(&["ClientIP", "None"], errors);
    let config = spec.field("sessionAffinityConfig");
    let seconds = config.field("clientIP").field("timeoutSeconds");
    if affinity.text() == "None" && config.is_set() {
        errors.push(config.forbidden("must not be set when session affinity is None"));
    } else if seconds.number().is_some_and(|seconds| !(1..=86400).contains(&seconds)) {
        errors.push(seconds.invalid("must be greater than 0 and less than 86400"));
    }
}

fn policies(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let outside = matches!(spec.field("type").text(), "NodePort" | "LoadBalancer");
    let external = spec.field("externalTrafficPolicy");
    if outside {
        external.one_of(&["Cluster", "Local"], errors);
    } else if !external.is_empty() && spec.field("externalIPs").is_empty() {
        errors.push(external.invalid("may only be set for externally-accessible services"));
    }
    let internal = spec.field("internalTrafficPolicy");
    if !internal.is_empty() {
        internal.one_of(&["Cluster", "Local"], errors);
    }
    let (class, allocate) = (spec.field("loadBalancerClass"), spec.field("allocateLoadBalancerNodePorts"));
    if spec.field("type").text() != "LoadBalancer" {
        if class.is_set() {
            errors.push(class.forbidden("may only be used when `type` is 'LoadBalancer'"));
        }
        if allocate.is_set() {
            errors.push(allocate.forbidden("may only be used when `type` is 'LoadBalancer'"));
        }
    }
    if !outside {
        for node in spec.field("ports").items().map(|port| port.field("nodePort")) {
            if node.number().unwrap_or(0) != 0 {
                let detail = format!("may not be used when `type` is '{}'", spec.field("type").text());
                errors.push(node.forbidden(detail));
            }
        }
    }
}

/// The address of a Service stays as long as it has one.
pub(super) fn update(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let external = |object: &Object| object.get_str(&["spec", "type"]) == Some("ExternalName");
    if external(new) || external(old) {
        return;
    }
    let address = |object: &Object| object.get_str(&["spec", "clusterIP"]).unwrap_or("").to_owned();
    let (before, after) = (address(old), address(new));
    if !before.is_empty() && before != after {
        let value = new.get(&["spec", "clusterIPs"]).cloned().unwrap_or_else(|| Value::from(vec![after]));
        errors.push(FieldError::invalid("spec.clusterIPs[0]", value, "may not change once set"));
    }
    let (new, old) = (At::of(new, "spec"), At::of(old, "spec"));
    let (class, before) = (new.field("loadBalancerClass"), old.field("loadBalancerClass"));
    let balanced = |spec: &At<'_>| spec.field("type").text() == "LoadBalancer";
    if balanced(&new) && balanced(&old) && class.value != before.value {
        errors.push(class.invalid("may not change once set"));
    }
}
