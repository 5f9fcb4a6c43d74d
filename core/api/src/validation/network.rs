//! Ingresses, network policies, endpoints and the addresses of the cluster.

use std::collections::HashSet;
use std::net::IpAddr;

use super::FieldError;
use super::at::At;
use super::selector::label_selector;
use super::service::ordinary;
use super::too_many;
use crate::names;
use crate::object::Object;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

pub(super) fn ingress(object: &Object, errors: &mut Vec<FieldError>) {
    const CLASS: &str = "kubernetes.io/ingress.class";
    let spec = At::of(object, "spec");
    let (rules, default) = (spec.field("rules"), spec.field("defaultBackend"));
    if rules.is_empty() && !default.is_set() {
        errors.push(spec.invalid("either `defaultBackend` or `rules` must be specified"));
    }
    if default.is_set() {
        backend(&default, errors);
    }
    for rule in rules.items() {
        let host = rule.field("host");
        if !host.is_empty() {
            host_name(&host, errors);
        }
        let http = rule.field("http");
        if !http.is_set() {
            continue;
        }
        let paths = http.field("paths");
        if paths.is_empty() {
            errors.push(paths.required(""));
        }
        for path in paths.items() {
            self::path(&path, errors);
            backend(&path.field("backend"), errors);
        }
    }
    for tls in spec.field("tls").items() {
        tls.field("hosts").items().for_each(|host| host_name(&host, errors));
        let secret = tls.field("secretName");
        if !secret.is_empty() {
            secret.invalid_for(names::dns1123_subdomain(secret.text()), errors);
        }
    }
    let class = spec.field("ingressClassName");
    if class.is_set() {
        class.invalid_for(names::dns1123_subdomain(class.text()), errors);
    }
    if let Some(text) = object.annotation(CLASS)
        && class.is_set()
        && object.resource_version().is_none_or(str::is_empty)
        && text != class.text()
    {
        let path = format!("metadata.annotations[{CLASS}]");
        errors.push(FieldError::invalid(path, text, "must match `ingressClassName` when both are specified"));
    }
}

fn host_name(host: &At<'_>, errors: &mut Vec<FieldError>) {
    if host.text().parse::<IpAddr>().is_ok() {
        errors.push(host.invalid("must be a DNS name, not an IP address"));
    } else if host.text().contains('*') {
        const FORM: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        let good =
            host.text().strip_prefix("*.").is_some_and(|rest| names::dns1123_subdomain(rest).is_empty());
        if !good {
            errors.push(host.invalid(FORM));
        }
    } else {
        host.invalid_for(names::dns1123_subdomain(host.text()), errors);
    }
}

