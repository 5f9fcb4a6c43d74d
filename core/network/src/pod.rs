//! What is asked for a pod, and what it got.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Whose network it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// The sandbox's id; the container id of the CNI specification.
    pub container_id: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
}

/// The transport protocol of a port mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The number in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// A port of the node that leads to a port of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The transport protocol.
    pub protocol: Protocol,
    /// In the pod.
    pub container_port: u16,
    /// On the node.
    pub host_port: u16,
    /// The node's address, if not all of them.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// How a pod is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddResult {
    /// The pod's addresses, the primary one first.
    pub ips: Vec<IpAddr>,
    /// Where its packets leave to, if the network told.
    pub gateway: Option<IpAddr>,
    /// The interface on the node's side, if the network told.
    pub host_interface: Option<String>,
}
