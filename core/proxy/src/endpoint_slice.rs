//! What is kept of an EndpointSlice (pure).

use std::net::Ipv4Addr;

use k8s_openapi::api::discovery::v1 as discovery;

use crate::front::{Name, Protocol};

/// The label that names the Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Endpoints of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) ports: Vec<SlicePort>,
    pub(crate) endpoints: Vec<SliceEndpoint>,
}

/// A port of all endpoints of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlicePort {
    pub(crate) name: Box<str>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// An endpoint that may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SliceEndpoint {
    pub(crate) address: Ipv4Addr,
    pub(crate) state: State,
    /// Whether it is on this node.
    pub(crate) local: bool,
}

/// How far an endpoint may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It does.
    Ready,
    /// It ends, but still does if nobody else does.
    Terminating,
}

impl Slice {
    /// The Service and what matters of the slice; nothing of one of another family, or that belongs to no Service.
    pub(crate) fn read(slice: &discovery::EndpointSlice, node_name: &str) -> Option<(Name, Self)> {
        if slice.address_type != "IPv4" {
            return None;
        }
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
        let service = Name::new(slice.metadata.namespace.as_deref()?, service);
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            Some(SlicePort {
                name: port.name.as_deref().unwrap_or_default().into(),
                protocol: Protocol::named(port.protocol.as_deref())?,
                port: port.port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)?,
            })
        });
        let endpoints = slice.endpoints.iter().flatten().filter_map(|endpoint| {
            Some(SliceEndpoint {
                // All addresses of an endpoint are the same endpoint.
                address: endpoint.addresses.first()?.parse().ok()?,
                state: state(endpoint.conditions.as_ref())?,
                local: endpoint.node_name.as_deref() == Some(node_name),
            })
        });
        Some((service, Self { ports: ports.collect(), endpoints: endpoints.collect() }))
    }
}

/// What is not said counts as ready, and as not ending.
fn state(conditions: Option<&discovery::EndpointConditions>) -> Option<State> {
    let Some(conditions) = conditions else { return Some(State::Ready) };
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    let terminating = conditions.terminating.unwrap_or(false);
    match (ready, serving && terminating) {
        (true, _) => Some(State::Ready),
        (false, true) => Some(State::Terminating),
        (false, false) => None,
    }
}
