//! The API server as a whole: the store behind the registry, the listener before it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use http::{HeaderValue, Request, Response, header};
use keelson_api::Catalog;
use keelson_store::{Members, Role, Store, StoreError};
use tokio_util::sync::CancellationToken;

use crate::admission::configuration::ConfigError;
use crate::admission::plugins;
use crate::admission::service_allocation::repair;
use crate::aggregation::Aggregation;
use crate::aggregation::registration::Registration;
use crate::audit::Audit;
use crate::authentication::Authenticator;
use crate::authentication::options::OptionsError;
use crate::authorization::{self, Authorizer, node::NodeAuthorizer, rbac::Rbac};
use crate::cache::WatchCache;
use crate::certificates::Certificates;
use crate::control_plane::ControlPlane;
use crate::custom_resources::CustomResources;
use crate::encryption::configuration::ConfigurationError;
use crate::encryption::{Encryption, rewrite};
use crate::flow_control::{self, FlowControl};
use crate::http::{ApiState, handle};
use crate::identity::{Identity, MASTERS};
use crate::insight::components::Components;
use crate::insight::health::Hook;
use crate::insight::pod_security::Evaluations;
use crate::insight::store::Measured;
use crate::insight::webhooks::Webhooks;
use crate::insight::{Insight, objects};
use crate::kubelet_proxy::{KubeletProxy, ProxyError};
use crate::pki::{Pki, PkiError, renewal};
use crate::proxy::Proxy;
use crate::registry::Registry;
use crate::reload::ReloadMetrics;
use crate::remote::ServiceResolver;
use crate::snapshots::{Snapshots, schedule};

mod aggregated_roles;
mod backend;
mod background;
pub mod bootstrap;
mod checks;
mod compaction;
mod config;
mod connection;
mod controller_roles;
pub(crate) mod kubernetes_service;
mod limits;
pub mod listener;
mod role_reconciliation;
mod roles;
mod serving;
mod standing;

use backend::Backend;
use background::Background;
use standing::Standing;

