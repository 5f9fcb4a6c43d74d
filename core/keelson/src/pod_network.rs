//! The node's own pod network behind the container runtime's seam.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net};
use keelson_network as network;
use keelson_runtime::network::{NetworkError, PodIdentity, PodNetwork, PortMapping, Protocol};
use tokio::sync::{RwLock, watch};

/// Keeps a range that the node was given, so that the next start has it at once.
type Keep = Box<dyn Fn(Ipv4Net) -> anyhow::Result<()> + Send + Sync>;

/// A network at work.
struct Working {
    range: IpNet,
    network: network::PodNetwork,
}

/// The pod network of this node. One whose range is not known yet begins when the kubelet learns it.
pub(crate) struct NodeNetwork {
    /// What the network is told; its range counts only where there is no other.
    config: network::Config,
    keep: Option<Keep>,
    working: RwLock<Option<Working>>,
    changed: watch::Sender<()>,
}

/// Why a pod cannot be connected, or a range not be taken.
#[derive(Debug, thiserror::Error)]
enum RangeError {
    #[error("cni plugin not initialized: the node has no podCIDR yet")]
    None,
    #[error("{0:?} is no range of IPv4 addresses")]
    Invalid(String),
    #[error("pods of this node have addresses of {has}, not of {asked}")]
    Fixed { has: IpNet, asked: IpNet },
    #[error("pods of this node still have addresses of {has}; {asked} is taken when they have gone")]
    InUse { has: IpNet, asked: IpNet },
    #[error("keep the node's range of addresses: {0:#}")]
    Keep(anyhow::Error),
}

impl NodeNetwork {
    /// With a range that never changes. Prepares the node's side.
    pub(crate) async fn start(config: network::Config) -> Result<Arc<Self>, network::Error> {
        let network = NodeNetwork::new(config.clone(), None);
        network.begin(config.pod_cidr).await?;
        Ok(Arc::new(network))
    }

    /// With the range that is known from earlier, if any, and then the one that the cluster gives the node.
    pub(crate) async fn given(
        config: network::Config,
        known: Option<Ipv4Net>,
        keep: Keep,
    ) -> Result<Arc<Self>, network::Error> {
        let network = NodeNetwork::new(config, Some(keep));
        if let Some(range) = known {
            network.begin(IpNet::V4(range)).await?;
        }
        Ok(Arc::new(network))
    }

    fn new(config: network::Config, keep: Option<Keep>) -> Self {
        NodeNetwork { config, keep, working: RwLock::new(None), changed: watch::Sender::new(()) }
    }

    fn config(&self, range: IpNet) -> network::Config {
        network::Config { pod_cidr: range, ..self.config.clone() }
    }

    async fn begin(&self, range: IpNet) -> Result<(), network::Error> {
        let network = network::PodNetwork::start(self.config(range)).await?;
        *self.working.write().await = Some(Working { range, network });
        self.changed.send_replace(());
        Ok(())
    }

    /// Hears when a range is taken.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Leads to other nodes' pods; answers which of them cannot be reached so. Without a range there is nothing to do.
    pub(crate) async fn set_routes(
        &self,
        routes: &[network::NodeRoute],
    ) -> Result<Vec<network::Unreachable>, network::Error> {
        match self.working.read().await.as_ref() {
            Some(working) => working.network.set_routes(routes).await,
            None => Ok(Vec::new()),
        }
    }

    async fn take(&self, asked: &str) -> Result<(), NetworkError> {
        let range: Ipv4Net =
            asked.parse().map_err(|_| NetworkError::new(RangeError::Invalid(asked.to_owned())))?;
        let asked = IpNet::V4(range.trunc());
        let mut working = self.working.write().await;
        if let Some(working) = working.as_ref() {
            let has = working.range;
            if has.trunc() == asked {
                return Ok(());
            }
            if self.keep.is_none() {
                return Err(NetworkError::new(RangeError::Fixed { has, asked }));
            }
            if !working.network.is_unused() {
                return Err(NetworkError::new(RangeError::InUse { has, asked }));
            }
            tracing::info!(%has, %asked, "the node was given another range of pod addresses");
            network::remove_all(&self.config(has)).await.map_err(NetworkError::new)?;
        }
        *working = None;
        if let Some(keep) = &self.keep {
            keep(range.trunc()).map_err(|error| NetworkError::new(RangeError::Keep(error)))?;
        }
        drop(working);
        self.begin(asked).await.map_err(NetworkError::new)
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
        let working = self.working.read().await;
        let working = working.as_ref().ok_or_else(|| NetworkError::new(RangeError::None))?;
        let added = working.network.add(netns, &whose, &ports).await.map_err(NetworkError::new)?;
        Ok(added.ips)
    }

    async fn del(
        &self,
        _netns: Option<&Path>,
        pod: &PodIdentity,
        _ports: &[PortMapping],
    ) -> Result<(), NetworkError> {
        match self.working.read().await.as_ref() {
            Some(working) => working.network.del(&pod.id).await.map_err(NetworkError::new),
            None => Ok(()),
        }
    }

    async fn status(&self) -> Result<(), NetworkError> {
        let working = self.working.read().await;
        let working = working.as_ref().ok_or_else(|| NetworkError::new(RangeError::None))?;
        working.network.status().await.map_err(NetworkError::new)
    }

    async fn configure(&self, pod_cidr: &str) -> Result<(), NetworkError> {
        self.take(pod_cidr).await
    }
}
