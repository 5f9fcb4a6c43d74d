//! The components of a node and of a control plane, and what they are told.
//!
//! [`Components::start_node`] is what every node runs, [`Components::start_control_plane`] what is beside an API server.
//! Each component runs as a task with an identity and a client of its own; one that ends although nobody asked it to is started
//! again, after a growing pause.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt as _;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Taint;
use keelson_apiserver::ApiServer;
use keelson_apiserver::pki::Renewed;
use keelson_cgroup::Driver;
use keelson_runtime::image::{Registries, SelfImage};
use rustls::server::ResolvesServerCert;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::{Cluster, Folder};
use crate::node_routes::{NodeRoutes, Ways};
use crate::pod_network::NodeNetwork;

pub(crate) mod control_plane;
pub(crate) mod engine;
pub(crate) mod kubelet_options;

use engine::Engine;
use kubelet_options::KubeletSettings;

/// The image that the binary carries.
pub(crate) const SELF_IMAGE: &str = concat!("keelson.io/keelson:", env!("CARGO_PKG_VERSION"));

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What ran for so long was well: its next failure is its first.
const LASTING: Duration = Duration::from_secs(60);

/// A component failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) component: &'static str,
    pub(crate) error: String,
}

/// The running components.
pub(crate) struct Components {
    stop: CancellationToken,
    tasks: TaskTracker,
    failures: mpsc::Sender<Failure>,
}

impl Components {
    /// None yet. Failures are told to whom the receiver belongs; the sender never waits for it.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Failure>) {
        let (failures, told) = mpsc::channel(16);
        (Components { stop: CancellationToken::new(), tasks: TaskTracker::new(), failures }, told)
    }

    /// Runs a component until [`Components::stop`].
    pub(crate) fn start<F, E>(
        &self,
        component: &'static str,
        mut run: impl FnMut(CancellationToken) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error> + Send,
    {
        let (stop, failures) = (self.stop.clone(), self.failures.clone());
        self.tasks.spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let begun = tokio::time::Instant::now();
                // What a component keeps between two runs lies on disk or in the API, not in what a panic leaves.
                let outcome = AssertUnwindSafe(run(stop.clone())).catch_unwind().await;
                if stop.is_cancelled() {
                    return;
                }
                if begun.elapsed() >= LASTING {
                    pause = FIRST_PAUSE;
                }
                let error = match outcome {
                    Ok(Ok(())) => "it ended".to_owned(),
                    Ok(Err(error)) => format!("{:#}", error.into()),
                    Err(_) => "it panicked".to_owned(),
                };
                tracing::error!(component, error, ?pause, "a component failed and is started again");
                // Whoever no longer listens has stopped starting.
                let _ = failures.try_send(Failure { component, error });
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                    () = stop.cancelled() => return,
                }
            }
        });
    }

    /// Ends all of them. Pods run on.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The address of the node: the given one, the one from which it reaches other networks, or else the bridge's.
