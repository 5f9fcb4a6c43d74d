//! Services.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::FieldError;
use super::at::At;
use super::selector::labels;
use crate::names;
use crate::object::Object;

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const NO_CHANGE: &str = "may not change once set";
const BALANCED_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";

fn is_headless(spec: &At<'_>) -> bool {
    spec.field("clusterIP").text() == "None"
}

fn has_address(spec: &At<'_>) -> bool {
    spec.field("type").text() != "ExternalName"
}

pub(super) fn service(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    let kind = spec.field("type");
    kind.one_of(&["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], errors);
    let ports = spec.field("ports");
    if ports.is_empty() && !is_headless(&spec) && has_address(&spec) {
        errors.push(ports.required(""));
    }
    match kind.text() {
        "LoadBalancer" | "NodePort" if is_headless(&spec) => {
            let detail = format!("may not be set to 'None' for {} services", kind.text());
            errors.push(FieldError::invalid("spec.clusterIPs[0]", "None", detail));
        }
        "ExternalName" => external_name(&spec, errors),
        _ => {}
    }
    self::ports(&ports, errors);
    labels(&spec.field("selector"), errors);
    affinity(&spec, errors);
    addresses(&spec, errors);
    for address in spec.field("externalIPs").items() {
        ordinary(&address, errors);
    }
    sources(object, &spec, errors);
    policies(&spec, errors);
    let hints = ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];
    if let (Some(old), Some(mode)) = (object.annotation(hints[0]), object.annotation(hints[1]))
        && old != mode
    {
        let detail = format!("must match annotations[{}] when both are specified", hints[0]);
        errors.push(FieldError::invalid(format!("metadata.annotations[{}]", hints[1]), mode, detail));
    }
}

/// An address of the network, not one of the host's own kinds.
pub(super) fn ordinary(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let Ok(address) = at.text().parse::<IpAddr>() else {
        at.address(errors);
        return;
    };
    let (link_local, local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    let found = [
        (address.is_unspecified(), format!("may not be unspecified ({})", at.text())),
        (address.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (
            local_multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
        ),
    ];
    errors.extend(found.into_iter().filter(|(bad, _)| *bad).map(|(_, detail)| at.invalid(detail)));
}

fn external_name(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    const DETAIL: &str = "may not be set for ExternalName services";
    if !spec.field("clusterIP").is_empty() || !spec.field("clusterIPs").is_empty() {
        errors.push(FieldError::forbidden("spec.clusterIPs", DETAIL));
    }
    for field in ["ipFamilies", "ipFamilyPolicy"].map(|field| spec.field(field)) {
        if !field.is_empty() {
            errors.push(field.forbidden(DETAIL));
        }
    }
    let name = spec.field("externalName");
    let text = name.text().strip_suffix('.').unwrap_or(name.text());
    if text.is_empty() {
        errors.push(name.required(""));
    } else {
        let faults = names::dns1123_subdomain(text).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(name.path.as_str(), text, fault)));
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
        port.field("targetPort").port(errors);
        let application = port.field("appProtocol");
        if application.is_set() {
            application.invalid_for(names::qualified_name(application.text()), errors);
        }
        let protocol = port.field("protocol").text();
        if !seen.insert((protocol, port.field("port").number())) {
            let value = json!({
                "name": "", "protocol": protocol, "appProtocol": null, "port": port.field("port").value,
                "targetPort": 0, "nodePort": 0,
            });
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
    const DETAIL: &str = "when session affinity type is ClientIP";
    let affinity = spec.field("sessionAffinity");
    affinity.one_of(&["ClientIP", "None"], errors);
    let config = spec.field("sessionAffinityConfig");
    match affinity.text() {
        "None" if config.is_set() => {
            errors.push(config.forbidden("must not be set when session affinity is None"));
        }
        "ClientIP" => {
            let (client, seconds) =
                (config.field("clientIP"), config.field("clientIP").field("timeoutSeconds"));
            if !config.is_set() {
                errors.push(config.required(DETAIL));
            } else if !client.is_set() {
                errors.push(client.required(DETAIL));
            } else if !seconds.is_set() {
                errors.push(seconds.required(DETAIL));
            } else if seconds.number().is_none_or(|seconds| !(1..=86400).contains(&seconds)) {
                errors.push(seconds.invalid("must be greater than 0 and less than 86400"));
            }
        }
        _ => {}
    }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`, which say one thing together.
fn addresses(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    if !has_address(spec) {
        return;
    }
    let (one, all) = (spec.field("clusterIP"), spec.field("clusterIPs"));
    let (families, policy) = (spec.field("ipFamilies"), spec.field("ipFamilyPolicy"));
    let first = all.items().next();
    match (&first, one.is_empty()) {
        (None, false) => errors.push(all.required("")),
        (Some(first), false) if first.text() != one.text() => {
            errors.push(all.invalid("first value must match `clusterIP`"));
        }
        (Some(_), true) => errors.push(all.invalid("must be empty when `clusterIP` is not specified")),
        (Some(_), false) | (None, true) => {}
    }
    let mut seen = HashSet::new();
    for family in families.items() {
        if !FAMILIES.contains(&family.text()) {
            let value = family.value.clone();
            errors.push(FieldError::not_supported(family.path.as_str(), value, &FAMILIES));
        }
        if !seen.insert(family.text()) {
            errors.push(family.duplicate());
        }
    }
    if policy.is_set() {
        policy.one_of(&["PreferDualStack", "RequireDualStack", "SingleStack"], errors);
    }
    let before = errors.len();
    let count = all.items().count();
    if count > 1 && first.is_some_and(|first| first.text() == "None") {
        errors.push(all.invalid("'None' must be the first and only value"));
    }
    all.items()
        .enumerate()
        .filter(|(place, ip)| *place > 0 || ip.text() != "None")
        .for_each(|(_, ip)| ip.address(errors));
    let is_bad = errors.len() > before;
    if count > 2 {
        errors.push(all.invalid("may only hold up to 2 values"));
    }
    if is_bad {
        return;
    }
    let sixes = all.items().filter(|ip| ip.text().contains(':')).count();
    if count > 1 && (sixes == 0 || sixes == count || count > 2) {
        errors.push(all.invalid("may specify no more than one IP for each IP family"));
    }
    if is_headless(spec) {
        return;
    }
    for (place, (ip, family)) in all.items().zip(families.items()).enumerate() {
        let own = if ip.text().contains(':') { "IPv6" } else { "IPv4" };
        if FAMILIES.contains(&family.text()) && family.text() != own {
            let family = family.text();
            errors.push(
                ip.invalid(format!("expected an {family} value as indicated by `ipFamilies[{place}]`")),
            );
        }
    }
}

fn cidr(at: &At<'_>, text: &str, errors: &mut Vec<FieldError>) {
    let good = text.split_once('/').is_some_and(|(address, bits)| {
        let most = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    if !good {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        errors.push(FieldError::invalid(at.path.as_str(), text, detail));
    }
}

/// From where a load balancer lets in.
fn sources(object: &Object, spec: &At<'_>, errors: &mut Vec<FieldError>) {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let balanced = spec.field("type").text() == "LoadBalancer";
    let list = spec.field("loadBalancerSourceRanges");
    let named = At { path: "spec.LoadBalancerSourceRanges".to_owned(), value: list.value };
    if !named.is_empty() {
        if !balanced {
            errors.push(named.forbidden(BALANCED_ONLY));
        }
        named.items().for_each(|range| cidr(&range, range.text().trim(), errors));
    } else if let Some(text) = object.annotation(ANNOTATION) {
        let at = At { path: format!("metadata.annotations[{ANNOTATION}]"), value: list.value };
        if !balanced {
            errors.push(at.forbidden(BALANCED_ONLY));
        }
        let ranges = text.split(',').map(str::trim);
        ranges.filter(|_| !text.trim().is_empty()).for_each(|range| cidr(&at, range, errors));
    }
}

/// Whether it is reached from outside of the cluster.
fn is_outside(spec: &At<'_>) -> bool {
    match spec.field("type").text() {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !spec.field("externalIPs").is_empty(),
        _ => false,
    }
}

/// Whether a load balancer asks each node for its health.
fn is_asked(spec: &At<'_>) -> bool {
    spec.field("type").text() == "LoadBalancer" && spec.field("externalTrafficPolicy").text() == "Local"
}

fn policies(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let kind = spec.field("type");
    let external = spec.field("externalTrafficPolicy");
    if is_outside(spec) {
        external.one_of(&["Cluster", "Local"], errors);
    } else if !external.is_empty() {
        errors.push(external.invalid("may only be set for externally-accessible services"));
    }
    let health = spec.field("healthCheckNodePort");
    match (is_asked(spec), health.number().unwrap_or(0)) {
        (false, 0) => {}
        (false, _) => {
            errors.push(health.invalid(
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ))
        }
        (true, 0) => errors.push(health.required("")),
        (true, _) => health.port_number(errors),
    }
    let internal = spec.field("internalTrafficPolicy");
    if internal.is_set() || matches!(kind.text(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        internal.one_of(&["Cluster", "Local"], errors);
    }
    let distribution = spec.field("trafficDistribution");
    let known = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    if distribution.is_set() && !known.contains(&distribution.text()) {
        let value = distribution.value.clone();
        errors.push(FieldError::not_supported(distribution.path.as_str(), value, &known));
    }
    let (class, allocate) = (spec.field("loadBalancerClass"), spec.field("allocateLoadBalancerNodePorts"));
    if kind.text() == "LoadBalancer" {
        if class.is_set() {
            class.invalid_for(names::qualified_name(class.text()), errors);
        }
        if !allocate.is_set() {
            errors.push(FieldError::required("allocateLoadBalancerNodePorts", ""));
        }
    } else {
        for at in [class, allocate].iter().filter(|at| at.is_set()) {
            errors.push(at.forbidden(BALANCED_ONLY));
        }
    }
    if kind.text() == "ClusterIP" {
        for node in spec.field("ports").items().map(|port| port.field("nodePort")) {
            if node.number().unwrap_or(0) != 0 {
                errors.push(node.forbidden("may not be used when `type` is 'ClusterIP'"));
            }
        }
    }
}

/// The addresses of a Service and their families stay as long as it has any; a second one may come and go.
pub(super) fn update(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let (new, old) = (At::of(new, "spec"), At::of(old, "spec"));
    if has_address(&new) && has_address(&old) {
        if !(is_headless(&new) && is_headless(&old)) {
            kept(
                &new,
                &old,
                "clusterIPs",
                "primary clusterIP can not be unset",
                "secondary clusterIP",
                errors,
            );
        }
        if !is_headless(&new) && !is_headless(&old) {
            kept(&new, &old, "ipFamilies", "primary ipFamily can not be unset", "secondary ipFamily", errors);
        }
    }
    let (class, before) = (new.field("loadBalancerClass"), old.field("loadBalancerClass"));
    let balanced = |spec: &At<'_>| spec.field("type").text() == "LoadBalancer";
    if balanced(&new) && balanced(&old) && class.value != before.value {
        errors.push(class.invalid(NO_CHANGE));
    }
    let health = new.field("healthCheckNodePort");
    let port = |at: &At<'_>| at.number().unwrap_or(0);
    if is_asked(&new) && is_asked(&old) && port(&health) != port(&old.field("healthCheckNodePort")) {
        errors.push(health.forbidden("field is immutable"));
    }
}

fn kept(new: &At<'_>, old: &At<'_>, field: &str, unset: &str, second: &str, errors: &mut Vec<FieldError>) {
    let (list, before) = (new.field(field), old.field(field));
    let (now, was): (Vec<&Value>, Vec<&Value>) =
        (list.items().map(|it| it.value).collect(), before.items().map(|it| it.value).collect());
    let fault = |place: usize, detail: &str| {
        FieldError::invalid(format!("{}[{place}]", list.path), json!(now), detail)
    };
    if now.is_empty() && !was.is_empty() {
        errors.push(fault(0, unset));
        return;
    }
    let same = now.iter().zip(&was).enumerate();
    let both = if now.len() == was.len() { now.len() } else { 1 };
    errors.extend(
        same.take(both).filter(|(_, (now, was))| now != was).map(|(place, _)| fault(place, NO_CHANGE)),
    );
    let policy = new.field("ipFamilyPolicy");
    if was.len() > now.len() && now.len() == 1 && policy.text() != "SingleStack" {
        errors.push(policy.invalid(format!("must be set to 'SingleStack' when releasing the {second}")));
    }
}

/// Where a load balancer leads to.
pub(super) fn status(new: &Object, _old: &Object, errors: &mut Vec<FieldError>) {
    let list = At::of(new, "status").field("loadBalancer").field("ingress");
    if new.get_str(&["spec", "type"]) != Some("LoadBalancer") {
        if !list.is_empty() {
            errors.push(list.forbidden("may only be used when `spec.type` is 'LoadBalancer'"));
        }
        return;
    }
    for ingress in list.items() {
        let (ip, mode, host) = (ingress.field("ip"), ingress.field("ipMode"), ingress.field("hostname"));
        if !ip.is_empty() {
            ip.address(errors);
        }
        match (ip.is_empty(), mode.is_set()) {
            (false, false) => errors.push(mode.required("must be specified when `ip` is set")),
            (true, true) => errors.push(mode.forbidden("may not be specified when `ip` is not set")),
            (false, true) => mode.one_of(&["Proxy", "VIP"], errors),
            (true, false) => {}
        }
        if !host.is_empty() {
            host.invalid_for(names::dns1123_subdomain(host.text()), errors);
            if host.text().parse::<IpAddr>().is_ok() {
                errors.push(host.invalid("must be a DNS name, not an IP address"));
            }
        }
    }
}
