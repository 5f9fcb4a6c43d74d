//! `keelson agent`: makes this machine a node of a cluster whose servers are elsewhere.
//!
//! ```text
//! token --join--> authority, certificate --connector--> API of whichever server lives
//!                                  `-> facts, servers  -> runtime, kubelet, proxy, routes
//! ```
//!
//! - `options`: the flags; `join`: from a token to a certificate; `request`: certificates by request
//! - `certificate`: those in use, replaced in time; `servers`, `connector`: which server is asked
//!
//! **Invariant: what a start needs lies in the folder**, so that pods and agent outlive the servers' absence: the record
//! (`cluster.json`), `pki/` (authority, certificates with their keys), `servers`.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::FutureExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};

use crate::background;
use crate::cluster::{Agent, Cluster, Folder, Lock, Notes};
use crate::components::{self, Components, Node};
use crate::connection::{first_certificate, host_and_port, token_of};
use crate::facts::Facts;
use crate::machine::{self, Machine, UNCHANGED, Wish};
use crate::memory;
use crate::node_ready;
use crate::pod_network::NodeNetwork;
use crate::progress::Progress;
use crate::up::{NODE_LEASES, renewed_after};

mod certificate;
mod connector;
mod join;
mod options;
mod request;
mod servers;

use certificate::{Rotated, write_private};
pub(crate) use options::AgentOptions;
use request::{CLIENT, SERVING, Wanted};
use servers::Servers;

const KUBELET_PORT: u16 = 10250;
/// How long the servers may take to say what a start asks, before it goes on with what is known.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Runs the command.
pub(crate) fn run(options: &AgentOptions) -> anyhow::Result<()> {
    let folder = Folder::new(&options.data.data_dir)?;
    if options.detach && !options.in_background {
        return background::detach(&folder, "the agent");
    }
    let progress = Progress::new();
    let outcome = begin(&progress, options, &folder);
    if let (Err(error), true) = (&outcome, options.in_background) {
        // Standard error is the log by now.
        progress.line(format_args!("{error:#}"));
    }
    outcome
}

/// What is decided before a server is asked.
struct Start {
    known: Option<Cluster>,
    machine: Machine,
    node_name: String,
    kubelet_port: u16,
    /// The address of a server.
    server: String,
    _lock: Lock,
}

fn begin(progress: &Progress, options: &AgentOptions, folder: &Folder) -> anyhow::Result<()> {
    progress.line(format_args!(
        "Keelson {} (Kubernetes {})\n",
        env!("CARGO_PKG_VERSION"),
        crate::GIT_VERSION
    ));
    options.labels()?;
    options.taints()?;
    options.kubelet.settings(folder)?;
    let Some(start) = prepare(progress, options, folder)? else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(progress, options, folder, start))
}

/// Finds what is missing before anything is changed, then makes the folder. `None` if the agent runs already.
fn prepare(progress: &Progress, options: &AgentOptions, folder: &Folder) -> anyhow::Result<Option<Start>> {
    let since = Instant::now();
    let known = folder.read()?;
    let shown = folder.path().display();
    if known.as_ref().is_some_and(|known| known.agent.is_none()) {
        bail!("{shown} is the folder of a cluster of `keelson up`: choose another with --data-dir");
    }
    let running = |holder: crate::cluster::Holder| {
        let process = holder.0.map(|pid| format!(" (process {pid})")).unwrap_or_default();
        progress.line(format_args!("The agent in {shown} is already running{process}."));
        if options.in_background {
            background::ready(progress);
        }
    };
    if known.is_some()
        && let Err(holder) = folder.lock()?
    {
        running(holder);
        return Ok(None);
    }
    let remembered = known.as_ref().and_then(|known| known.agent.as_ref());
    let server = options.server.clone().or_else(|| remembered.map(|agent| agent.server.clone()));
    let server =
        server.context("which cluster is it to join? Give --server https://HOST:6443 and --token")?;
    host_and_port(&server)?;
    let named = known.as_ref().map(|known| known.node_name.clone());
    let node_name = match (named, &options.node_name) {
        (Some(known), Some(asked)) if known != *asked => bail!(
            "{shown} is of the node {known}, whose name does not change: leave --node-name out, \
             or remove the node with `keelson reset`"
        ),
        (Some(known), _) => known,
        (None, Some(asked)) => asked.clone(),
        (None, None) => machine::host_name()?,
    };
    let kept = known.as_ref().map(|known| known.kubelet_port);
    let kubelet_port = options.kubelet_port.or(kept).unwrap_or(KUBELET_PORT);
    let machine = look(folder)?;
    let wish = wish(folder, kubelet_port, known.as_ref());
    machine::must_give(progress, &machine, &wish, "be a node", UNCHANGED)?;
    folder.make()?;
    let lock = match folder.lock()? {
        Ok(lock) => lock,
        Err(holder) => {
            running(holder);
            return Ok(None);
        }
    };
    if options.in_background {
        background::log_to(folder)?;
    }
    progress.done("Machine", format_args!("kernel {}, {}", machine.kernel, machine.cgroups), since);
    Ok(Some(Start { known, machine, node_name, kubelet_port, server, _lock: lock }))
}

