//! The components of a node that is also its control plane, and what they are told.
//!
//! Each runs as a task with an identity and a client of its own; one that ends although nobody asked it to is started
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
use keelson_apiserver::ApiServer;
use keelson_apiserver::identity::Identity;
use keelson_apiserver::pki::Renewed;
use keelson_runtime::image::{Registries, SelfImage};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::control_plane::ControlPlane;
use crate::cluster::{Cluster, Folder};
use crate::pod_network::NodeNetwork;

pub(crate) mod control_plane;

/// The image that the binary carries.
pub(crate) const SELF_IMAGE: &str = concat!("keelson.io/keelson:", env!("CARGO_PKG_VERSION"));

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

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
    fn start<F, E>(
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
                // What a component keeps between two runs lies on disk or in the API, not in what a panic leaves.
                let outcome = AssertUnwindSafe(run(stop.clone())).catch_unwind().await;
                if stop.is_cancelled() {
                    return;
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

/// The address of the node: the one from which it reaches other networks, or else the bridge's.
pub(crate) fn node_address(cluster: &Cluster) -> IpAddr {
    // Nothing is sent: connecting a datagram socket only chooses the way.
    let asked = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    match asked {
        Ok(address) if !address.ip().is_unspecified() && !address.ip().is_loopback() => address.ip(),
        Ok(_) | Err(_) => cluster.gateway(),
    }
}

/// What the pod network is told.
pub(crate) fn network_config(folder: &Folder, cluster: &Cluster) -> keelson_network::Config {
    keelson_network::Config {
        cluster_id: cluster.id.clone(),
        pod_cidr: IpNet::V4(cluster.pod_cidr),
        cluster_cidrs: vec![IpNet::V4(cluster.cluster_cidr)],
        service_cidr: Some(IpNet::V4(cluster.service_cidr)),
        state_dir: folder.join("network"),
        ..keelson_network::Config::default()
    }
}

/// What the container runtime is told.
pub(crate) fn runtime_config(
    folder: &Folder,
    cluster: &Cluster,
    network: Arc<NodeNetwork>,
) -> anyhow::Result<keelson_runtime::Config> {
    Ok(keelson_runtime::Config {
        root: folder.join("runtime"),
        socket: socket(folder),
        cluster_id: cluster.id.clone(),
        cgroup_root: cluster.cgroup(),
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

/// How registries are reached: what the folder's owner wrote into `registries.yaml`, if anything.
fn registries(folder: &Folder) -> anyhow::Result<Registries> {
    let path = folder.registries();
    match std::fs::read(&path) {
        Ok(text) => serde_yaml_ng::from_slice(&text)
            .with_context(|| format!("{} is not what it should be", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Registries::default()),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn socket(folder: &Folder) -> PathBuf {
    folder.join("run/cri.sock")
}

/// What all components are told.
pub(crate) struct Node<'a> {
    pub(crate) folder: &'a Folder,
    pub(crate) cluster: &'a Cluster,
    pub(crate) server: &'a ApiServer,
    pub(crate) address: IpAddr,
    pub(crate) network: Arc<NodeNetwork>,
}

impl Components {
    /// Starts everything that a lone node has beside the API server.
    pub(crate) fn start_all(&self, node: &Node<'_>) -> anyhow::Result<()> {
        let runtime = runtime_config(node.folder, node.cluster, Arc::clone(&node.network))?;
        self.start("container runtime", move |stop| keelson_runtime::run(runtime.clone(), stop));

        let serving = Renewed::serving(
            node.server.pki(),
            "kubelet",
            std::slice::from_ref(&node.cluster.node_name),
            &[node.address, IpAddr::from([127, 0, 0, 1])],
        )?;
        let kubelet = kubelet_config(node, Arc::clone(&serving));
        self.start("kubelet's certificate", move |stop| {
            let kept = Arc::clone(&serving).keep(stop);
            async move {
                kept.await;
                anyhow::Ok(())
            }
        });
        let name = format!("system:node:{}", node.cluster.node_name);
        let client = node.server.client(Identity::user(name, &["system:nodes"]));
        self.start("kubelet", move |stop| keelson_kubelet::run(kubelet.clone(), client.clone(), stop));

        let proxy = proxy_config(node.cluster, node.address);
        let client = node.server.client(Identity::user("system:kube-proxy", &[]));
        self.start("proxy", move |stop| keelson_proxy::run(proxy.clone(), client.clone(), stop));

        self.start_control_plane(ControlPlane {
            server: node.server,
            address: node.address,
            facts: node.cluster.facts().for_operators(node.server.pki().authority()),
            has_others: false,
        });
        Ok(())
    }
}

fn kubelet_config(node: &Node<'_>, serving: Arc<Renewed>) -> keelson_kubelet::Config {
    let cluster = node.cluster;
    keelson_kubelet::Config {
        node_name: cluster.node_name.clone(),
        node_ip: node.address,
        bind: SocketAddr::new(IpAddr::from([0, 0, 0, 0]), cluster.kubelet_port),
        data_dir: node.folder.join("kubelet"),
        log_dir: node.folder.join("logs/pods"),
        cri_socket: socket(node.folder),
        pod_cidr: IpNet::V4(cluster.pod_cidr),
        cluster_dns: vec![cluster.facts().cluster_dns],
        cluster_domain: cluster.facts().cluster_domain,
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
        cgroup_root: cluster.cgroup(),
        max_pods: 110,
        labels: BTreeMap::new(),
        version: crate::GIT_VERSION.to_owned(),
        serving,
        client_ca: node.server.pki().authority().to_owned(),
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
