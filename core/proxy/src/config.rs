//! What the proxy is told.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

/// The configuration of a node's proxy.
#[derive(Debug, Clone)]
pub struct Config {
    /// Eight lower-case hexadecimal digits that tell clusters on one machine apart.
    pub cluster_id: String,
    /// The node's name, as endpoints tell theirs.
    pub node_name: String,
    /// The node's addresses; node ports answer at those of IPv4. Loopback addresses are left out.
    pub node_ips: Vec<IpAddr>,
    /// All addresses of the cluster's pods. Pods see each other's addresses through a Service; others are seen with the node's.
    pub pod_cidrs: Vec<IpNet>,
    /// The range of ClusterIPs, IPv4. What is in it and belongs to no Service is refused.
    pub service_cidr: IpNet,
}

/// The configuration cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It becomes part of names in the kernel.
    #[error("cluster id {0:?} is not eight lower-case hexadecimal digits")]
    ClusterId(String),
    /// ClusterIPs are IPv4 addresses.
    #[error("service range {0} is not an IPv4 range")]
    NotIpv4(IpNet),
}

/// What the rules depend on, beside Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) cluster_id: String,
    pub(crate) addresses: Vec<Ipv4Addr>,
    pub(crate) pods: Vec<Ipv4Net>,
    pub(crate) services: Ipv4Net,
}

impl Config {
    pub(crate) fn node(&self) -> Result<Node, ConfigError> {
        let cluster_id = checked(&self.cluster_id)?;
        let IpNet::V4(services) = self.service_cidr.trunc() else {
            return Err(ConfigError::NotIpv4(self.service_cidr));
        };
        let addresses = self.node_ips.iter().filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address).filter(|address| !address.is_loopback()),
            IpAddr::V6(_) => None,
        });
        let pods = self.pod_cidrs.iter().filter_map(|net| match net {
            IpNet::V4(net) => Some(net.trunc()),
            IpNet::V6(_) => None,
        });
        let (addresses, pods) = (addresses.collect(), Ipv4Net::aggregate(&pods.collect()));
        Ok(Node { cluster_id, addresses, pods, services })
    }
}

/// The cluster's id, if it is one.
pub(crate) fn checked(cluster_id: &str) -> Result<String, ConfigError> {
    let digits = cluster_id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if digits && cluster_id.len() == 8 {
        Ok(cluster_id.to_owned())
    } else {
        Err(ConfigError::ClusterId(cluster_id.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_cluster_id_or_range_is_refused_and_loopback_is_no_node_address() {
        let config = Config {
            cluster_id: "0badcafe".to_owned(),
            node_name: "a".to_owned(),
            node_ips: vec![
                "127.0.0.1".parse().unwrap(),
                "192.0.2.1".parse().unwrap(),
                "::1".parse().unwrap(),
            ],
            pod_cidrs: vec!["10.42.0.0/24".parse().unwrap(), "10.42.0.0/16".parse().unwrap()],
            service_cidr: "10.96.0.0/16".parse().unwrap(),
        };
        let node = config.node().unwrap();
        assert_eq!(node.addresses, [Ipv4Addr::new(192, 0, 2, 1)]);
        assert_eq!(node.pods, ["10.42.0.0/16".parse::<Ipv4Net>().unwrap()]);
        let wrong = Config { cluster_id: "-".to_owned(), ..config.clone() };
        assert_eq!(wrong.node(), Err(ConfigError::ClusterId("-".to_owned())));
        let wrong = Config { service_cidr: "fd00::/112".parse().unwrap(), ..config };
        assert!(matches!(wrong.node(), Err(ConfigError::NotIpv4(_))));
    }
}