/// Looks at the machine; routes to other nodes' pods are the agent's own.
fn look(folder: &Folder) -> anyhow::Result<Machine> {
    let own = keelson_network::recorded_routes(&folder.join("network"))?;
    Ok(Machine::look(folder.path()).without(&own))
}

fn wish<'a>(folder: &'a Folder, kubelet_port: u16, cluster: Option<&Cluster>) -> Wish<'a> {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, kubelet_port));
    let ranges = cluster.map(|it| vec![(it.cluster_cidr, "pods"), (it.service_cidr, "Services")]);
    Wish {
        data_dir: folder.path(),
        ports: vec![(any, "kubelet", "--kubelet-port")],
        ranges: ranges.unwrap_or_default(),
        bridge: cluster.map(|cluster| keelson_network::bridge_name(&cluster.id)),
    }
}

/// The way to the cluster as this node.
struct Way {
    own: Arc<Rotated>,
    servers: Arc<Servers>,
    client: Client,
    /// In PEM.
    authority: String,
}

/// Uses the certificate that there is, or gets one by the token.
async fn way(
    progress: &Progress,
    options: &AgentOptions,
    folder: &Folder,
    start: &Start,
) -> anyhow::Result<Way> {
    let since = Instant::now();
    let own = Rotated::open("the node's client", folder.join("pki/kubelet-client.pem"))?;
    let authority_path = folder.join("pki/ca.crt");
    let user = format!("system:node:{}", start.node_name);
    if own.is_there() && own.common_name().is_some_and(|name| name != user) {
        bail!(
            "{} holds the certificate of another node: choose another folder with --data-dir, or that node's name",
            folder.path().display()
        );
    }
    if !own.is_valid() {
        let token = options.token.as_deref().with_context(|| match own.is_there() {
            true => "the node's certificate has ended: join again with --token of `keelson token create`",
            false => {
                "who lets this machine in? Give --token with what `keelson token create` prints on a server"
            }
        })?;
        let joined = join::join(&start.server, &token_of(token)?, &start.node_name).await?;
        // The certificate comes last: without it, it is begun anew.
        write_private(&authority_path, joined.authority.as_bytes())?;
        own.store(&joined.credential)?;
        progress.done("Cluster", format_args!("{} lets {} in", start.server, start.node_name), since);
    }
    let authority = match fs::read_to_string(&authority_path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
            "{} is missing: remove {} and join again with --token",
            authority_path.display(),
            folder.join("pki").display()
        ),
        Err(error) => return Err(error).with_context(|| format!("read {}", authority_path.display())),
    };
    let servers = Servers::open(servers::file(folder.path()), &start.server)?;
    let tls = connector::tls(first_certificate(authority.as_bytes())?, Some(Arc::clone(&own) as _))?;
    let client = connector::client(Arc::clone(&servers), tls, None)?;
    Ok(Way { own, servers, client, authority })
}