pub(crate) fn node_address(cluster: &Cluster) -> IpAddr {
    let beyond = SocketAddr::from(([192, 0, 2, 1], 9));
    cluster
        .node_ip
        .or_else(|| address_towards(beyond))
        .or_else(|| cluster.gateway())
        .unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

/// This machine's address on the way to another one, if there is a way that is not the loopback interface.
pub(crate) fn address_towards(other: SocketAddr) -> Option<IpAddr> {
    let own = if other.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // Nothing is sent: connecting a datagram socket only chooses the way.
    let asked = UdpSocket::bind(own).and_then(|socket| {
        socket.connect(other)?;
        socket.local_addr()
    });
    let address = asked.ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}

/// What the pod network is told.
pub(crate) fn network_config(folder: &Folder, cluster: &Cluster) -> keelson_network::Config {
    let defaults = keelson_network::Config::default();
    keelson_network::Config {
        cluster_id: cluster.id.clone(),
        pod_cidr: cluster.pod_cidr.map_or(defaults.pod_cidr, IpNet::V4),
        cluster_cidrs: vec![IpNet::V4(cluster.cluster_cidr)],
        service_cidr: Some(IpNet::V4(cluster.service_cidr)),
        state_dir: folder.join("network"),
        ..defaults
    }
}

/// What the container runtime is told.
pub(crate) fn runtime_config(
    folder: &Folder,
    cluster: &Cluster,
    network: Arc<NodeNetwork>,
    cgroup_driver: Driver,
) -> anyhow::Result<keelson_runtime::Config> {
    Ok(keelson_runtime::Config {
        root: folder.join("runtime"),
        socket: socket(folder),
        cluster_id: cluster.id.clone(),
        cgroup_root: cluster.cgroup(),
        cgroup_driver,
        pod_process: keelson_runtime::PodProcess {
            // The very file that runs, also when another one has taken its name meanwhile.
            program: PathBuf::from("/proc/self/exe"),
            arguments: vec!["pod-process".into()],
        },
        network,
        registries: registries(folder)?,
        self_image: Some(SelfImage {
            name: SELF_IMAGE.to_owned(),
            binary: std::env::current_exe().context("find this program's file")?,
        }),
    })
}

/// How registries are reached: what the folder's owner wrote into `registries.yaml` and `certs.d`, if anything.
fn registries(folder: &Folder) -> anyhow::Result<Registries> {
    let path = folder.registries();
    let registries = match std::fs::read(&path) {
        Ok(text) => serde_yaml_ng::from_slice(&text)
            .with_context(|| format!("{} is not what it should be", path.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Registries::default(),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    Ok(Registries { hosts: folder.join("certs.d"), ..registries })
}

fn socket(folder: &Folder) -> PathBuf {
    folder.join("run/cri.sock")
}

/// What the components of a node are told.
pub(crate) struct Node<'a> {
    pub(crate) folder: &'a Folder,
    pub(crate) cluster: &'a Cluster,
    pub(crate) address: IpAddr,
    pub(crate) network: Arc<NodeNetwork>,
    /// The API as this node.
    pub(crate) kubelet: kube::Client,
    /// The API as one who may see Services and their endpoints.
    pub(crate) proxy: kube::Client,
    /// The certificate of the kubelet's server.
    pub(crate) serving: Arc<dyn ResolvesServerCert>,
    /// The cluster's authority, in PEM.
    pub(crate) authority: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) settings: KubeletSettings,
}

impl Components {
    /// Starts what every node runs: container runtime, kubelet, proxy, and the routes to other nodes' pods.
    pub(crate) fn start_node(&self, node: &Node<'_>) -> anyhow::Result<()> {
        let engine = Engine::of(&node.settings.configuration);
        engine::choose(node.folder, engine.as_ref())?;
        match engine {
            Some(_) => self.start_engine(node)?,
            None => {
                let driver = node.settings.configuration.cgroup_driver;
                let runtime = runtime_config(node.folder, node.cluster, Arc::clone(&node.network), driver)?;
                self.start("container runtime", move |stop| keelson_runtime::run(runtime.clone(), stop));
            }
        }

        let (kubelet, client) = (kubelet_config(node), node.kubelet.clone());
        self.start("kubelet", move |stop| keelson_kubelet::run(kubelet.clone(), client.clone(), stop));

        let (proxy, client) = (proxy_config(node.cluster, node.address), node.proxy.clone());
        self.start("proxy", move |stop| keelson_proxy::run(proxy.clone(), client.clone(), stop));

        let ways = Ways::Node(node.cluster.node_name.clone(), Arc::clone(&node.network));
        self.start_routes(NodeRoutes { client: node.kubelet.clone(), ways });
        Ok(())
    }

    /// Starts to keep the routes to nodes' pods.
    pub(crate) fn start_routes(&self, routes: NodeRoutes) {
        self.start("routes", move |stop| routes.clone().run(stop));
    }

    /// Starts the kubelet's certificate of a node that has the cluster's authority; what is given shows it.
    pub(crate) fn start_serving(
        &self,
        server: &ApiServer,
        node_name: &str,
        address: IpAddr,
    ) -> anyhow::Result<Arc<dyn ResolvesServerCert>> {
        let (names, addresses) = ([node_name.to_owned()], [address, IpAddr::from([127, 0, 0, 1])]);
        let serving = Renewed::serving(server.pki(), "kubelet", &names, &addresses)?;
        let shown = Arc::clone(&serving);
        self.start("kubelet's certificate", move |stop| {
            let kept = Arc::clone(&serving).keep(stop);
            async move {
                kept.await;
                anyhow::Ok(())
            }
        });
        Ok(shown)
    }
}

fn kubelet_config(node: &Node<'_>) -> keelson_kubelet::Config {
    let (cluster, facts) = (node.cluster, node.cluster.facts());
    let engine = Engine::of(&node.settings.configuration);
    keelson_kubelet::Config {
        node_name: cluster.node_name.clone(),
        node_ip: node.address,
        bind: SocketAddr::new(IpAddr::from([0, 0, 0, 0]), cluster.kubelet_port),
        data_dir: node.folder.join("kubelet"),
        log_dir: node.folder.join("logs/pods"),
        image_socket: engine.as_ref().and_then(|_| node.settings.configuration.image_socket()),
        cri_socket: engine.map_or_else(|| socket(node.folder), |engine| engine.socket),
        // An agent takes what the cluster gives its Node, also when that changes.
        pod_cidr: if cluster.agent.is_some() { None } else { cluster.pod_cidr.map(IpNet::V4) },
        cluster_dns: vec![facts.cluster_dns],
        cluster_domain: facts.cluster_domain,
        cgroup_root: cluster.cgroup(),
        settings: node.settings.configuration.clone(),
        credential_providers: node.settings.credential_providers.clone(),
        labels: node.labels.clone(),
        taints: node.taints.clone(),
        version: crate::GIT_VERSION.to_owned(),
        serving: Arc::clone(&node.serving),
        client_ca: node.authority.clone(),
    }
}

/// What the proxy is told.
fn proxy_config(cluster: &Cluster, address: IpAddr) -> keelson_proxy::Config {
    keelson_proxy::Config {
        cluster_id: cluster.id.clone(),
        node_name: cluster.node_name.clone(),
        node_ips: vec![address],
        pod_cidrs: vec![IpNet::V4(cluster.cluster_cidr)],
        service_cidr: IpNet::V4(cluster.service_cidr),
    }
}
