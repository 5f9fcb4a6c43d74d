//! The cluster's name server: names of Services, endpoints and pods, after the Kubernetes DNS-based service discovery
//! specification 1.1.0, and for all other names the node's resolvers.
//!
//! - `zone`: what is known of the cluster, and what it says about a name; pure
//! - `answer`: from a question's bytes to an answer's; pure
//! - `forward`: asks the node's resolvers, and keeps what they say for a moment
//! - `clients`: who is answered; pure
//! - `server`: the sockets
//!
//! Pods reach it by the Service `kube-dns`, whose slice leads to it.
//!
//! Tasks: watches write the zone and the clients; the server reads them; a reconciler keeps Service and slice as they have to
//! be. The server listens at a port of the node's address, the one that the slice told before if it is free.
//!
//! Configuration (`spec.config`): `resolvConf`, the file that names the node's resolvers.
//!
//! Not done: wildcards, transfers of the zone, and names of pods beyond those that contain their address.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_operator_kit::publication::{self, Port, publish};
use keelson_operator_kit::{
    Context, Controller, Definition, Error, Informer, Next, ObjectKey, Operator, WorkQueue, async_trait, rule,
};
use kube::Api;
use kube::runtime::watcher;
use parking_lot::RwLock;
use serde::Deserialize;

use crate::clients::Clients;
use crate::forward::Forwarder;
use crate::server::{Server, Sockets};
use crate::zone::{Domain, Zone, read};

mod answer;
mod clients;
mod forward;
mod server;
mod zone;

/// `spec.config` of the Operator object.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    /// The file that names the node's resolvers.
    resolv_conf: PathBuf,
}

/// The operator.
pub struct Dns {
    definition: Definition,
}

/// The operator.
pub fn operator() -> Arc<dyn Operator> {
    Arc::new(Dns::new())
}

impl Dns {
    /// The operator.
    pub fn new() -> Self {
        let mut definition = Definition::new(
            "dns",
            "Answers names of Services, endpoints and pods, and asks the node's resolvers for all others.",
        )
        .with_rules([
            rule(&[""], &["services"], &["get", "list", "watch", "create", "update", "delete"]),
            rule(
                &["discovery.k8s.io"],
                &["endpointslices"],
                &["get", "list", "watch", "create", "update", "delete"],
            ),
            rule(&[""], &["namespaces", "nodes"], &["list", "watch"]),
        ]);
        definition.default_config = serde_json::json!({"resolvConf": "/etc/resolv.conf"});
        Dns { definition }
    }
}

impl Default for Dns {
    fn default() -> Self {
        Dns::new()
    }
}

/// Where Service and slice are, and what they are called; programs look for them there.
const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";

/// What pods see of the server.
fn published(address: IpAddr) -> publication::Publication {
    publication::Publication {
        namespace: NAMESPACE.to_owned(),
        name: NAME.to_owned(),
        labels: vec![("k8s-app", NAME), ("kubernetes.io/cluster-service", "true")],
        manager: "dns.keelson.io",
        address: Some(address),
        ports: [("dns", "UDP"), ("dns-tcp", "TCP")]
            .map(|(name, protocol)| Port { name, protocol, port: 53 })
            .into(),
    }
}

/// The one thing that is looked at: how pods reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Publication;

impl fmt::Display for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAMESPACE}/{NAME}")
    }
}

#[async_trait]
impl Operator for Dns {
    fn definition(&self) -> &Definition {
        &self.definition
    }

    async fn run(&self, context: Context) -> Result<(), Error> {
        let config: Config = context.config()?;
        let facts = Arc::clone(&context.cluster);
        let mut origin = Name::from_ascii(&facts.cluster_domain)
            .map_err(|error| Error::failed("read the domain", error))?;
        origin.set_fqdn(true);
        let before = publication::port_before(&context.client, NAMESPACE, NAME).await;
        let before = before.map_err(|error| Error::failed("look for an earlier server", error))?;
        let sockets = Sockets::open(context.address, before).await;
        let sockets = sockets.map_err(|error| Error::failed("listen", error))?;
        let address = sockets.address();
        tracing::info!(%address, domain = %origin, "the name server listens");

        let ranges = vec![facts.service_cidr, facts.pod_cidr];
        let domain = Domain { origin: origin.to_lowercase(), server: facts.cluster_dns, ranges };
        // Larger than all that an earlier process used, unless the cluster changes more often than once a second.
        let serial = jiff::Timestamp::now().as_second().rem_euclid(i64::from(u32::MAX));
        let zone = Zone::new(domain, u32::try_from(serial).unwrap_or_default());
        let server = Server {
            zone: Arc::new(RwLock::new(zone)),
            clients: Arc::new(RwLock::new(Clients::new(facts.pod_cidr, context.address))),
            forwarder: Arc::new(Forwarder::new(config.resolv_conf, facts.cluster_dns)),
        };
        let queue = WorkQueue::default();
        queue.add(Publication);
        let mut controller = Controller::new(&context);
        watch(&context, &mut controller, &server, &queue);
        let (client, own) = (context.client.clone(), published(facts.cluster_dns));
        controller.reconcile(&queue, 1, move |Publication| {
            let (client, own) = (client.clone(), own.clone());
            async move { publish(&client, &own, address).await.map(|()| Next::OnChange) }
        });
        let shutdown = context.shutdown.clone();
        controller.task("server", async move {
            server.run(sockets, shutdown).await;
            Ok(())
        });
        controller.run().await
    }
}

/// Keeps the zone, the clients and the publication equal to the cluster.
fn watch(context: &Context, controller: &mut Controller, server: &Server, queue: &WorkQueue<Publication>) {
    let all = watcher::Config::default;
    let ours = |key: &ObjectKey| key.namespace() == NAMESPACE && key.name() == NAME;

    let (zone, queue_of_services) = (Arc::clone(&server.zone), queue.clone());
    let services: Api<Service> = Api::all(context.client.clone());
    let known = Informer::default();
    controller.watch(
        services,
        all(),
        &known,
        |object| read::Service::read(&object),
        move |change| {
            zone.write().set_service(&change.key, change.new.clone());
            if ours(&change.key) {
                queue_of_services.add(Publication);
            }
        },
    );

    let (zone, queue_of_slices) = (Arc::clone(&server.zone), queue.clone());
    let slices: Api<EndpointSlice> = Api::all(context.client.clone());
    let known = Informer::default();
    controller.watch(
        slices,
        all(),
        &known,
        |object| read::Slice::read(&object),
        move |change| {
            zone.write().set_slice(&change.key, change.old.as_deref(), change.new.clone());
            if ours(&change.key) {
                queue_of_slices.add(Publication);
            }
        },
    );

    let zone = Arc::clone(&server.zone);
    let namespaces: Api<Namespace> = Api::all(context.client.clone());
    controller.watch(
        namespaces,
        all(),
        &Informer::default(),
        |_| Some(()),
        move |change| {
            zone.write().set_namespace(change.key.name(), change.new.is_some());
        },
    );

    let clients = Arc::clone(&server.clients);
    let nodes: Api<Node> = Api::all(context.client.clone());
    controller.watch(
        nodes,
        all(),
        &Informer::default(),
        |object| Some(clients::addresses(&object)),
        move |change| {
            clients.write().set_node(change.key.name(), change.new.as_deref());
        },
    );
}
