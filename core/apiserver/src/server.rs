//! The API server as a whole: the store behind the registry, the listener before it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use http::{Request, Response};
use keelson_api::Catalog;
use keelson_store::{RaftStore, Store};
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::admission::default_toleration_seconds::DefaultTolerationSeconds;
use crate::admission::namespace_lifecycle::NamespaceLifecycle;
use crate::admission::node_restriction::NodeRestriction;
use crate::admission::priority::Priority;
use crate::admission::role_escalation::RoleEscalation;
use crate::admission::service_account::ServiceAccount;
use crate::admission::service_allocation::ServiceAllocation;
use crate::authentication::Authenticator;
use crate::authentication::token::{Signer, TokenError};
use crate::authorization::{Always, Authorizer, Union, node::NodeAuthorizer, rbac::Rbac};
use crate::cache::WatchCache;
use crate::http::{ApiState, handle};
use crate::identity::{Identity, MASTERS};
use crate::kubelet_proxy::{KubeletProxy, ProxyError};
use crate::pki::{Pki, PkiError};
use crate::registry::Registry;

pub mod bootstrap;
pub mod listener;
mod roles;

/// How the server runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder below which certificates and the store lie.
    pub data_dir: PathBuf,
    /// Where to listen.
    pub bind: SocketAddr,
    /// Names and addresses of the serving certificate, beside the usual ones.
    pub names: Vec<String>,
    /// The addresses of Services.
    pub service_cidr: ipnet::Ipv4Net,
    /// The version that is told, such as `v1.36.0`.
    pub git_version: String,
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificates.
    #[error("open the cluster's certificates")]
    Pki(#[from] PkiError),
    /// The key of service-account tokens.
    #[error("open the key of service-account tokens")]
    Token(#[from] TokenError),
    /// The way to kubelets.
    #[error("set up the way to kubelets")]
    Kubelets(#[from] ProxyError),
    /// The store.
    #[error("open the store")]
    Store(#[from] keelson_store::OpenError),
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
    /// The objects that every cluster has.
    #[error("make the objects that every cluster has: {0}")]
    Bootstrap(keelson_api::Status),
}

/// A running server.
pub struct ApiServer {
    state: Arc<ApiState>,
    store: Arc<RaftStore>,
    pki: Arc<Pki>,
    address: SocketAddr,
    stop: CancellationToken,
    listener: tokio::task::JoinHandle<()>,
}

/// The resources that this server can serve: a version that is not the stored one needs a conversion that it does
/// not have, and a subresource must be one that it knows.
fn served() -> Catalog {
    const SUBRESOURCES: [&str; 10] =
        ["status", "scale", "binding", "finalize", "token", "log", "exec", "attach", "portforward", "proxy"];
    const REVIEWS: [&str; 6] = [
        "TokenReview",
        "SelfSubjectRulesReview",
        "SelfSubjectReview",
        "SelfSubjectAccessReview",
        "SubjectAccessReview",
        "LocalSubjectAccessReview",
    ];
    let mut catalog = Catalog::default();
    for resource in Catalog::builtin().resources() {
        let stored = resource.is_stored()
            && resource.storage_version == resource.version
            && resource.group != "events.k8s.io"
            && !matches!(resource.plural.as_str(), "customresourcedefinitions" | "apiservices");
        if !stored && !REVIEWS.contains(&resource.kind.as_str()) {
            continue;
        }
        let mut resource = resource.as_ref().clone();
        // Only kubelets are proxied to.
        let is_node = resource.kind == "Node";
        resource
            .subresources
            .retain(|it| SUBRESOURCES.contains(&it.name.as_str()) && (it.name != "proxy" || is_node));
        catalog.insert(Arc::new(resource));
    }
    catalog
}

impl ApiServer {
    /// Opens the store, makes what is missing, and listens.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let pki = Arc::new(Pki::open(config.data_dir.join("pki"))?);
        let cache = Arc::new(WatchCache::default());
        let store = RaftStore::open(
            keelson_store::raft_store::Config::new(config.data_dir.join("store")),
            cache.clone(),
        )
        .await?;
        let signer = Arc::new(Signer::from_pem(&pki.service_account_key()?)?);
        let kubelets = KubeletProxy::new(&pki)?;
        let authenticator = Arc::new(Authenticator::new(signer, &cache));
        let rbac = Arc::new(Rbac::new(&cache));
        let nodes = Arc::new(NodeAuthorizer::new(&cache));
        let authorizer: Arc<dyn Authorizer> = Arc::new(Union(vec![Arc::new(Always), nodes, rbac.clone()]));
        let admission: Vec<Arc<dyn Admission>> = vec![
            Arc::new(NamespaceLifecycle),
            Arc::new(ServiceAccount),
            Arc::new(NodeRestriction),
            Arc::new(Priority),
            Arc::new(DefaultTolerationSeconds),
            Arc::new(ServiceAllocation::new(config.service_cidr)),
            Arc::new(RoleEscalation::new(rbac.clone(), authorizer.clone())),
        ];
        let registry = Arc::new(Registry::new(store.clone() as Arc<dyn Store>, cache, served(), admission));
        bootstrap::run(&registry, &config, pki.authority()).await.map_err(StartError::Bootstrap)?;
        let state = Arc::new(ApiState {
            registry,
            authorizer,
            authenticator,
            rbac,
            kubelets,
            authority: pki.authority().to_owned(),
            git_version: config.git_version.clone(),
            openapi_index: std::sync::OnceLock::new(),
        });
        let stop = CancellationToken::new();
        let (address, listener) = listener::start(Arc::clone(&state), &config, &pki, stop.clone()).await?;
        Ok(ApiServer { state, store, pki, address, stop, listener })
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
        let state = Arc::clone(&self.state);
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (state, identity) = (Arc::clone(&state), identity.clone());
            async move {
                let response: Response<Body> = handle(state, identity, request.map(Body::new)).await;
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        kube::Client::new(service, "default")
    }

    /// A client of the administrator.
    pub fn administrator(&self) -> kube::Client {
        self.client(Identity::user("kubernetes-admin", &[MASTERS]))
    }

    /// Ends it: no request is taken any more, and the store is closed.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if let Err(error) = self.listener.await {
            tracing::warn!(%error, "the listener did not end cleanly");
        }
        self.store.close().await;
    }
}