fn path(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let (path, kind) = (at.field("path"), at.field("pathType"));
    if !kind.is_set() {
        errors.push(kind.required("pathType must be specified"));
        return;
    }
    match kind.text() {
        "Exact" | "Prefix" => {
            if !path.text().starts_with('/') {
                errors.push(FieldError::invalid(path.path.as_str(), path.text(), "must be an absolute path"));
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|it| path.text().contains(**it)) {
                errors.push(path.invalid(format!("must not contain '{part}'")));
            }
            for part in ["/..", "/."].iter().filter(|it| path.text().ends_with(**it)) {
                errors.push(path.invalid(format!("cannot end with '{part}'")));
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.text().starts_with('/') {
                errors.push(path.invalid("must be an absolute path"));
            }
        }
        other => errors.push(FieldError::not_supported(
            kind.path,
            other,
            &["Exact", "ImplementationSpecific", "Prefix"],
        )),
    }
}

fn backend(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let (service, resource) = (at.field("service"), at.field("resource"));
    match (service.is_set(), resource.is_set()) {
        (true, true) => {
            let detail = "cannot set both resource and service backends";
            errors.push(FieldError::invalid(at.path.as_str(), "", detail));
        }
        (false, false) => errors.push(at.required("port name or number is required")),
        (false, true) => {
            for field in ["kind", "name"].map(|field| resource.field(field)) {
                if field.is_empty() {
                    errors.push(field.required(""));
                }
            }
        }
        (true, false) => {
            let (name, port) = (service.field("name"), service.field("port"));
            if name.is_empty() {
                errors.push(name.required(""));
            } else {
                name.invalid_for(names::dns1035_label(name.text()), errors);
            }
            let (number, named) = (port.field("number"), port.field("name"));
            match (number.number().unwrap_or(0), named.is_empty()) {
                (0, true) => errors.push(port.required("port name or number is required")),
                (0, false) => named.invalid_for(names::port_name(named.text()), errors),
                (_, true) => number.port_number(errors),
                (_, false) => errors.push(port.invalid("cannot set both port name & port number")),
            }
        }
    }
}

pub(super) fn ingress_class(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    let controller = spec.field("controller");
    if controller.text().len() > 250 {
        errors.push(controller.too_long(250));
    }
    let (prefix, rest) = controller.text().split_once('/').unwrap_or((controller.text(), ""));
    if controller.is_empty() {
        errors.push(controller.required(""));
    } else if rest.is_empty() || !names::dns1123_subdomain(prefix).is_empty() {
        errors.push(controller.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"));
    }
    let parameters = spec.field("parameters");
    if !parameters.is_set() {
        return;
    }
    let group = parameters.field("apiGroup");
    if group.is_set() {
        group.invalid_for(names::dns1123_subdomain(group.text()), errors);
    }
    for field in ["kind", "name"].map(|field| parameters.field(field)) {
        if field.is_empty() {
            errors.push(field.required(""));
        } else {
            field.invalid_for(names::path_segment(field.text()), errors);
        }
    }
    let (scope, namespace) = (parameters.field("scope"), parameters.field("namespace"));
    match scope.text() {
        "" => errors.push(scope.required("")),
        "Namespace" if !namespace.is_set() => {
            errors.push(namespace.required("`parameters.scope` is set to 'Namespace'"));
        }
        "Namespace" => namespace.invalid_for(names::dns1123_label(namespace.text()), errors),
        "Cluster" if namespace.is_set() => {
            errors.push(namespace.forbidden("`parameters.scope` is set to 'Cluster'"));
        }
        "Cluster" => {}
        other => errors.push(FieldError::not_supported(scope.path, other, &["Cluster", "Namespace"])),
    }
}

pub(super) fn policy(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    label_selector(&spec.field("podSelector"), errors);
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.field(rules).items() {
            rule.field("ports").items().for_each(|port| policy_port(&port, errors));
            rule.field(peers).items().for_each(|it| peer(&it, errors));
        }
    }
    let types = spec.field("policyTypes");
    if types.items().count() > 2 {
        errors.push(types.invalid("may not specify more than two policyTypes"));
        return;
    }
    for kind in types.items().filter(|kind| !matches!(kind.text(), "Ingress" | "Egress")) {
        errors.push(FieldError::not_supported(kind.path, kind.value.clone(), &["Egress", "Ingress"]));
    }
}

fn policy_port(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let (protocol, port, end) = (at.field("protocol"), at.field("port"), at.field("endPort"));
    if protocol.is_set() && !PROTOCOLS.contains(&protocol.text()) {
        errors.push(FieldError::not_supported(protocol.path.as_str(), protocol.value.clone(), &PROTOCOLS));
    }
    if !port.is_set() {
        if end.is_set() {
            errors.push(end.invalid("may not be specified when `port` is not specified"));
        }
        return;
    }
    port.port(errors);
    match (port.number(), end.number()) {
        (None, Some(_)) => errors.push(end.invalid("may not be specified when `port` is non-numeric")),
        (Some(port), Some(last)) if last < port => {
            errors.push(end.invalid("must be greater than or equal to `port`"));
        }
        (Some(_), Some(_)) => end.port_number(errors),
        (_, None) => {}
    }
}

fn peer(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let (pods, namespaces, block) =
        (at.field("podSelector"), at.field("namespaceSelector"), at.field("ipBlock"));
    label_selector(&pods, errors);
    label_selector(&namespaces, errors);
    if block.is_set() {
        self::block(&block, errors);
        if pods.is_set() || namespaces.is_set() {
            errors.push(at.forbidden("may not specify both ipBlock and another peer"));
        }
    } else if !pods.is_set() && !namespaces.is_set() {
        errors.push(at.required("must specify a peer"));
    }
}

/// The first address of the range that an address is in.
fn first_of(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(it) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            std::net::Ipv4Addr::from_bits(it.to_bits() & mask).into()
        }
        IpAddr::V6(it) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            std::net::Ipv6Addr::from_bits(it.to_bits() & mask).into()
        }
    }
}

/// A range of addresses, by its first address and its length.
pub(super) fn range(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let (address, bits) = (address.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?);
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}

