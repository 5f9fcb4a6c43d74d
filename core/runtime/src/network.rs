//! The seam to pod networking.

use std::net::IpAddr;
use std::path::Path;

use async_trait::async_trait;

/// Whose network it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodIdentity {
    /// The sandbox's id; the container id of the CNI specification.
    pub id: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
}

/// The transport protocol of a port mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the node that leads to a port of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortMapping {
    /// The transport protocol.
    pub protocol: Protocol,
    /// In the pod.
    pub container_port: u16,
    /// On the node.
    pub host_port: u16,
    /// The node's address, if not all of them.
    pub host_ip: Option<IpAddr>,
}

/// Why the network could not do it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct NetworkError(#[from] Box<dyn std::error::Error + Send + Sync>);

impl NetworkError {
    /// From any error of the network's implementation.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// Gives pods their network. Calls for one pod never overlap; a repeated `del` is no error.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Connects the network namespace named by `netns`; answers the pod's addresses, the primary one first.
    async fn add(
        &self,
        netns: &Path,
        pod: &PodIdentity,
        ports: &[PortMapping],
    ) -> Result<Vec<IpAddr>, NetworkError>;

    /// Takes the network away, and the addresses back. The namespace may be gone already.
    async fn del(
        &self,
        netns: Option<&Path>,
        pod: &PodIdentity,
        ports: &[PortMapping],
    ) -> Result<(), NetworkError>;

    /// Whether pods can be connected now; the error is shown as the node's NetworkReady message.
    async fn status(&self) -> Result<(), NetworkError>;

    /// The node's range of pod addresses, as the kubelet learns it (`UpdateRuntimeConfig`).
    async fn configure(&self, pod_cidr: &str) -> Result<(), NetworkError>;
}
