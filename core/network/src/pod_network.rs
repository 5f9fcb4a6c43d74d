//! The driver: which steps connect and disconnect a pod, in which order.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ipnet::IpNet;
use keelson_nftables::{Batch, Connection, DumpError, Family, SocketError, TransactionError, conntrack};
use parking_lot::Mutex;
use rtnetlink::Handle;

use crate::cni::chain::{self, Chain, ChainError};
use crate::cni::configuration::{self, ConfigurationError, NetworkList};
use crate::config::{self, Config, ConfigError, Layout};
use crate::forwarding::{self, ForwardingError};
use crate::ipam::{Addresses, Exhausted};
use crate::link::{self, LinkError};
use crate::netns::{Namespace, NamespaceError};
use crate::pod::{AddResult, Pod, PortMapping, Protocol};
use crate::record::{Attachment, Record, RecordError, Records};
use crate::routes::{self, NodeRoute, Unreachable};
use crate::rules::{self, HostPort, Target};
use crate::sysctl::{self, SysctlError};

/// A pod was not connected, or not disconnected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See there.
    #[error("the network's configuration cannot be used")]
    Config(#[from] ConfigError),
    /// A socket for interfaces and routes.
    #[error("open a netlink socket for interfaces")]
    Netlink(#[source] io::Error),
    /// A socket for rules.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// An interface, address or route.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The pod's namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A setting of the node.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// Our table.
    #[error(transparent)]
    Rules(#[from] TransactionError),
    /// Our table, or tracked connections.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// Other tables.
    #[error("let pods' packets pass other people's rules")]
    Forwarding(#[from] ForwardingError),
    /// What is known of pods.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// No address.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// Somebody has the port.
    #[error("port {port} ({protocol:?}) of the node already leads to pod {namespace}/{name}")]
    PortTaken {
        /// The port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
        /// Whose.
        namespace: String,
        /// Whose.
        name: String,
    },
    /// The CNI configuration directory.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// A CNI plugin.
    #[error(transparent)]
    Plugin(#[from] ChainError),
    /// Asked about a pod that was never connected.
    #[error("container {0} is not connected")]
    Unknown(String),
    /// It is not as it was made.
    #[error("container {container_id}: {what}")]
    Damaged {
        /// Whose.
        container_id: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A file below the state folder.
    #[error("remove {0}")]
    Remove(std::path::PathBuf, #[source] io::Error),
}

impl Error {
    /// Whether this process may not change interfaces and routes.
    pub fn is_not_permitted(&self) -> bool {
        matches!(self, Error::Link(error) if error.is(nix::libc::EPERM))
    }
}

#[derive(Debug)]
struct State {
    addresses: Addresses,
    pods: HashMap<String, Record>,
    /// What the kernel was told of ports.
    published: HashMap<HostPort, Target>,
    /// The generation of the rule set when our table was last known to be there.
    generation: Option<u32>,
}

impl State {
    /// From records; the earlier of two pods with one address or port keeps it.
    fn restore(layout: &Layout, records: Vec<Record>) -> Self {
        let mut state = Self {
            addresses: Addresses::new(layout.pods),
            pods: HashMap::new(),
            published: HashMap::new(),
            generation: None,
        };
        for record in records {
            let id = record.pod.container_id.clone();
            if let Attachment::Bridge { address, .. } = record.attachment {
                if let Some(other) = state.addresses.restore(address, &id) {
                    tracing::error!(%address, container = id, other, "two pods have one address");
                }
                for (port, target) in targets(&record) {
                    state.published.entry(port).or_insert(target);
                }
            }
            state.pods.insert(id, record);
        }
        state
    }

    fn interface_in_use(&self, name: &str) -> bool {
        self.pods.values().any(
            |record| matches!(&record.attachment, Attachment::Bridge { interface, .. } if interface == name),
        )
    }
}

/// Which ports of the node lead where in a pod.
fn targets(record: &Record) -> Vec<(HostPort, Target)> {
    let Attachment::Bridge { address, .. } = record.attachment else { return Vec::new() };
    let target = |mapping: &PortMapping| Some((HostPort::of(mapping)?, (address, mapping.container_port)));
    record.host_ports.iter().filter_map(target).collect()
}

/// The network of a node's pods. Calls for one pod must not overlap; calls for several may.
#[derive(Debug)]
pub struct PodNetwork {
    config: Config,
    layout: Layout,
    records: Records,
    handle: Handle,
    kernel: Mutex<Connection>,
    state: Mutex<State>,
}

impl PodNetwork {
    /// Takes over what an earlier run left, and prepares the node: bridge, forwarding, rules.
    ///
    /// Everything is made in the network namespace of the calling thread. When there is a CNI configuration of somebody else,
    /// nothing is prepared.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let layout = config.layout()?;
        let records = Records::open(&config.state_dir)?;
        let state = State::restore(&layout, records.load()?);
        let handle = connect()?;
        let kernel = Mutex::new(Connection::open()?);
        let network = Self { config, layout, records, handle, kernel, state: Mutex::new(state) };
        if configuration::load(&network.config.cni_conf_dir)?.is_none() {
            network.set_up().await?;
        }
        network.sweep().await?;
        Ok(network)
    }

    /// Connects the network namespace at `netns` with an interface `eth0`.
    ///
    /// When it fails, nothing is left behind. A pod that is already connected is connected anew.
    pub async fn add(&self, netns: &Path, pod: &Pod, host_ports: &[PortMapping]) -> Result<AddResult, Error> {
        self.del(&pod.container_id).await?;
        let list = configuration::load(&self.config.cni_conf_dir)?;
        let added = match &list {
            None => self.add_to_bridge(netns, pod, host_ports).await,
            Some(list) => self.add_by_plugins(list, netns, pod, host_ports).await,
        };
        if added.is_err()
            && let Err(error) = self.del(&pod.container_id).await
        {
            tracing::warn!(
                container = pod.container_id,
                error = &error as &dyn std::error::Error,
                "half a network remains"
            );
        }
        added
    }

    /// Disconnects and gives the addresses back; it is no error if that happened already or the namespace is gone.
    pub async fn del(&self, container_id: &str) -> Result<(), Error> {
        let Some(record) = self.state.lock().pods.get(container_id).cloned() else { return Ok(()) };
        match &record.attachment {
            Attachment::Bridge { interface, .. } => {
                self.withdraw(&record)?;
                link::delete(&self.handle, interface).await?;
            }
            Attachment::Plugins { configuration, result } => {
                let list = NetworkList(configuration.clone());
                let netns = Some(record.netns.as_path()).filter(|path| path.exists());
                let attachment =
                    chain::Attachment { pod: &record.pod, netns, host_ports: &record.host_ports };
                self.chain(&list).del(attachment, result.as_ref()).await?;
            }
        }
        self.records.remove(container_id)?;
        let mut state = self.state.lock();
        if let Attachment::Bridge { address, .. } = record.attachment {
            state.addresses.release(address, container_id);
        }
        state.pods.remove(container_id);
        Ok(())
    }

    /// Whether a pod's network is as it was made.
    pub async fn check(&self, container_id: &str) -> Result<(), Error> {
        let record = self.state.lock().pods.get(container_id).cloned();
        let record = record.ok_or_else(|| Error::Unknown(container_id.to_owned()))?;
        let damaged = |what| Err(Error::Damaged { container_id: container_id.to_owned(), what });
        match &record.attachment {
            Attachment::Bridge { address, interface } => {
                let bridge = link::find(&self.handle, &self.layout.bridge).await?;
                let port = link::find(&self.handle, interface).await?;
                match (bridge, port) {
                    (None, _) => return damaged("the bridge is gone"),
                    (_, None) => return damaged("its interface on the node is gone"),
                    (Some(bridge), Some(port)) if port.controller != Some(bridge.index) || !port.up => {
                        return damaged("its interface on the node is not up or not at the bridge");
                    }
                    (Some(_), Some(_)) => {}
                }
                let inside = Namespace::open(&record.netns)?.connect().await?;
                if link::check_pod(&inside, *address).await? {
                    Ok(())
                } else {
                    damaged("its eth0 is down or lost its address")
                }
            }
            Attachment::Plugins { configuration, result } => {
                let list = NetworkList(configuration.clone());
                let Some(result) = result else { return damaged("it was never connected to the end") };
                let attachment = chain::Attachment {
                    pod: &record.pod,
                    netns: Some(&record.netns),
                    host_ports: &record.host_ports,
                };
                Ok(self.chain(&list).check(attachment, result).await?)
            }
        }
    }

    /// Disconnects every pod that is not among the living; answers how many. One that fails is told and stops nothing else.
    pub async fn gc(&self, living: &HashSet<String>) -> Result<usize, Error> {
        let dead: Vec<_> =
            self.state.lock().pods.keys().filter(|id| !living.contains(*id)).cloned().collect();
        let mut removed = 0;
        for id in dead {
            match self.del(&id).await {
                Ok(()) => removed += 1,
                Err(error) => {
                    tracing::warn!(
                        container = id,
                        error = &error as &dyn std::error::Error,
                        "a dead pod's network remains"
                    );
                }
            }
        }
        self.sweep().await?;
        if let Some(list) = configuration::load(&self.config.cni_conf_dir)? {
            let living: Vec<_> = living.iter().map(String::as_str).collect();
            self.chain(&list).gc(&living).await?;
        }
        Ok(removed)
    }

    /// Whether pods can be connected now. What is missing of our own is made again.
    pub async fn status(&self) -> Result<(), Error> {
        if let Some(list) = configuration::load(&self.config.cni_conf_dir)? {
            return Ok(self.chain(&list).status().await?);
        }
        let bridge = link::find(&self.handle, &self.layout.bridge).await?;
        if bridge.is_none_or(|bridge| !bridge.up) || self.table_is_gone()? {
            tracing::warn!(
                bridge = self.layout.bridge,
                "the node's side of the pod network is damaged and made again"
            );
            self.set_up().await?;
        }
        Ok(())
    }

    /// Whether no pod is connected.
    pub fn is_unused(&self) -> bool {
        self.state.lock().pods.is_empty()
    }

    /// Leads to other nodes' pods by exactly these routes; answers which cannot be had. Where the network is somebody else's,
    /// theirs are the ways too.
    pub async fn set_routes(&self, wanted: &[NodeRoute]) -> Result<Vec<Unreachable>, Error> {
        let others = configuration::load(&self.config.cni_conf_dir)?.is_some();
        let wanted = if others { &[] } else { wanted };
        // A node says its own range: it must not be led more to it than pods of this cluster.
        let (wanted, mut refused) =
            routes::divide(wanted, &self.config.cluster_cidrs, Some(self.config.pod_cidr));
        refused.extend(routes::set(&self.handle, &self.config.state_dir, &wanted).await?);
        Ok(refused)
    }

    /// Removes everything that belongs to the cluster, records included. The network cannot be used afterwards.
    pub async fn remove_all(self) -> Result<(), Error> {
        remove_all(&self.config).await
    }

    fn chain<'a>(&'a self, list: &'a NetworkList) -> Chain<'a> {
        Chain { list, folders: &self.config.cni_bin_dirs }
    }

    async fn set_up(&self) -> Result<u32, Error> {
        sysctl::set("ipv4/ip_forward", "1")?;
        let bridge = link::ensure_bridge(&self.handle, &self.layout, self.config.mtu).await?;
        let name = &self.layout.bridge;
        sysctl::set(&format!("ipv4/conf/{name}/route_localnet"), "1")?;
        sysctl::set(&format!("ipv4/conf/{name}/send_redirects"), "0")?;
        if let Some(IpNet::V4(services)) = self.config.service_cidr {
            link::ensure_route(&self.handle, bridge, services).await?;
        }
        let published = self.state.lock().published.clone();
        let mut kernel = self.kernel.lock();
        kernel.commit(rules::install(&self.layout, &published))?;
        let obstacles = forwarding::open(&mut kernel, &self.layout.cluster_id)?;
        if !obstacles.is_empty() {
            tracing::warn!(?obstacles, "other rules may lose pods' packets");
        }
        self.state.lock().generation = Some(kernel.generation()?);
        Ok(bridge)
    }

    /// Deletes interfaces that no record knows.
    async fn sweep(&self) -> Result<(), Error> {
        let prefix = format!("k{}", self.layout.cluster_id);
        for (name, _) in link::named(&self.handle, &prefix).await? {
            if !self.state.lock().interface_in_use(&name) {
                tracing::warn!(interface = name, "an interface without a pod is removed");
                link::delete(&self.handle, &name).await?;
            }
        }
        Ok(())
    }

    fn table_is_gone(&self) -> Result<bool, Error> {
        let mut kernel = self.kernel.lock();
        let generation = kernel.generation()?;
        if self.state.lock().generation == Some(generation) {
            return Ok(false);
        }
        let name = rules::table(&self.layout.cluster_id).name;
        let gone = !kernel.tables(Family::Ipv4)?.contains(&name);
        if !gone {
            self.state.lock().generation = Some(generation);
        }
        Ok(gone)
    }

    async fn add_to_bridge(
        &self,
        netns: &Path,
        pod: &Pod,
        host_ports: &[PortMapping],
    ) -> Result<AddResult, Error> {
        let bridge = match link::find(&self.handle, &self.layout.bridge).await? {
            Some(bridge) if bridge.up => bridge.index,
            Some(_) | None => self.set_up().await?,
        };
        let namespace = Namespace::open(netns)?;
        let (address, interface) = self.reserve(netns, pod, host_ports)?;
        let inside = namespace.connect().await?;
        let (handle, mtu) = (&self.handle, self.config.mtu);
        link::create_veth(handle, &interface, bridge, &namespace, address, mtu).await?;
        link::configure_pod(&inside, address, self.layout.gateway).await?;
        self.publish(&pod.container_id)?;
        Ok(AddResult {
            ips: vec![IpAddr::V4(address)],
            gateway: Some(IpAddr::V4(self.layout.gateway)),
            host_interface: Some(interface),
        })
    }

    /// Decides address and interface name, and puts them on disk.
    fn reserve(
        &self,
        netns: &Path,
        pod: &Pod,
        host_ports: &[PortMapping],
    ) -> Result<(Ipv4Addr, String), Error> {
        let mut state = self.state.lock();
        let address = state.addresses.allocate(&pod.container_id)?;
        let mut attempt = 0;
        let interface = loop {
            let name = link::veth_name(&self.layout.cluster_id, &pod.container_id, attempt);
            if !state.interface_in_use(&name) {
                break name;
            }
            attempt += 1;
        };
        let record = Record {
            pod: pod.clone(),
            netns: netns.to_owned(),
            host_ports: host_ports.to_vec(),
            attachment: Attachment::Bridge { address, interface: interface.clone() },
        };
        if let Err(error) = self.records.write(&record) {
            state.addresses.release(address, &pod.container_id);
            return Err(error.into());
        }
        state.pods.insert(pod.container_id.clone(), record);
        Ok((address, interface))
    }

    /// Leads the pod's ports of the node to it.
    fn publish(&self, container_id: &str) -> Result<(), Error> {
        let mut kernel = self.kernel.lock();
        let mut state = self.state.lock();
        let Some(record) = state.pods.get(container_id) else { return Ok(()) };
        let ports = targets(record);
        if ports.is_empty() {
            return Ok(());
        }
        for (port, _) in &ports {
            if let Some((address, _)) = state.published.get(port) {
                let holder = state.pods.values().find(|other| {
                    matches!(other.attachment, Attachment::Bridge { address: one, .. } if one == *address)
                });
                let holder = holder.map(|other| other.pod.clone());
                let (namespace, name) = holder.map(|pod| (pod.namespace, pod.name)).unwrap_or_default();
                return Err(Error::PortTaken { port: port.port, protocol: port.protocol, namespace, name });
            }
        }
        let mut batch = Batch::new();
        rules::publish(&mut batch, &self.layout.cluster_id, &ports);
        state.published.extend(ports.iter().copied());
        self.commit(&mut kernel, &state, batch)?;
        forget_datagrams(&mut kernel, &ports)
    }

    fn withdraw(&self, record: &Record) -> Result<(), Error> {
        let mut kernel = self.kernel.lock();
        let mut state = self.state.lock();
        let mut ports = targets(record);
        ports.retain(|(port, target)| state.published.get(port) == Some(target));
        if ports.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        rules::withdraw(&mut batch, &self.layout.cluster_id, &ports);
        for (port, _) in &ports {
            state.published.remove(port);
        }
        self.commit(&mut kernel, &state, batch)?;
        forget_datagrams(&mut kernel, &ports)
    }

    /// If the table is not as we left it, it is made anew with all that belongs in it.
    fn commit(&self, kernel: &mut Connection, state: &State, batch: Batch) -> Result<(), Error> {
        match kernel.commit(batch) {
            Err(error) if error.is_missing() => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the network's table was changed and is made again"
                );
                Ok(kernel.commit(rules::install(&self.layout, &state.published))?)
            }
            other => Ok(other?),
        }
    }

    async fn add_by_plugins(
        &self,
        list: &NetworkList,
        netns: &Path,
        pod: &Pod,
        host_ports: &[PortMapping],
    ) -> Result<AddResult, Error> {
        let mut record = Record {
            pod: pod.clone(),
            netns: netns.to_owned(),
            host_ports: host_ports.to_vec(),
            attachment: Attachment::Plugins { configuration: list.0.clone(), result: None },
        };
        self.records.write(&record)?;
        self.state.lock().pods.insert(pod.container_id.clone(), record.clone());
        // Plugins leave the loopback interface to the runtime.
        let inside = Namespace::open(netns)?.connect().await?;
        link::loopback_up(&inside).await?;
        let attachment = chain::Attachment { pod, netns: Some(netns), host_ports };
        let result = self.chain(list).add(attachment).await?;
        let (ips, gateway) = chain::addresses(&result);
        if ips.is_empty() {
            return Err(ChainError::NoAddress { network: list.name().to_owned() }.into());
        }
        record.attachment = Attachment::Plugins { configuration: list.0.clone(), result: Some(result) };
        self.records.write(&record)?;
        self.state.lock().pods.insert(pod.container_id.clone(), record);
        Ok(AddResult { ips, gateway, host_interface: None })
    }
}

/// UDP has no end: what is tracked of a port goes on to where it went before.
fn forget_datagrams(kernel: &mut Connection, ports: &[(HostPort, Target)]) -> Result<(), Error> {
    let udp: HashSet<u16> =
        ports.iter().filter(|(port, _)| port.protocol == Protocol::Udp).map(|(port, _)| port.port).collect();
    if udp.is_empty() {
        return Ok(());
    }
    for entry in kernel.connections(Family::Ipv4, conntrack::UDP)? {
        if udp.contains(&entry.original.destination_port) {
            kernel.forget(Family::Ipv4, &entry)?;
        }
    }
    Ok(())
}

pub(crate) fn connect() -> Result<Handle, Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Netlink)?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Removes everything of a cluster's pod network on this node, whether or not it runs: pods' interfaces, bridge, rules, records.
///
/// What plugins of others made is disconnected by them as far as they can; they stop nothing else.
pub async fn remove_all(config: &Config) -> Result<(), Error> {
    let cluster_id = config::checked(&config.cluster_id)?;
    if config.state_dir.exists() {
        for record in Records::open(&config.state_dir)?.load()? {
            let Attachment::Plugins { configuration, result } = &record.attachment else { continue };
            let list = NetworkList(configuration.clone());
            let chain = Chain { list: &list, folders: &config.cni_bin_dirs };
            let netns = Some(record.netns.as_path()).filter(|path| path.exists());
            let attachment = chain::Attachment { pod: &record.pod, netns, host_ports: &record.host_ports };
            if let Err(error) = chain.del(attachment, result.as_ref()).await {
                let container = &record.pod.container_id;
                tracing::warn!(
                    container,
                    error = &error as &dyn std::error::Error,
                    "a plugin did not disconnect a pod"
                );
            }
        }
    }
    let handle = connect()?;
    routes::remove_all(&handle, &config.state_dir).await?;
    for (name, _) in link::named(&handle, &format!("k{cluster_id}")).await? {
        link::delete(&handle, &name).await?;
    }
    link::delete(&handle, &config::bridge(&cluster_id)).await?;
    let mut kernel = Connection::open()?;
    kernel.remove_table(&rules::table(&cluster_id))?;
    forwarding::close(&mut kernel, &cluster_id)?;
    match fs::remove_dir_all(&config.state_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Remove(config.state_dir.clone(), error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