fn contains(outer: (IpAddr, u8), inner: (IpAddr, u8)) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32_u8),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    let ((a, kind), (b, other)) = (bits(outer.0), bits(inner.0));
    let mask = if outer.1 == 0 { 0 } else { u128::MAX << (128 - u32::from(outer.1)) };
    kind == other && a & mask == b & mask && inner.1 > outer.1
}

pub(super) const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

fn block(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let cidr = at.field("cidr");
    if cidr.is_empty() {
        errors.push(cidr.required(""));
        return;
    }
    let Some(outer) = range(cidr.text()) else {
        errors.push(cidr.invalid(CIDR));
        return;
    };
    for except in at.field("except").items() {
        match range(except.text()) {
            None => errors.push(except.invalid(CIDR)),
            Some(inner) if !contains(outer, inner) => {
                errors.push(except.invalid("must be a strict subset of `cidr`"));
            }
            Some(_) => {}
        }
    }
}

/// An address of an endpoint. Of the server itself it may be one that is reached on its own node alone.
fn endpoint_address(object: &Object, at: &At<'_>, errors: &mut Vec<FieldError>) {
    if object.name() == Some("kubernetes") && object.namespace() == Some("default") {
        at.address(errors);
    } else {
        ordinary(at, errors);
    }
}

pub(super) fn endpoint_slice(object: &Object, errors: &mut Vec<FieldError>) {
    let kind = At::of(object, "addressType");
    kind.one_of(&["FQDN", "IPv4", "IPv6"], errors);
    let endpoints = At::of(object, "endpoints");
    let count = endpoints.items().count();
    if count > 1000 {
        errors.push(too_many(&endpoints, count, 1000));
        return;
    }
    for endpoint in endpoints.items() {
        let addresses = endpoint.field("addresses");
        let count = addresses.items().count();
        if count == 0 {
            errors.push(addresses.required("must contain at least 1 address"));
        } else if count > 100 {
            errors.push(too_many(&addresses, count, 100));
        }
        for address in addresses.items() {
            match (kind.text(), address.text().parse::<IpAddr>()) {
                ("FQDN", _) => address.invalid_for(names::dns1123_subdomain(address.text()), errors),
                ("IPv4", Ok(IpAddr::V6(_)) | Err(_)) => {
                    errors.push(address.invalid("must be an IPv4 address"));
                }
                ("IPv6", Ok(IpAddr::V4(_)) | Err(_)) => {
                    errors.push(address.invalid("must be an IPv6 address"));
                }
                _ => endpoint_address(object, &address, errors),
            }
        }
        let (node, host) = (endpoint.field("nodeName"), endpoint.field("hostname"));
        if node.is_set() {
            node.invalid_for(names::dns1123_subdomain(node.text()), errors);
        }
        if host.is_set() {
            host.invalid_for(names::dns1123_label(host.text()), errors);
        }
        for list in ["forZones", "forNodes"].map(|list| endpoint.field("hints").field(list)) {
            let count = list.items().count();
            if count > 8 {
                errors.push(too_many(&list, count, 8));
                continue;
            }
            let mut seen = HashSet::new();
            for name in list.items().map(|it| it.field("name")) {
                if !seen.insert(name.text()) {
                    errors.push(name.duplicate());
                }
                let faults =
                    if list.path.ends_with("Zones") { names::label_value } else { names::dns1123_subdomain };
                name.invalid_for(faults(name.text()), errors);
            }
        }
        let topology = endpoint.field("deprecatedTopology");
        if topology.entries().count() > 16 {
            errors.push(too_many(&topology, topology.entries().count(), 16));
        }
    }
    let ports = At::of(object, "ports");
    let count = ports.items().count();
    if count > 20_000 {
        errors.push(too_many(&ports, count, 20_000));
        return;
    }
    let mut seen = HashSet::new();
    for port in ports.items() {
        let name = port.field("name");
        if !name.is_empty() {
            name.invalid_for(names::dns1123_label(name.text()), errors);
        }
        if !seen.insert(name.text()) {
            errors.push(FieldError::duplicate(name.path.as_str(), name.text()));
        }
        port.field("protocol").one_of(&PROTOCOLS, errors);
        application(&port, errors);
    }
}

/// The kind of addresses of a slice stays.
pub(super) fn endpoint_slice_change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let kind = At::of(new, "addressType");
    if kind.value != At::of(old, "addressType").value {
        errors.push(kind.invalid("field is immutable"));
    }
}