/// What the cluster says of itself, and whether it does now.
async fn facts(progress: &Progress, way: &Way, known: Option<&Agent>) -> anyhow::Result<(Facts, bool)> {
    let asked = tokio::time::timeout(PATIENCE, Facts::read(&way.client)).await;
    let why = match asked.context("no server answers").and_then(|found| found) {
        Ok(Some(facts)) => {
            if let Some(known) = known
                && known.facts.cluster_id != facts.cluster_id
            {
                bail!(
                    "the server is of another cluster ({}) than this node ({}): remove the node with `keelson reset` first",
                    facts.cluster_id,
                    known.facts.cluster_id
                );
            }
            return Ok((facts, true));
        }
        Ok(None) => anyhow::anyhow!(
            "the cluster does not say which addresses it has: its servers are older; start them with this version"
        ),
        Err(error) => error,
    };
    let Some(known) = known else { return Err(why).context("ask the cluster about itself") };
    progress
        .line(format_args!("  No server answers yet ({why:#}): the agent goes on trying, and pods run on."));
    Ok((known.facts.clone(), false))
}

/// The record of this start: what is known, with what the cluster says now.
fn record(options: &AgentOptions, start: &Start, facts: Facts) -> Cluster {
    let known = start.known.as_ref();
    Cluster {
        id: known
            .map_or_else(|| format!("{:08x}", uuid::Uuid::new_v4().as_fields().0), |known| known.id.clone()),
        node_name: start.node_name.clone(),
        node_ip: options.node_ip.or(known.and_then(|known| known.node_ip)),
        // It has none.
        api_port: 0,
        kubelet_port: start.kubelet_port,
        service_cidr: facts.service_cidr,
        cluster_cidr: facts.cluster_cidr,
        pod_cidr: known.and_then(|known| known.pod_cidr),
        profile: None,
        agent: Some(Agent { server: start.server.clone(), facts }),
    }
}

/// Where servers and other nodes reach this one.
fn address(cluster: &Cluster, servers: &Servers) -> anyhow::Result<IpAddr> {
    if let Some(given) = cluster.node_ip {
        return Ok(given);
    }
    let towards = servers.in_order().into_iter().filter_map(|server| host_and_port(&server).ok());
    let towards = towards.filter_map(|(host, port)| (host.as_str(), port).to_socket_addrs().ok()).flatten();
    let beyond = SocketAddr::from(([192, 0, 2, 1], 9));
    let mut found = towards.chain([beyond]).filter_map(components::address_towards);
    found.next().context("at which address do others reach this machine? Give it with --node-ip")
}

async fn serve(
    progress: &Progress,
    options: &AgentOptions,
    folder: &Folder,
    start: Start,
) -> anyhow::Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::spawn(memory::give_back());
    let began = Timestamp::now();
    let mut asked_to_end = std::pin::pin!(async {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    });
    let joined = async {
        let way = way(progress, options, folder, &start).await?;
        let remembered = start.known.as_ref().and_then(|known| known.agent.as_ref());
        let (facts, answers) = facts(progress, &way, remembered).await?;
        anyhow::Ok((way, facts, answers))
    };
    let (way, facts, answers) = tokio::select! {
        joined = joined => joined?,
        () = &mut asked_to_end => return Ok(()),
    };
    let cluster = record(options, &start, facts);
    let wish = wish(folder, start.kubelet_port, Some(&cluster));
    let so_far = "the cluster has let the machine in; put that right and start again, without a token";
    machine::must_give(progress, &start.machine, &wish, "be a node of this cluster", so_far)?;
    Notes::open()?.leave(folder, &cluster)?;
    folder.write(&cluster)?;
    let (components, mut failures) = Components::new();
    let outcome = async {
        let address = address(&cluster, &way.servers)?;
        start_all(&components, options, folder, &cluster, &way, address).await?;
        if answers {
            let ready = become_ready(progress, &way.client, &cluster.node_name, began);
            tokio::select! {
                ready = ready => ready?,
                Some(failure) = failures.recv() => bail!("{} failed: {}", failure.component, failure.error),
                () = &mut asked_to_end => return Ok(()),
            }
            progress.line(format_args!(
                "\nReady after {:.2} s. On a machine with the cluster's kubeconfig: kubectl get nodes -o wide",
                progress.elapsed().as_secs_f64()
            ));
        }
        // From here on failures are only logged.
        failures.close();
        if options.in_background {
            background::let_go(progress)?;
        } else {
            progress.line("Ctrl-C ends the agent; pods run on.");
        }
        asked_to_end.await;
        anyhow::Ok(())
    }
    .boxed_local()
    .await;
    progress.line("Stopping; pods run on.");
    components.stop().await;
    outcome
}

