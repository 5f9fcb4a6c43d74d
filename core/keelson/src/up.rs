//! `keelson up`: makes or continues the cluster of a folder, and shows how.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
use futures::FutureExt;
use ipnet::Ipv4Net;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node as NodeObject;
use keelson_apiserver::ApiServer;
use keelson_apiserver::server::Config;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::await_condition;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::UpOptions;
use crate::cluster::{Cluster, Folder, Holder, Lock, Notes, Profile};
use crate::components::{self, Components, Failure, Node};
use crate::machine::{self, Machine, Wish};
use crate::memory;
use crate::pod_network::NodeNetwork;
use crate::progress::Progress;

const API_PORT: u16 = 6443;
const KUBELET_PORT: u16 = 10250;
const NODE_LEASES: &str = "kube-node-lease";
/// A log that has grown larger is begun anew at the next start, the old one kept beside it.
const LOG_LIMIT: u64 = 16 << 20;
/// Folders of a cluster that are for root alone.
const PRIVATE: [&str; 8] = ["kubelet", "log", "logs", "network", "pki", "run", "runtime", "store"];
/// Ends the lines that the process in the background has for the one in the foreground.
const READY: &str = "\u{4}";

/// Runs the command.
pub(crate) fn run(options: &UpOptions) -> anyhow::Result<()> {
    let folder = Folder::new(&options.data.data_dir)?;
    if options.detach && !options.in_background {
        return detach(&folder);
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
                progress.line(READY);
            }
            return Ok(());
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(progress, options, folder, cluster));
    drop(lock);
    outcome
}

/// Starts the same command in the background and shows what it prints until the cluster is ready.
fn detach(folder: &Folder) -> anyhow::Result<()> {
    // Before a fault is known nothing is made: then the log has nowhere to go, and says nothing.
    let log = if folder.path().exists() { Stdio::from(log_file(folder)?) } else { Stdio::inherit() };
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).arg("--in-background");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("start the process in the background")?;
    let output = child.stdout.take().context("the process in the background has no output")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("read what the process in the background prints")?;
        if line == READY {
            return Ok(());
        }
        println!("{line}");
    }
    // It has said why.
    let status = child.wait().context("wait for the process in the background")?;
    bail!("the cluster did not start ({status}); the log, if it came so far, is {}", folder.log().display())
}

fn log_file(folder: &Folder) -> anyhow::Result<File> {
    let path = folder.log();
    let open = || {
        fs::create_dir_all(folder.join("log"))?;
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
            fs::rename(&path, path.with_extension("log.old"))?;
        }
        OpenOptions::new().create(true).append(true).open(&path)
    };
    open().with_context(|| format!("open {}", path.display()))
}

enum Prepared {
    Ready(Lock, Cluster),
    Running(Holder),
}

/// Finds what is missing before anything is changed, then makes the folder and the cluster's record.
fn prepare(progress: &Progress, options: &UpOptions, folder: &Folder) -> anyhow::Result<Prepared> {
    let since = Instant::now();
    let known = folder.read()?;
    if known.is_some()
        && let Err(holder) = folder.lock()?
    {
        return Ok(Prepared::Running(holder));
    }
    let machine = Machine::look(folder.path());
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
    let faults = machine::faults(&machine, &wish, &machine::taken);
    if !faults.is_empty() {
        // Where the one in the foreground shows them.
        progress.line("This machine cannot run the cluster yet:");
        for fault in &faults {
            progress.line(format_args!("  - {fault}"));
        }
        bail!("nothing was changed");
    }
    fs::create_dir_all(folder.path()).with_context(|| format!("create {}", folder.path().display()))?;
    let protect = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("protect {}", path.display()))
    };
    protect(folder.path(), 0o711)?;
    // Secrets, tokens and what pods write are nobody else's. What pods see of it is mounted.
    for name in PRIVATE {
        let path = folder.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        protect(&path, 0o700)?;
    }
    let lock = match folder.lock()? {
        Ok(lock) => lock,
        Err(holder) => return Ok(Prepared::Running(holder)),
    };
    if let Some(notes) = others {
        notes.leave(folder, &cluster)?;
    }
    folder.write(&cluster)?;
    if options.in_background {
        let log = log_file(folder)?;
        nix::unistd::dup2_stderr(log.as_fd()).context("redirect the log")?;
    }
    progress.done("Machine", format_args!("kernel {}, {}", machine.kernel, machine.cgroups), since);
    Ok(Prepared::Ready(lock, cluster))
}

/// A cluster that exists, with what may be changed about it.
fn continued(cluster: Cluster, options: &UpOptions) -> Cluster {
    Cluster {
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
            None => host_name()?,
        },
        api_port: options.api_port.unwrap_or_else(|| free_port(API_PORT, &uses_port)),
        kubelet_port: options.kubelet_port.unwrap_or_else(|| free_port(KUBELET_PORT, &uses_port)),
        service_cidr: free_range(96, &|other| other.service_cidr)?,
        pod_cidr: Ipv4Net::new_assert(cluster_cidr.network(), 24),
        cluster_cidr,
        profile: None,
    })
}

/// The host's name as the name of a Node: lower case, and nothing but letters, digits, `-` and `.`.
pub(crate) fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("read the host name")?;
    let name = name.to_string_lossy().to_lowercase();
    let fit: String =
        name.chars().map(|it| if it.is_ascii_alphanumeric() || it == '.' { it } else { '-' }).collect();
    let fit = fit.trim_matches(|it: char| !it.is_ascii_alphanumeric());
    if fit.is_empty() {
        bail!("the host name {name:?} cannot name a Node: choose one with --node-name");
    }
    Ok(fit.to_owned())
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
        let node = Node {
            folder,
            cluster: &cluster,
            server: &server,
            address: components::node_address(&cluster),
            network,
        };
        components.start_all(&node)?;
        let ready = become_ready(progress, options, &cluster, &server);
        let profile = tokio::select! {
            ready = ready => ready?,
            Some(failure) = failures.recv() => return Err(failed(failure)),
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
        progress.line(READY);
        let null = OpenOptions::new().write(true).open("/dev/null").context("open /dev/null")?;
        nix::unistd::dup2_stdout(null.as_fd()).context("let go of the terminal")?;
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
        let ready = await_condition(nodes.clone(), &cluster.node_name, is_ready)
            .await
            .context("wait for the Node")?;
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

fn renewed_after(lease: Option<&Lease>, time: Timestamp) -> bool {
    let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref());
    renewed.is_some_and(|renewed| renewed.0 >= time)
}

fn is_ready(node: Option<&NodeObject>) -> bool {
    let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref());
    conditions
        .is_some_and(|it| it.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}