pub use config::Config;
pub use kubernetes_service::reachable;
pub use limits::Limits;
pub use serving::{KeyPairFiles, ServingOptions};

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificates.
    #[error("open the cluster's certificates")]
    Pki(#[from] PkiError),
    /// How callers are known.
    #[error("set up authentication")]
    Authentication(#[from] OptionsError),
    /// Who may do what.
    #[error("set up authorization")]
    Authorization(#[from] authorization::options::OptionsError),
    /// The way to kubelets.
    #[error("set up the way to kubelets")]
    Kubelets(#[from] ProxyError),
    /// The record of requests.
    #[error("set up auditing")]
    Audit(#[from] crate::audit::options::OptionsError),
    /// The admission plugins.
    #[error("set up admission")]
    Admission(#[from] ConfigError),
    /// The store.
    #[error("open the store")]
    Store(#[from] keelson_store::OpenError),
    /// The store on etcd.
    #[error("open the store on etcd")]
    Etcd(#[from] keelson_etcd::OpenError),
    /// The encryption configuration.
    #[error(transparent)]
    Encryption(#[from] ConfigurationError),
    /// What etcd holds is of a cluster with another authority.
    #[error(
        "what etcd holds belongs to servers with another authority than this one: copy `pki` and `server.json` from the \
         data folder of one of them to this one's, or give this cluster a prefix of its own with --etcd-prefix. If \
         the authority is lost for good, delete {key} in etcd"
    )]
    OtherAuthority {
        /// Where etcd holds the authority.
        key: String,
    },
    /// The store does not come up to date.
    #[error("read the store: {0}")]
    Behind(String),
    /// Objects cannot be decrypted.
    #[error(
        "{0} stored objects cannot be decrypted, the log tells which: give their keys in the file of \
         --encryption-provider-config"
    )]
    Sealed(u64),
    /// The listener.
    #[error("listen on {bind}")]
    Listen {
        /// Where.
        bind: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The TLS configuration.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    /// The metrics.
    #[error(transparent)]
    Metrics(#[from] keelson_metrics::RegistryError),
    /// The objects that every cluster has.
    #[error("make the objects that every cluster has: {0}")]
    Bootstrap(keelson_api::Status),
}

/// How long it is until the other members are asked again.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_millis(200);

/// How long background work may take to end.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// A running server.
pub struct ApiServer {
    state: Arc<ApiState>,
    backend: Backend,
    pki: Arc<Pki>,
    address: SocketAddr,
    stop: CancellationToken,
    /// Ends what lasts, before all else.
    drain: CancellationToken,
    ending: Arc<AtomicBool>,
    shutdown_delay: std::time::Duration,
    /// What runs until `stop`.
    background: Background,
    listener: tokio::task::JoinHandle<()>,
}

/// Makes clients that reach the server without a connection.
#[derive(Clone)]
pub struct Clients(Arc<ApiState>);

impl Clients {
    /// A client that acts with the given identity.
    pub fn client(&self, identity: Identity) -> kube::Client {
        let state = Arc::clone(&self.0);
        let agent = HeaderValue::from_str(program(&identity)).ok();
        let service = tower::service_fn(move |mut request: Request<kube::client::Body>| {
            let (state, identity) = (Arc::clone(&state), identity.clone());
            if let (false, Some(agent)) = (request.headers().contains_key(header::USER_AGENT), &agent) {
                request.headers_mut().insert(header::USER_AGENT, agent.clone());
            }
            async move {
                let response: Response<Body> = handle(state, identity, request.map(Body::new)).await;
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        kube::Client::new(service, "default")
    }
}

/// The resources that this server can serve. A subresource must be one that it knows.
fn served() -> Catalog {
    const SUBRESOURCES: [&str; 14] = [
        "approval",
        "ephemeralcontainers",
        "eviction",
        "status",
        "scale",
        "binding",
        "finalize",
        "token",
        "log",
        "exec",
        "attach",
        "portforward",
        "proxy",
        "resize",
    ];
    const UNSTORED: [&str; 8] = [
        "Binding",
        "ComponentStatus",
        "TokenReview",
        "SelfSubjectRulesReview",
        "SelfSubjectReview",
        "SelfSubjectAccessReview",
        "SubjectAccessReview",
        "LocalSubjectAccessReview",
    ];
    let mut catalog = Catalog::default();
    for resource in Catalog::builtin().resources() {
        if !resource.is_stored() && !UNSTORED.contains(&resource.kind.as_str()) {
            continue;
        }
        let mut resource = resource.as_ref().clone();
        resource.subresources.retain(|it| SUBRESOURCES.contains(&it.name.as_str()));
        catalog.insert(Arc::new(resource));
    }
    catalog
}

/// Waits until everything that was acknowledged before is there. A member of several asks again while there is no
/// majority: the others may be about to start.
async fn caught_up(store: &dyn Store, has_members: bool) -> Result<(), StartError> {
    let mut told = false;
    loop {
        match store.barrier().await {
            Ok(_) => return Ok(()),
            Err(StoreError::Unavailable { reason }) if has_members && !store.is_sole() => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(reason, "waiting for a majority of the members of the store");
                }
            }
            Err(error) => return Err(StartError::Behind(error.to_string())),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Lets another member lead, so that nobody has to wait for an election.
async fn hand_over(members: &Members) {
    if members.count() < 2 || members.leader() != Some(members.me()) {
        return;
    }
    let list = match members.list().await {
        Ok(list) => list,
        Err(error) => return tracing::info!(%error, "the members cannot be listed: another is elected"),
    };
    let next =
        list.iter().filter(|it| it.healthy && !it.leader && it.role == Role::Voter).min_by_key(|it| it.lag);
    if let Some(next) = next
        && let Err(error) = members.transfer_leadership(next.id).await
    {
        tracing::info!(%error, "the lead was not handed over: another is elected");
    }
}

impl ApiServer {
    /// Opens the store, makes what is missing, and listens.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let pki = Arc::new(Pki::open(config.data_dir.join("pki"))?);
        let encryption = Arc::new(Encryption::open(&config.encryption)?);
        let cache = Arc::new(WatchCache::new(Arc::clone(&encryption)));
        cache.limit_history(config.history_bytes);
        let backend = Backend::open(&config, cache.clone()).await?;
        let store = backend.store();
        // What was acknowledged before is there from here on.
        caught_up(&*store, backend.members().is_some()).await?;
        let unreadable = encryption.check(&store.snapshot());
        if unreadable > 0 {
            store.close().await;
            return Err(StartError::Sealed(unreadable));
        }
        if let Err(other) = backend.is_of(&cache, pki.authority()) {
            store.close().await;
            return Err(other);
        }
        let signer = Arc::new(config.authentication.signer(&pki.service_account_key()?)?);
        let kubelets = KubeletProxy::new(&pki)?;
        let resolver = Arc::new(ServiceResolver::new(Arc::clone(&cache)));
        let audit = Audit::open(&config.audit, &resolver, &config.metrics)?;
        let (authenticator, ledger) = Authenticator::new(signer, &cache, &config.authentication, &resolver)?;
        let authenticator = Arc::new(authenticator);
        let rbac = Arc::new(Rbac::new(&cache));
        let nodes = Arc::new(NodeAuthorizer::new(&cache));
        let authorizers =
            authorization::options::Parts { nodes, rbac: rbac.clone(), resolver: Arc::clone(&resolver) };
        let authorizers = Arc::new(config.authorization.build(&authorizers)?);
        let authorizer: Arc<dyn Authorizer> = authorizers.clone();
        let parts = plugins::Parts {
            rbac: rbac.clone(),
            authorizer: authorizer.clone(),
            cache: Arc::clone(&cache),
            resolver: Arc::clone(&resolver),
            metrics: config.metrics.clone(),
            webhooks: Arc::new(Webhooks::new(&config.metrics)?),
            pod_security: Evaluations::new(&config.metrics)?,
            allocations: Arc::default(),
        };
        let admission = plugins::build(&config.admission, &parts)?;
        let (drain, ending) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let insight = Insight::new(config.metrics.clone(), &config.git_version, drain.clone())?;
        objects::register(&config.metrics, &cache)?;
        backend.measure(&config)?;
        let measured: Arc<dyn Store> = Arc::new(Measured::new(Arc::clone(&store), &config.metrics)?);
        let (cluster, me) = backend.numbers();
        let snapshots = Snapshots::new(Arc::clone(&measured), cluster, me, &config.git_version);
        let snapshots = Arc::new(snapshots);
        let hooks = checks::register(&insight.health, &measured, Backend::patience(&config), &cache, &ending);
        let admission = admission.measured(&config.metrics)?;
        let registry = Arc::new(Registry::new(measured, Arc::clone(&cache), served(), admission));
        repair::start(&registry, config.service_cidr).await.map_err(StartError::Bootstrap)?;
        bootstrap::run(&registry, pki.authority()).await.map_err(StartError::Bootstrap)?;
        let flow_control = Arc::new(FlowControl::new(&config.limits, &config.metrics)?);
        flow_control::controller::produce(&registry).await.map_err(StartError::Bootstrap)?;
        hooks.flow_producer.done();
        flow_control.load(&registry).map_err(StartError::Bootstrap)?;
        hooks.flow_consumer.done();
        [hooks.roles, hooks.namespaces, hooks.priority_classes].iter().for_each(Hook::done);
        let stop = CancellationToken::new();
        let definitions =
            CustomResources::start(&registry, stop.clone()).await.map_err(StartError::Bootstrap)?;
        hooks.custom_resources.done();
        let aggregation = Arc::new(Aggregation::new(&pki, &registry, resolver)?);
        let own_certificates = [Arc::clone(kubelets.certificate()), Arc::clone(aggregation.certificate())];
        bootstrap::tell_extensions(&registry, pki.authority(), aggregation.authority())
            .await
            .map_err(StartError::Bootstrap)?;
        objects::register_extensions(&config.metrics, &aggregation)?;
        let registration = Registration::start(&registry).await;
        let control_plane = backend.members().map(|members| ControlPlane {
            members,
            pki: Arc::clone(&pki),
            settings: config.settings.clone(),
        });
        let state = Arc::new(ApiState {
            control_plane,
            aggregation: Arc::clone(&aggregation),
            insight,
            audit,
            snapshots: Arc::clone(&snapshots),
            flow_control,
            request_timeout: config.limits.request_timeout,
            registry,
            definitions,
            authorizer,
            authenticator,
            rbac,
            kubelets,
            proxy: Proxy::new().map_err(StartError::Tls)?,
            authority: pki.authority().to_owned(),
            git_version: config.git_version.clone(),
            openapi_index: std::sync::OnceLock::new(),
            advertised: std::sync::OnceLock::new(),
        });
        let background = Background::new(&state.insight.health);
        background
            .spawn("event-expiry", Arc::clone(&state.registry).expire_events(config.event_ttl, stop.clone()));
        let kept = Arc::clone(&state.flow_control).keep(Arc::clone(&state.registry), stop.clone());
        background.spawn("flow-control", kept);
        background
            .spawn("aggregated-roles", aggregated_roles::keep(Arc::clone(&state.registry), stop.clone()));
        let (grace, allocations) = (config.service_cidr_grace, parts.allocations.clone());
        let repaired = repair::keep(Arc::clone(&state.registry), allocations, grace, stop.clone());
        background.spawn("service-allocation-repair", repaired);
        let certificates = Certificates {
            registry: Arc::clone(&state.registry),
            authorizer: Arc::clone(&state.authorizer),
            pki: Arc::clone(&pki),
            server_names: config.names.clone(),
        };
        if let Some(options) = config.snapshots.clone() {
            let counts = schedule::Counts::new(&config.metrics)?;
            let kept = schedule::keep(snapshots, options, counts, stop.clone());
            background.spawn("scheduled-snapshots", kept);
        }
        let compacted = compaction::keep(Arc::clone(&cache), config.compaction_interval, stop.clone());
        background.spawn("compaction", compacted);
        background.spawn("certificates", certificates.run(stop.clone()));
        background.spawn("token-uses", ledger.keep(Arc::clone(&state.registry), stop.clone()));
        background.spawn("aggregation", aggregation.run(Arc::clone(&state.registry), stop.clone()));
        background.spawn("api-service-registration", registration.keep(stop.clone()));
        for certificate in own_certificates {
            background.spawn("certificate-renewal", certificate.keep(stop.clone()));
        }
        let reloads = |kind| ReloadMetrics::new(&config.metrics, kind);
        let followed = Arc::clone(&state.authenticator).follow_file(reloads("authentication")?, stop.clone());
        background.spawn("authentication-configuration", followed);
        let followed = authorizers.follow_file(reloads("authorization")?, stop.clone());
        background.spawn("authorization-configuration", followed);
        let (registry, sealing) = (Arc::clone(&state.registry), config.encryption.clone());
        let rewrite = rewrite::keep(registry, sealing, reloads("encryption")?, stop.clone());
        background.spawn("encryption-rewrite", rewrite);
        let (serving, authorities) = listener::certificates(&config, &pki)?;
        background.spawn("serving-certificate", Arc::clone(&serving).keep(stop.clone()));
        let tls = listener::tls(serving, &authorities)?;
        let (address, listener) =
            listener::start(Arc::clone(&state), &config, tls, authorities, drain.clone()).await?;
        let is_sole = backend.has_one_server();
        if let Err(error) = kubernetes_service::keep(&state.registry, &config, address, is_sole).await {
            // Its address may be one that is not given now, which only a server that runs lets anybody change.
            tracing::error!(%error, "the Service of the API server cannot be made yet");
        }
        let told = SocketAddr::new(kubernetes_service::advertised(&config, address), address.port());
        backend.keep_endpoints(&config, told, &state.registry, &background, &stop);
        state.advertised.get_or_init(|| told);
        for (task, standing) in [
            ("standing-namespaces", Standing::Namespaces { authority: pki.authority().to_owned() }),
            ("standing-range", Standing::Range(config.service_cidr)),
            ("standing-service", Standing::Service(Box::new(config.clone()), address)),
        ] {
            background.spawn(task, standing.keep(Arc::clone(&state.registry), stop.clone()));
        }
        hooks.kubernetes_service.done();
        let shutdown_delay = config.limits.shutdown_delay_duration;
        Ok(ApiServer {
            state,
            backend,
            pki,
            address,
            stop,
            drain,
            ending,
            shutdown_delay,
            background,
            listener,
        })
    }

    /// Writes the administrator's kubeconfig for this address of the server, and writes it anew before its certificate
    /// ends.
    pub fn keep_kubeconfig(&self, path: PathBuf, url: &str) -> Result<(), PkiError> {
        self.pki.write_administrator(&path, url)?;
        let (pki, stop) = (Arc::clone(&self.pki), self.stop.clone());
        self.background.spawn("kubeconfig", renewal::keep_kubeconfig(pki, path, url.to_owned(), stop));
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The cluster's certificates.
    pub fn pki(&self) -> &Arc<Pki> {
        &self.pki
    }

    /// A client in this process, which acts with the given identity.
    pub fn client(&self, identity: Identity) -> kube::Client {
        self.clients().client(identity)
    }

    /// Makes clients in this process.
    pub fn clients(&self) -> Clients {
        Clients(Arc::clone(&self.state))
    }

    /// What runs beside the server in its process says so here.
    pub fn components(&self) -> Arc<Components> {
        Arc::clone(&self.state.insight.components)
    }

    /// A client of the administrator.
    pub fn administrator(&self) -> kube::Client {
        self.client(Identity::user("kubernetes-admin", &[MASTERS]))
    }

    /// Waits until the store has failed for good: the process is then to end, and to be started again.
    pub async fn failed(&self) -> keelson_store::Failure {
        self.backend.store().failed().await
    }

    /// Ends it: it says that it is not ready, takes no further request, ends watches, answers what is under way, and
    /// closes the store.
    pub async fn shutdown(self) {
        self.ending.store(true, Ordering::Release);
        if let Some(members) = self.backend.members() {
            hand_over(&members).await;
        }
        tokio::time::sleep(self.shutdown_delay).await;
        self.drain.cancel();
        if let Err(error) = self.listener.await {
            tracing::warn!(%error, "the listener did not end cleanly");
        }
        self.stop.cancel();
        // Nobody's write is cut off, and nobody holds the store when it is closed.
        if tokio::time::timeout(PATIENCE, self.background.ended()).await.is_err() {
            tracing::warn!(tasks = self.background.len(), "tasks that do not end are left");
        }
        if let Some(audit) = &self.state.audit {
            audit.close().await;
        }
        self.backend.store().close().await;
    }
}

/// The name of the component behind an identity: it manages the fields that the component writes.
fn program(identity: &Identity) -> &str {
    let name = identity.username.as_str();
    if name.starts_with("system:node:") {
        return "kubelet";
    }
    name.rsplit(':').next().unwrap_or(name)
}