fn application(port: &At<'_>, errors: &mut Vec<FieldError>) {
    let at = port.field("appProtocol");
    if at.is_set() {
        at.invalid_for(names::qualified_name(at.text()), errors);
    }
}

pub(super) fn endpoints(object: &Object, errors: &mut Vec<FieldError>) {
    for subset in At::of(object, "subsets").items() {
        let lists = ["addresses", "notReadyAddresses"].map(|list| subset.field(list));
        if lists.iter().all(At::is_empty) {
            errors.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
        }
        for address in lists.iter().flat_map(At::items) {
            endpoint_address(object, &address.field("ip"), errors);
            let (host, node) = (address.field("hostname"), address.field("nodeName"));
            if !host.is_empty() {
                host.invalid_for(names::dns1123_label(host.text()), errors);
            }
            if node.is_set() {
                node.invalid_for(names::dns1123_subdomain(node.text()), errors);
            }
        }
        let ports = subset.field("ports");
        let needs_names = ports.items().count() > 1;
        for port in ports.items() {
            let name = port.field("name");
            if name.is_empty() {
                if needs_names {
                    errors.push(name.required(""));
                }
            } else {
                name.invalid_for(names::dns1123_label(name.text()), errors);
            }
            port.field("port").port_number(errors);
            port.field("protocol").one_of(&PROTOCOLS, errors);
            application(&port, errors);
        }
    }
}

/// The ranges of a new object; of an existing one they are judged when a second one comes.
pub(super) fn service_cidr(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    let cidrs = spec.field("cidrs");
    let count = cidrs.items().count();
    if count == 0 {
        errors.push(cidrs.required("at least one CIDR required"));
        return;
    }
    if count > 2 {
        let value = spec.value.clone();
        errors.push(FieldError::invalid(cidrs.path, value, "may only hold up to 2 values"));
        return;
    }
    let mut sixes = 0;
    let mut good = 0;
    for cidr in cidrs.items() {
        match range(cidr.text()) {
            None => errors.push(cidr.invalid(CIDR)),
            Some((address, length)) => {
                let first = first_of(address, length);
                if first != address {
                    errors.push(cidr.invalid("must not have bits set beyond the prefix length"));
                }
                let canonical = format!("{first}/{length}");
                if canonical != cidr.text() {
                    errors.push(cidr.invalid(format!("must be in canonical form ({canonical:?})")));
                }
                sixes += usize::from(address.is_ipv6());
                good += 1;
            }
        }
    }
    if good == 2 && sixes != 1 {
        errors.push(cidrs.invalid(
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        ));
    }
}

/// Ranges stay; one of the other family may be added.
pub(super) fn service_cidr_change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    const FIXED: &str = "field is immutable";
    let (now, was) = (At::of(new, "spec").field("cidrs"), At::of(old, "spec").field("cidrs"));
    let counts = (was.items().count(), now.items().count());
    if counts.0 != counts.1 && counts != (1, 2) {
        errors.push(now.invalid(FIXED));
        return;
    }
    for (now, was) in now.items().zip(was.items()) {
        if now.value != was.value {
            errors.push(now.invalid(FIXED));
        }
    }
    if counts == (1, 2) {
        service_cidr(new, errors);
    }
}

pub(super) fn address(object: &Object, errors: &mut Vec<FieldError>) {
    let parent = At::of(object, "spec").field("parentRef");
    if !parent.is_set() {
        errors.push(parent.required(""));
        return;
    }
    for field in ["resource", "name"].map(|field| parent.field(field)) {
        if field.is_empty() {
            errors.push(field.required(""));
        } else {
            field.invalid_for(names::path_segment(field.text()), errors);
        }
    }
    let (group, namespace) = (parent.field("group"), parent.field("namespace"));
    if !group.is_empty() {
        group.invalid_for(names::dns1123_subdomain(group.text()), errors);
    }
    if !namespace.is_empty() {
        namespace.invalid_for(names::path_segment(namespace.text()), errors);
    }
}

/// The name of an `IPAddress` is an address in its shortest form.
pub(super) fn address_name(name: &str) -> Vec<String> {
    match name.parse::<IpAddr>() {
        Ok(address) if address.to_string() == name => Vec::new(),
        Ok(_) => vec!["must be a valid IP address in canonical form".into()],
        Err(_) => vec!["must be a valid IP address".into()],
    }
}
