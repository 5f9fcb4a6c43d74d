//! `keelson up`: makes or continues the cluster of a folder, and shows how.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, bail};
use futures::FutureExt;
use ipnet::Ipv4Net;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node as NodeObject;
use keelson_apiserver::ApiServer;
use keelson_apiserver::identity::Identity;
use keelson_apiserver::server::Config;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::await_condition;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::background;
use crate::cli::UpOptions;
use crate::cluster::{Cluster, Folder, Holder, Lock, Notes, Profile};
use crate::components::control_plane::ControlPlane;
use crate::components::kubelet_options::KubeletSettings;
use crate::components::{self, Components, Failure, Node};
use crate::machine::{self, Machine, UNCHANGED, Wish};
use crate::memory;
use crate::node_ready;
use crate::pod_network::NodeNetwork;
use crate::progress::Progress;

const API_PORT: u16 = 6443;
const KUBELET_PORT: u16 = 10250;
pub(crate) const NODE_LEASES: &str = "kube-node-lease";

/// Runs the command.
pub(crate) fn run(options: &UpOptions) -> anyhow::Result<()> {
    let folder = Folder::new(&options.data.data_dir)?;
    if options.detach && !options.in_background {
        return background::detach(&folder, "the cluster");
    }
    let progress = Progress::new();
    let outcome = begin(&progress, options, &folder);
    if let (Err(error), true) = (&outcome, options.in_background) {
        // Standard error is the log by now.
        progress.line(format_args!("{error:#}"));
    }
    outcome
}

