//! What is kept of the API's objects (pure).

use std::net::IpAddr;

use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use keelson_operator_kit::ObjectKey;

/// The label of a slice that names its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A Service.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its ClusterIPs. A Service that has neither these nor `alias` is headless.
    pub(crate) addresses: Vec<IpAddr>,
    /// The name that an `ExternalName` Service stands for.
    pub(crate) alias: Option<Name>,
    pub(crate) ports: Vec<Port>,
}

/// A named port.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: Box<str>,
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// The ready endpoints of an EndpointSlice.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) service: ObjectKey,
    pub(crate) ports: Vec<Port>,
    pub(crate) endpoints: Vec<Endpoint>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// All addresses of an endpoint are the same endpoint; the first one is its own.
    pub(crate) address: IpAddr,
    pub(crate) hostname: Option<Box<str>>,
}

impl Protocol {
    /// As the API writes it; TCP need not be said.
    fn named(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }

    /// As names have it, without the underscore.
    pub(crate) fn in_names(label: &str) -> Option<Self> {
        match label {
            "_tcp" => Some(Protocol::Tcp),
            "_udp" => Some(Protocol::Udp),
            "_sctp" => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

fn port(name: Option<&str>, protocol: Option<&str>, number: Option<i32>) -> Option<Port> {
    let name = name.filter(|name| !name.is_empty())?;
    let number = u16::try_from(number?).ok().filter(|number| *number > 0)?;
    Some(Port { name: name.into(), protocol: Protocol::named(protocol)?, number })
}

impl Service {
    pub(crate) fn read(service: &core::Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let ports = spec.ports.iter().flatten();
        let ports =
            ports.filter_map(|one| port(one.name.as_deref(), one.protocol.as_deref(), Some(one.port)));
        if spec.type_.as_deref() == Some("ExternalName") {
            let mut alias = Name::from_ascii(spec.external_name.as_deref()?).ok()?;
            alias.set_fqdn(true);
            return Some(Service { addresses: Vec::new(), alias: Some(alias), ports: ports.collect() });
        }
        let addresses = match &spec.cluster_ips {
            Some(list) if !list.is_empty() => list.iter(),
            Some(_) | None => spec.cluster_ip.as_slice().iter(),
        };
        // "None" is no address.
        let addresses = addresses.filter_map(|text| text.parse().ok()).collect();
        Some(Service { addresses, alias: None, ports: ports.collect() })
    }

    pub(crate) fn is_headless(&self) -> bool {
        self.addresses.is_empty() && self.alias.is_none()
    }
}

impl Slice {
    pub(crate) fn read(slice: &discovery::EndpointSlice) -> Option<Self> {
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
        let service = ObjectKey::new(slice.metadata.namespace.as_deref()?, service);
        let ports = slice.ports.iter().flatten();
        let ports = ports.filter_map(|one| port(one.name.as_deref(), one.protocol.as_deref(), one.port));
        let ready = |one: &&discovery::Endpoint| {
            one.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
        };
        let endpoints = slice.endpoints.iter().flatten().filter(ready).filter_map(|one| {
            // Addresses of the type FQDN are none.
            let address = one.addresses.first()?.parse().ok()?;
            Some(Endpoint { address, hostname: one.hostname.as_deref().map(Into::into) })
        });
        Some(Slice { service, ports: ports.collect(), endpoints: endpoints.collect() })
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = &IpAddr> {
        self.endpoints.iter().map(|endpoint| &endpoint.address)
    }
}

impl Endpoint {
    /// The first label of its name: its hostname, or its address with dashes.
    pub(crate) fn label(&self) -> String {
        match &self.hostname {
            Some(hostname) => hostname.to_ascii_lowercase(),
            None => self.address.to_string().replace(['.', ':'], "-"),
        }
    }
}