/// Starts everything.
async fn start_all(
    components: &Components,
    options: &AgentOptions,
    folder: &Folder,
    cluster: &Cluster,
    way: &Way,
    address: IpAddr,
) -> anyhow::Result<()> {
    let keep = {
        let (folder, record) = (folder.clone(), Mutex::new(cluster.clone()));
        move |range| {
            let mut record = record.lock();
            record.pod_cidr = Some(range);
            folder.write(&record)
        }
    };
    let config = components::network_config(folder, cluster);
    let network = NodeNetwork::given(config, cluster.pod_cidr, Box::new(keep)).await;
    let network = network.context("prepare the pod network")?;
    let serving = Rotated::open("the kubelet's server", folder.join("pki/kubelet-serving.pem"))?;
    serving.only_for(&cluster.node_name, address);

    let (servers, client) = (Arc::clone(&way.servers), way.client.clone());
    components.start("servers", move |stop| Arc::clone(&servers).follow(client.clone(), stop));
    keep_client(components, way, &cluster.node_name);
    keep_serving(components, Arc::clone(&serving), way.client.clone(), &cluster.node_name, address);
    components.start_node(&Node {
        folder,
        cluster,
        address,
        network,
        kubelet: way.client.clone(),
        // One process, one identity: a second one would protect nothing.
        proxy: way.client.clone(),
        serving,
        authority: way.authority.clone(),
        labels: options.labels()?,
        taints: options.taints()?,
        settings: options.kubelet.settings(folder)?,
    })
}

/// Has the node's own certificate replaced in time. Connections with the old one end then.
fn keep_client(components: &Components, way: &Way, node: &str) {
    let (own, servers, client, node) =
        (Arc::clone(&way.own), Arc::clone(&way.servers), way.client.clone(), node.to_owned());
    components.start("node's certificate", move |stop| {
        let (client, node) = (client.clone(), node.clone());
        let ask = move || {
            let (client, node) = (client.clone(), node.clone());
            let asked = async move {
                let wanted = Wanted { signer: CLIENT, node: &node, address: None };
                Ok(wanted.ask(&client).await?)
            };
            asked.boxed()
        };
        let mut replaced = own.replacements();
        let (kept, servers) = (Arc::clone(&own).keep(ask, stop), Arc::clone(&servers));
        async move {
            let reconnect = async {
                while replaced.changed().await.is_ok() {
                    servers.reconnect();
                }
            };
            tokio::select! {
                () = kept => {}
                () = reconnect => {}
            }
            anyhow::Ok(())
        }
    });
}

/// Has the certificate of the kubelet's server made, once the Node says where that is, and replaced in time.
fn keep_serving(components: &Components, serving: Arc<Rotated>, client: Client, node: &str, address: IpAddr) {
    let node = node.to_owned();
    components.start("kubelet's certificate", move |stop| {
        let (client, node) = (client.clone(), node.clone());
        let ask = move || {
            let (client, node) = (client.clone(), node.clone());
            let asked = async move {
                let api: Api<NodeObject> = Api::all(client.clone());
                let is_told = |found: Option<&NodeObject>| {
                    let status = found.and_then(|found| found.status.as_ref());
                    let mut all = status.and_then(|it| it.addresses.as_ref()).into_iter().flatten();
                    all.any(|it| it.address == address.to_string())
                };
                await_condition(api, &node, is_told).await.context("wait for the Node's address")?;
                let wanted = Wanted { signer: SERVING, node: &node, address: Some(address) };
                Ok(wanted.ask(&client).await?)
            };
            asked.boxed()
        };
        let kept = Arc::clone(&serving).keep(ask, stop);
        async move {
            kept.await;
            anyhow::Ok(())
        }
    });
}

/// Waits until the kubelet of this start has reported a Node that is ready.
async fn become_ready(
    progress: &Progress,
    client: &Client,
    node_name: &str,
    began: Timestamp,
) -> anyhow::Result<()> {
    let since = Instant::now();
    let leases: Api<Lease> = Api::namespaced(client.clone(), NODE_LEASES);
    // A node may read its Lease, and not watch it.
    while !leases.get_opt(node_name).await.is_ok_and(|lease| renewed_after(lease.as_ref(), began)) {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let nodes: Api<NodeObject> = Api::all(client.clone());
    node_ready::until_ready(progress, nodes, node_name, false).await?;
    progress.done("Node", format_args!("{node_name} is Ready"), since);
    Ok(())
}
