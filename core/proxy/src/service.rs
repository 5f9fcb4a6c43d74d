//! What is kept of a Service (pure).

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1 as core;

use crate::front::{Affinity, Protocol};

/// Upstream's default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: u32 = 10800;

/// A Service that has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) cluster_ips: Vec<Ipv4Addr>,
    /// `spec.externalIPs`, and the load balancer's addresses whose packets come here unchanged.
    pub(crate) external_ips: Vec<Ipv4Addr>,
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) affinity: Option<Affinity>,
    pub(crate) internal: Policy,
    pub(crate) external: Policy,
}

/// Which endpoints serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// All.
    Cluster,
    /// Those of the node that a packet came to.
    Local,
}

/// A port of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub(crate) name: Box<str>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) node_port: Option<u16>,
}

/// What of a Service cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nobody would keep others out, so that the load balancer's addresses do not answer at all.
    SourceRanges,
    /// An address of IPv6.
    Ipv6,
}

impl Service {
    /// What matters of a Service, and what of it is refused; nothing of one that has no address of its own.
    pub(crate) fn read(service: &core::Service) -> Option<(Self, Vec<Refusal>)> {
        let spec = service.spec.as_ref()?;
        let type_ = spec.type_.as_deref().unwrap_or("ClusterIP");
        let headless = spec.cluster_ip.as_deref().is_none_or(|address| matches!(address, "" | "None"));
        if headless || type_ == "ExternalName" {
            return None;
        }
        let mut refused = Vec::new();
        let cluster_ips = match &spec.cluster_ips {
            Some(list) if !list.is_empty() => ipv4(list.iter(), &mut refused),
            Some(_) | None => ipv4(spec.cluster_ip.iter(), &mut refused),
        };
        let mut external_ips = ipv4(spec.external_ips.iter().flatten(), &mut refused);
        let balancer = balancer_addresses(service);
        if type_ == "LoadBalancer" && !balancer.is_empty() {
            if spec.load_balancer_source_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty()) {
                refused.push(Refusal::SourceRanges);
            } else {
                external_ips.extend(ipv4(balancer.into_iter(), &mut refused));
            }
        }
        let has_node_ports = matches!(type_, "NodePort" | "LoadBalancer");
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            let number = |number: i32| u16::try_from(number).ok().filter(|number| *number > 0);
            Some(ServicePort {
                name: port.name.as_deref().unwrap_or_default().into(),
                protocol: Protocol::named(port.protocol.as_deref())?,
                port: number(port.port)?,
                node_port: port.node_port.and_then(number).filter(|_| has_node_ports),
            })
        });
        let policy = |policy: &Option<String>| match policy.as_deref() {
            Some("Local") => Policy::Local,
            Some(_) | None => Policy::Cluster,
        };
        let read = Self {
            cluster_ips,
            external_ips,
            ports: ports.collect(),
            affinity: affinity(spec),
            internal: policy(&spec.internal_traffic_policy),
            external: policy(&spec.external_traffic_policy),
        };
        Some((read, refused))
    }
}

/// Without those that the balancer delivers to the node's own address.
fn balancer_addresses(service: &core::Service) -> Vec<&String> {
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let ours = ingress.into_iter().flatten().filter(|one| one.ip_mode.as_deref() != Some("Proxy"));
    ours.filter_map(|one| one.ip.as_ref()).collect()
}

fn affinity(spec: &core::ServiceSpec) -> Option<Affinity> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).and_then(|time| u32::try_from(time).ok());
    Some(Affinity(seconds.filter(|seconds| *seconds > 0).unwrap_or(AFFINITY_SECONDS)))
}

fn ipv4<'a>(texts: impl Iterator<Item = &'a String>, refused: &mut Vec<Refusal>) -> Vec<Ipv4Addr> {
    let mut addresses = Vec::new();
    for text in texts {
        match text.parse::<Ipv4Addr>() {
            Ok(address) => addresses.push(address),
            Err(_) => refused.push(Refusal::Ipv6),
        }
    }
    addresses
}