/// Prepares the machine, then runs the cluster.
fn begin(progress: &Progress, options: &UpOptions, folder: &Folder) -> anyhow::Result<()> {
    progress.line(format_args!(
        "Keelson {} (Kubernetes {})\n",
        env!("CARGO_PKG_VERSION"),
        crate::GIT_VERSION
    ));
    let settings = options.kubelet.settings(folder)?;
    let (lock, cluster) = match prepare(progress, options, folder)? {
        Prepared::Ready(lock, cluster) => (lock, cluster),
        Prepared::Running(holder) => {
            let process = holder.0.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            progress.line(format_args!(
                "The cluster in {} is already running{process}.",
                folder.path().display()
            ));
            next_steps(progress, folder);
            if options.in_background {
                background::ready(progress);
            }
            return Ok(());
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(progress, options, folder, cluster, settings));
    drop(lock);
    outcome
}

enum Prepared {
    Ready(Lock, Cluster),
    Running(Holder),
}

/// Finds what is missing before anything is changed, then makes the folder and the cluster's record.
fn prepare(progress: &Progress, options: &UpOptions, folder: &Folder) -> anyhow::Result<Prepared> {
    let since = Instant::now();
    let known = folder.read()?;
    if known.as_ref().is_some_and(|known| known.agent.is_some()) {
        bail!(
            "{} is the folder of an agent: continue it with `keelson agent`, or choose another with --data-dir",
            folder.path().display()
        );
    }
    if known.is_some()
        && let Err(holder) = folder.lock()?
    {
        return Ok(Prepared::Running(holder));
    }
    let own = keelson_network::recorded_routes(&folder.join("network"))?;
    let machine = Machine::look(folder.path()).without(&own);
    let others = if nix::unistd::geteuid().is_root() { Some(Notes::open()?) } else { None };
    let cluster = match known {
        Some(cluster) => continued(cluster, options),
        None => chosen(&machine, others.as_ref(), options, folder)?,
    };
    let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let wish = Wish {
        data_dir: folder.path(),
        ports: vec![
            (any(cluster.api_port), "API server", "--api-port"),
            (any(cluster.kubelet_port), "kubelet", "--kubelet-port"),
        ],
        ranges: vec![(cluster.cluster_cidr, "pods"), (cluster.service_cidr, "Services")],
        bridge: Some(keelson_network::bridge_name(&cluster.id)),
    };
    machine::must_give(progress, &machine, &wish, "run the cluster", UNCHANGED)?;
    folder.make()?;
    let lock = match folder.lock()? {
        Ok(lock) => lock,
        Err(holder) => return Ok(Prepared::Running(holder)),
    };
    if let Some(notes) = others {
        notes.leave(folder, &cluster)?;
    }
    folder.write(&cluster)?;
    if options.in_background {
        background::log_to(folder)?;
    }
    progress.done("Machine", format_args!("kernel {}, {}", machine.kernel, machine.cgroups), since);
    Ok(Prepared::Ready(lock, cluster))
}

/// A cluster that exists, with what may be changed about it.
fn continued(cluster: Cluster, options: &UpOptions) -> Cluster {
    Cluster {
        node_ip: options.node_ip.or(cluster.node_ip),
        api_port: options.api_port.unwrap_or(cluster.api_port),
        kubelet_port: options.kubelet_port.unwrap_or(cluster.kubelet_port),
        ..cluster
    }
}

/// A new cluster takes what no other one has.
fn chosen(
    machine: &Machine,
    notes: Option<&Notes>,
    options: &UpOptions,
    folder: &Folder,
) -> anyhow::Result<Cluster> {
    let others = notes.map(|notes| notes.others(folder)).transpose()?.unwrap_or_default();
    let others: Vec<&Cluster> = others.iter().map(|note| &note.cluster).collect();
    let free_port = |first: u16, has: &dyn Fn(&Cluster, u16) -> bool| {
        (first..=u16::MAX).find(|port| !others.iter().any(|other| has(other, *port))).unwrap_or(first)
    };
    let free_range = |first: u8, used: &dyn Fn(&Cluster) -> Ipv4Net| {
        let ranges = (first..first.saturating_add(50))
            .map(|second| Ipv4Net::new_assert(Ipv4Addr::new(10, second, 0, 0), 16));
        let mut free = ranges.filter(|range| {
            machine.uses(*range, None).is_none() && !others.iter().any(|other| used(other) == *range)
        });
        free.next().context(
            "no range of addresses is free between 10.42.0.0 and 10.145.255.255: remove a route or a cluster",
        )
    };
    let cluster_cidr = free_range(42, &|other| other.cluster_cidr)?;
    let uses_port = |other: &Cluster, port| other.api_port == port || other.kubelet_port == port;
    Ok(Cluster {
        id: format!("{:08x}", uuid::Uuid::new_v4().as_fields().0),
        node_name: match &options.node_name {
            Some(name) => name.clone(),
            None => machine::host_name()?,
        },
        node_ip: options.node_ip,
        api_port: options.api_port.unwrap_or_else(|| free_port(API_PORT, &uses_port)),
        kubelet_port: options.kubelet_port.unwrap_or_else(|| free_port(KUBELET_PORT, &uses_port)),
        service_cidr: free_range(96, &|other| other.service_cidr)?,
        pod_cidr: Some(Ipv4Net::new_assert(cluster_cidr.network(), 24)),
        cluster_cidr,
        profile: None,
        agent: None,
    })
}

fn next_steps(progress: &Progress, folder: &Folder) {
    progress.line(format_args!(
        "\n  export KUBECONFIG={}\n  kubectl apply -k manifests/quickstart\n  kubectl get pods,svc,operators -A\n",
        folder.kubeconfig().display()
    ));
}

/// Runs the cluster until it is asked to end.
async fn serve(
    progress: &Progress,
    options: &UpOptions,
    folder: &Folder,
    mut cluster: Cluster,
    settings: KubeletSettings,
) -> anyhow::Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let since = Instant::now();
    tokio::spawn(memory::give_back());
    let (server, network) = tokio::join!(
        start_server(folder, &cluster, options),
        NodeNetwork::start(components::network_config(folder, &cluster))
    );
    let server = server?;
    let (components, mut failures) = Components::new();
    let outcome = async {
        let network = network.context("prepare the pod network")?;
        progress.done("API server", format_args!("https://127.0.0.1:{}", cluster.api_port), since);
        let address = components::node_address(&cluster);
        let user = format!("system:node:{}", cluster.node_name);
        let node = Node {
            folder,
            cluster: &cluster,
            address,
            network,
            kubelet: server.client(Identity::user(user, &["system:nodes"])),
            proxy: server.client(Identity::user("system:kube-proxy", &[])),
            serving: components.start_serving(&server, &cluster.node_name, address)?,
            authority: server.pki().authority().to_owned(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            settings,
        };
        components.start_node(&node)?;
        components.start_control_plane(ControlPlane {
            server: &server,
            address,
            facts: cluster.facts().for_operators(server.pki().authority()),
            has_others: options.api_server.etcd.is_chosen(),
        });
        let ready = become_ready(progress, options, &cluster, &server);
        let profile = tokio::select! {
            ready = ready => ready?,
            Some(failure) = failures.recv() => return Err(failed(failure)),
            failure = server.failed() => return Err(failure.into()),
            _ = interrupted.recv() => return Ok(()),
            _ = terminated.recv() => return Ok(()),
        };
        if cluster.profile != Some(profile) {
            cluster.profile = Some(profile);
            folder.write(&cluster)?;
        }
        progress.line(format_args!("\nReady after {:.2} s. Next:", progress.elapsed().as_secs_f64()));
        next_steps(progress, folder);
        announce(progress, options, &mut failures)?;
        tokio::select! {
            failure = server.failed() => return Err(failure.into()),
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
        anyhow::Ok(())
    }
    .boxed()
    .await;
    progress.line("Stopping; pods run on.");
    components.stop().await;
    server.shutdown().await;
    outcome
}

fn failed(failure: Failure) -> anyhow::Error {
    anyhow::anyhow!("{} failed: {}", failure.component, failure.error)
}

/// In the background: lets the one in the foreground go.
fn announce(
    progress: &Progress,
    options: &UpOptions,
    failures: &mut mpsc::Receiver<Failure>,
) -> anyhow::Result<()> {
    // From here on failures are only logged.
    failures.close();
    if options.in_background {
        background::let_go(progress)?;
    } else {
        progress.line("Ctrl-C ends the control plane; pods run on.");
    }
    Ok(())
}

async fn start_server(folder: &Folder, cluster: &Cluster, options: &UpOptions) -> anyhow::Result<ApiServer> {
    let address = components::node_address(cluster);
    let bind = SocketAddr::from((Ipv4Addr::UNSPECIFIED, cluster.api_port));
    let mut config = Config {
        names: vec![cluster.node_name.clone(), address.to_string()],
        advertise: Some(address),
        service_cidr: cluster.service_cidr,
        git_version: crate::GIT_VERSION.to_owned(),
        ..Config::new(folder.path().to_owned(), bind)
    };
    options.api_server.apply(&mut config)?;
    if options.profile.or(cluster.profile) == Some(Profile::Minimal) {
        // What they set, only an operator takes away.
        config.admission.leave_out(&["TaintNodesByCondition", "StorageObjectInUseProtection"]);
    }
    let server = ApiServer::start(config).await?;
    let url = format!("https://127.0.0.1:{}", server.address().port());
    server.keep_kubeconfig(folder.kubeconfig(), &url)?;
    Ok(server)
}

/// Waits for the Node and the operators; answers the profile that is installed then.
async fn become_ready(
    progress: &Progress,
    options: &UpOptions,
    cluster: &Cluster,
    server: &ApiServer,
) -> anyhow::Result<Profile> {
    let (since, began) = (Instant::now(), Timestamp::now());
    let client = server.administrator();
    let profile = options.profile.or(cluster.profile).unwrap_or(Profile::Default);
    let operators = async {
        // What was deleted from a cluster since is not brought back.
        if cluster.profile != Some(profile) {
            keelson_operator_catalog::install(client.clone(), profile.name())
                .await
                .context("install the operators")?;
        }
        let running = keelson_operator_catalog::wait_until_settled(client.clone())
            .await
            .context("wait for the operators")?;
        progress.done("Operators", running, since);
        anyhow::Ok(())
    };
    let node = async {
        // What the Node said of itself before this start says nothing: its kubelet has to be at work again.
        let leases: Api<Lease> = Api::namespaced(client.clone(), NODE_LEASES);
        await_condition(leases, &cluster.node_name, |lease: Option<&Lease>| renewed_after(lease, began))
            .await
            .context("wait for the Node's Lease")?;
        let nodes: Api<NodeObject> = Api::all(client.clone());
        let ready = node_ready::until_ready(progress, nodes.clone(), &cluster.node_name, true).await?;
        // A kubelet may not give its own node a role.
        let role = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
        let labelled = nodes.patch(&cluster.node_name, &PatchParams::default(), &Patch::Merge(role)).await;
        labelled.context("label the Node with its role")?;
        let address = ready.and_then(|node| {
            let mut addresses: BTreeMap<String, String> = BTreeMap::new();
            addresses.extend(node.status?.addresses?.into_iter().map(|it| (it.type_, it.address)));
            addresses.remove("InternalIP")
        });
        let address = address.map(|it| format!(" at {it}")).unwrap_or_default();
        progress.done("Node", format_args!("{} is Ready{address}", cluster.node_name), since);
        anyhow::Ok(())
    };
    let facts = cluster.facts();
    tokio::try_join!(node, operators, facts.write(&client))?;
    Ok(profile)
}

/// Whether a Lease was renewed at that time or later.
pub(crate) fn renewed_after(lease: Option<&Lease>, time: Timestamp) -> bool {
    let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref());
    renewed.is_some_and(|renewed| renewed.0 >= time)
}
