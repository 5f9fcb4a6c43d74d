//! What is kept of a pod (pure).

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod};
use keelson_operator_kit::pod;

/// What the decisions need to know of a pod that has an address and has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// Its UID.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it can serve.
    pub ready: bool,
    /// Whether its deletion has been asked for.
    pub terminating: bool,
    /// Where it runs.
    pub node: Option<String>,
    /// Its own host name, and the Service below which it has one.
    pub host: Option<Host>,
    /// The ports of its containers that have a name.
    pub ports: Vec<NamedPort>,
}

/// A host name below a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The name.
    pub name: String,
    /// The Service.
    pub subdomain: String,
}

/// A port with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Its number.
    pub number: i32,
}

impl PodView {
    /// What is kept of a pod; `None` for one that has no address or has ended.
    pub fn read(object: Pod) -> Option<Self> {
        let status = object.status.as_ref()?;
        let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
        let mut addresses: Vec<IpAddr> = listed.filter_map(|ip| ip.parse().ok()).collect();
        if addresses.is_empty() {
            addresses.extend(status.pod_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()));
        }
        if addresses.is_empty() || pod::is_terminal(&object) {
            return None;
        }
        let ready = pod::is_ready(&object);
        let terminating = pod::is_terminating(&object);
        let spec = object.spec?;
        let sidecars = spec.init_containers.iter().flatten();
        // Of the containers that end before the others start, none serves.
        let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
        let ports = spec.containers.iter().chain(sidecars).flat_map(named_ports).collect();
        let host = spec.hostname.filter(|name| !name.is_empty()).zip(spec.subdomain);
        Some(PodView {
            uid: object.metadata.uid?,
            labels: object.metadata.labels.unwrap_or_default(),
            addresses,
            ready,
            terminating,
            node: spec.node_name.filter(|node| !node.is_empty()),
            host: host.map(|(name, subdomain)| Host { name, subdomain }),
            ports,
        })
    }

    /// The number of a port of this name.
    pub fn port(&self, name: &str, protocol: &str) -> Option<i32> {
        let port = self.ports.iter().find(|port| port.name == name && port.protocol == protocol)?;
        Some(port.number)
    }
}

fn named_ports(container: &Container) -> impl Iterator<Item = NamedPort> {
    container.ports.iter().flatten().filter_map(|port| {
        Some(NamedPort {
            name: port.name.clone()?,
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            number: port.container_port,
        })
    })
}
