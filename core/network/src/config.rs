//! What the network is told.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};

/// The configuration of a node's pod network.
#[derive(Debug, Clone)]
pub struct Config {
    /// Eight lower-case hexadecimal digits that tell clusters on one machine apart.
    pub cluster_id: String,
    /// The node's range of pod addresses, IPv4, at most a /29. Its first address is the gateway's.
    pub pod_cidr: IpNet,
    /// Where pods' packets go with the pods' own addresses, beside `pod_cidr`: other nodes' pods.
    pub cluster_cidrs: Vec<IpNet>,
    /// The range of Service addresses. If the node has no route to it, one over the bridge is made: the packets only need some way
    /// until rules give them another destination.
    pub service_cidr: Option<IpNet>,
    /// Of the pods' interfaces, in bytes.
    pub mtu: u32,
    /// Where records are kept; below it nothing else lies.
    pub state_dir: PathBuf,
    /// Where CNI configurations of other plugins are looked for. A folder that does not exist has none.
    pub cni_conf_dir: PathBuf,
    /// Where CNI plugins are.
    pub cni_bin_dirs: Vec<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_id: "00000000".to_owned(),
            pod_cidr: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 42, 0, 0), 24)),
            cluster_cidrs: Vec::new(),
            service_cidr: Some(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16))),
            mtu: 1500,
            state_dir: PathBuf::from("/var/lib/keelson/network"),
            cni_conf_dir: PathBuf::from("/etc/cni/net.d"),
            cni_bin_dirs: vec![PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")],
        }
    }
}

/// The configuration cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not eight lower-case hexadecimal digits.
    #[error("cluster id {0:?} is not eight lower-case hexadecimal digits")]
    ClusterId(String),
    /// Pods have IPv4 addresses.
    #[error("pod range {0} is not an IPv4 range")]
    NotIpv4(IpNet),
    /// No room for a network, a gateway, a broadcast address and some pods.
    #[error("pod range {0} is too small, it needs at least a /29")]
    TooSmall(Ipv4Net),
    /// IPv4 needs 68, and no interface takes more than 65535.
    #[error("mtu {0} is not between 576 and 65535")]
    Mtu(u32),
}

/// The configuration's validated core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) cluster_id: String,
    pub(crate) bridge: String,
    pub(crate) pods: Ipv4Net,
    pub(crate) gateway: Ipv4Addr,
    /// Ranges that see pods' own addresses.
    pub(crate) inside: Vec<Ipv4Net>,
}

impl Config {
    pub(crate) fn layout(&self) -> Result<Layout, ConfigError> {
        let cluster_id = checked(&self.cluster_id)?;
        let IpNet::V4(pods) = self.pod_cidr.trunc() else { return Err(ConfigError::NotIpv4(self.pod_cidr)) };
        if pods.prefix_len() > 29 {
            return Err(ConfigError::TooSmall(pods));
        }
        if !(576..=65535).contains(&self.mtu) {
            return Err(ConfigError::Mtu(self.mtu));
        }
        let gateway = pods.hosts().next().unwrap_or(pods.network());
        let others = self.cluster_cidrs.iter().filter_map(|net| match net {
            IpNet::V4(net) => Some(net.trunc()),
            IpNet::V6(_) => None,
        });
        let inside = Ipv4Net::aggregate(&others.chain([pods]).collect());
        Ok(Layout { bridge: bridge(&cluster_id), cluster_id, pods, gateway, inside })
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

/// The name of a cluster's bridge: twelve of fifteen characters.
pub fn bridge(cluster_id: &str) -> String {
    format!("keel{cluster_id}")
}

impl Layout {
    /// The gateway's address with the range's prefix.
    pub(crate) fn gateway_net(&self) -> (IpAddr, u8) {
        (IpAddr::V4(self.gateway), self.pods.prefix_len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_derive_from_the_cluster_and_the_gateway_is_the_first_address() {
        let config = Config {
            cluster_id: "0badcafe".to_owned(),
            pod_cidr: "10.42.3.7/24".parse().unwrap(),
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()],
            ..Config::default()
        };
        let layout = config.layout().unwrap();
        assert_eq!(layout.bridge, "keel0badcafe");
        assert_eq!(layout.gateway, Ipv4Addr::new(10, 42, 3, 1));
        assert_eq!(layout.inside, ["10.42.0.0/16".parse::<Ipv4Net>().unwrap()]);
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let with = |id: &str, net: &str, mtu| {
            Config { cluster_id: id.to_owned(), pod_cidr: net.parse().unwrap(), mtu, ..Config::default() }
                .layout()
                .unwrap_err()
        };
        let net = "10.42.0.0/24";
        assert_eq!(with("0BADCAFE", net, 1500), ConfigError::ClusterId("0BADCAFE".to_owned()));
        assert_eq!(with("0bad", net, 1500), ConfigError::ClusterId("0bad".to_owned()));
        assert_eq!(with("0badcafe", "fd00::/64", 1500), ConfigError::NotIpv4("fd00::/64".parse().unwrap()));
        assert_eq!(
            with("0badcafe", "10.0.0.0/30", 1500),
            ConfigError::TooSmall("10.0.0.0/30".parse().unwrap())
        );
        assert_eq!(with("0badcafe", net, 100), ConfigError::Mtu(100));
    }
}
