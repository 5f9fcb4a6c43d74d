//! The node's own pod network behind the container runtime's seam.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use keelson_network as network;
use keelson_runtime::network::{NetworkError, PodIdentity, PodNetwork, PortMapping, Protocol};

/// The pod network of this node.
pub(crate) struct NodeNetwork {
    network: network::PodNetwork,
    range: ipnet::IpNet,
}

/// The node's range of pod addresses is part of the cluster's record and cannot be changed by the kubelet.
#[derive(Debug, thiserror::Error)]
#[error("pods of this node have addresses of {has}, not of {asked}")]
struct OtherRange {
    has: ipnet::IpNet,
    asked: String,
}

impl NodeNetwork {
    /// Prepares the node's side.
    pub(crate) async fn start(config: network::Config) -> Result<Arc<Self>, network::Error> {
        let range = config.pod_cidr;
        Ok(Arc::new(NodeNetwork { network: network::PodNetwork::start(config).await?, range }))
    }
}

fn mapping(port: &PortMapping) -> network::PortMapping {
    network::PortMapping {
        protocol: match port.protocol {
            Protocol::Tcp => network::Protocol::Tcp,
            Protocol::Udp => network::Protocol::Udp,
            Protocol::Sctp => network::Protocol::Sctp,
        },
        container_port: port.container_port,
        host_port: port.host_port,
        host_ip: port.host_ip,
    }
}

#[async_trait]
impl PodNetwork for NodeNetwork {
    async fn add(
        &self,
        netns: &Path,
        pod: &PodIdentity,
        ports: &[PortMapping],
    ) -> Result<Vec<IpAddr>, NetworkError> {
        let whose = network::Pod {
            container_id: pod.id.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        };
        // A port of 0 is the API's way to say that there is none on the node.
        let ports: Vec<_> = ports.iter().filter(|port| port.host_port != 0).map(mapping).collect();
        let added = self.network.add(netns, &whose, &ports).await.map_err(NetworkError::new)?;
        Ok(added.ips)
    }

    async fn del(
        &self,
        _netns: Option<&Path>,
        pod: &PodIdentity,
        _ports: &[PortMapping],
    ) -> Result<(), NetworkError> {
        self.network.del(&pod.id).await.map_err(NetworkError::new)
    }

    async fn status(&self) -> Result<(), NetworkError> {
        self.network.status().await.map_err(NetworkError::new)
    }

    async fn configure(&self, pod_cidr: &str) -> Result<(), NetworkError> {
        if pod_cidr.parse::<ipnet::IpNet>().is_ok_and(|asked| asked.trunc() == self.range.trunc()) {
            return Ok(());
        }
        Err(NetworkError::new(OtherRange { has: self.range, asked: pod_cidr.to_owned() }))
    }
}
