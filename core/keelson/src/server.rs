//! `keelson server`: a control-plane member in the foreground.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use ipnet::IpNet;
use keelson_apiserver::ApiServer;
use keelson_apiserver::identity::Identity;
use keelson_apiserver::server::{Config, StartError};
use keelson_network::Routes;
use keelson_store::OpenError;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::ServerOptions;
use crate::cluster::Profile;
use crate::components::Components;
use crate::components::control_plane::ControlPlane;
use crate::join::Member;
use crate::node_routes::{NodeRoutes, Ways};
use crate::progress::say;

/// The pause before a new cluster is set up once more.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// Runs until it is asked to end.
pub(crate) async fn run(options: ServerOptions) -> anyhow::Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let ended = async {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    };
    tokio::pin!(ended);
    // What is waited for, other members above all, may never come.
    let (server, mut member) = tokio::select! {
        started = start(&options) => started?,
        () = &mut ended => return Ok(()),
    };
    let (components, mut failures) = Components::new();
    // Which components failed is in the log.
    failures.close();
    components.start_control_plane(ControlPlane {
        server: &server,
        address: member.address,
        facts: member.settings().facts.for_operators(server.pki().authority()),
        has_others: member.peers.is_some() || options.api_server.etcd.is_chosen(),
    });
    if let Some(routes) = routes(&options, &server, &member)? {
        components.start_routes(routes);
    }
    let running = async {
        while let Err(error) = install(&server, &mut member).await {
            // The members may be about to elect another leader.
            tracing::warn!(error = format!("{error:#}"), "the cluster is not set up yet; it is tried again");
            tokio::time::sleep(TRY_AGAIN).await;
        }
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! {
        () = running => Ok(()),
        () = &mut ended => Ok(()),
        failure = server.failed() => Err(failure.into()),
    };
    say("Stopping");
    // What they have under way goes through the server, which ends after them.
    components.stop().await;
    server.shutdown().await;
    outcome
}

/// Starts the API server, as a member of its cluster.
async fn start(options: &ServerOptions) -> anyhow::Result<(ApiServer, Member)> {
    let began = Instant::now();
    let data_dir = options.data.data_dir.clone();
    std::fs::create_dir_all(&data_dir).with_context(|| {
        format!("create {}: choose a folder you may write to with --data-dir", data_dir.display())
    })?;
    anyhow::ensure!(
        options.server.is_none() || !options.api_server.etcd.is_chosen(),
        "servers that share an etcd do not join each other: copy `pki` and `server.json` from the data folder of one to \
         that of the other, and leave --server out"
    );
    let member = Member::prepare(options).await?;
    let mut names = options.tls_sans.clone();
    if !member.address.is_loopback() {
        names.push(member.address.to_string());
    }
    let mut config = Config {
        names,
        advertise: options.advertise_address,
        service_cidr: member.settings().facts.service_cidr,
        settings: serde_json::to_value(member.settings())?,
        git_version: crate::GIT_VERSION.to_owned(),
        ..Config::new(data_dir.clone(), options.bind)
    };
    options.api_server.apply(&mut config)?;
    if member.settings().profile == Profile::Minimal {
        // What they set, only an operator takes away.
        config.admission.leave_out(&["TaintNodesByCondition", "StorageObjectInUseProtection"]);
    }
    config.store.peers = member.peers.clone();
    tokio::spawn(crate::memory::give_back());
    let server = ApiServer::start(config).await.map_err(|error| match error {
        StartError::Store(OpenError::Listen { .. }) => anyhow::Error::from(error)
            .context("give another address for the other members with --peer-listen"),
        StartError::Store(OpenError::NotAlone) => anyhow::Error::from(error).context(
            "this server is a member of a cluster: give --bind with an address that the other members reach",
        ),
        other => other.into(),
    })?;
    let kubeconfig = data_dir.join("kubeconfig");
    let address = server.address();
    let host = if address.ip().is_unspecified() { member.address } else { address.ip() };
    let url = format!("https://{}", std::net::SocketAddr::new(host, address.port()));
    server.keep_kubeconfig(kubeconfig.clone(), &url)?;
    say(format_args!("API server ready at {url} after {} ms", began.elapsed().as_millis()));
    say(format_args!("  export KUBECONFIG={}", kubeconfig.display()));
    say("  kubectl get namespaces");
    Ok((server, member))
}

/// The ways to nodes' pods: webhooks and API servers in them are asked by this server. One that nobody else reaches has no
/// nodes, and one without the right to make routes has those of its machine.
fn routes(
    options: &ServerOptions,
    server: &ApiServer,
    member: &Member,
) -> anyhow::Result<Option<NodeRoutes>> {
    if member.address.is_loopback() {
        return Ok(None);
    }
    if !nix::unistd::geteuid().is_root() {
        tracing::warn!(
            "not root: webhooks and API servers in pods are reached only if the machine has routes to the nodes' pods"
        );
        return Ok(None);
    }
    let pods = vec![IpNet::V4(member.settings().facts.cluster_cidr)];
    let ways = Routes::open(options.data.data_dir.join("network"), pods).context("keep routes to pods")?;
    let client = server.client(Identity::user("system:keelson:server", &[]));
    Ok(Some(NodeRoutes { client, ways: Ways::Server(Arc::new(ways)) }))
}

/// Says what is true of the cluster, and installs the operators that a new one begins with.
async fn install(server: &ApiServer, member: &mut Member) -> anyhow::Result<()> {
    let client = server.administrator();
    if member.begins() {
        member.settings().facts.write(&client).await?;
    }
    if let Some(profile) = member.to_install() {
        keelson_operator_catalog::install(client, profile.name()).await.context("install the operators")?;
        member.installed(profile)?;
    }
    Ok(())
}
