//! Where the state is kept: in this server's own store, or in etcd.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keelson_api::GroupResource;
use keelson_etcd::EtcdStore;
use keelson_store::{MemberId, Members, Observer, RaftStore, Store};
use tokio_util::sync::CancellationToken;

use super::background::Background;
use super::{Config, StartError};
use crate::aggregation;
use crate::cache::{self, WatchCache};
use crate::control_plane::{endpoints, presence};
use crate::insight::objects;
use crate::registry::Registry;

/// The store, as what it is.
pub(super) enum Backend {
    /// This server's own, alone or with others.
    Own(Arc<RaftStore>),
    /// An etcd cluster.
    Etcd(Arc<EtcdStore>),
}

/// How long the checks of health and readiness wait for the store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) health: Duration,
    pub(super) readiness: Duration,
}

/// How long both wait for the server's own store.
const PATIENCE: Duration = Duration::from_secs(2);

impl Backend {
    /// Opens what the configuration names.
    pub(super) async fn open(config: &Config, observer: Arc<dyn Observer>) -> Result<Self, StartError> {
        if let Some(etcd) = &config.etcd {
            return Ok(Backend::Etcd(EtcdStore::open(etcd.clone(), observer).await?));
        }
        let store = keelson_store::raft_store::Config {
            metrics: config.store.metrics.clone().or_else(|| Some(config.metrics.clone())),
            ..config.store.clone()
        };
        Ok(Backend::Own(RaftStore::open(store, observer).await?))
    }

    /// As any store.
    pub(super) fn store(&self) -> Arc<dyn Store> {
        match self {
            Backend::Own(store) => store.clone(),
            Backend::Etcd(store) => store.clone(),
        }
    }

    /// How long checks wait for it.
    pub(super) fn patience(config: &Config) -> Patience {
        match &config.etcd {
            Some(etcd) => Patience { health: etcd.health_timeout, readiness: etcd.readiness_timeout },
            None => Patience { health: PATIENCE, readiness: PATIENCE },
        }
    }

    /// The members of the server's own store.
    pub(super) fn members(&self) -> Option<Members> {
        match self {
            Backend::Own(store) => Some(store.members()),
            Backend::Etcd(_) => None,
        }
    }

    /// The numbers of the cluster and of this member, where the store has any.
    pub(super) fn numbers(&self) -> (Option<MemberId>, Option<MemberId>) {
        self.members().map_or((None, None), |members| (members.cluster(), Some(members.me())))
    }

    /// Whether this server is known to be the only one.
    pub(super) fn has_one_server(&self) -> bool {
        match self {
            Backend::Own(store) => store.is_sole() || store.members().count() < 2,
            Backend::Etcd(_) => false,
        }
    }

    /// Makes sure that servers which share an etcd have one authority: else what one issues the other does not know.
    pub(super) fn is_of(&self, cache: &WatchCache, authority: &str) -> Result<(), StartError> {
        if matches!(self, Backend::Own(_)) {
            return Ok(());
        }
        let resource = GroupResource::new("", "configmaps");
        let name = aggregation::identity::CONFIG_MAP;
        let Some(found) = cache.resource(&resource).get(&format!("kube-system/{name}")) else {
            return Ok(());
        };
        if found.field("data.client-ca-file") == authority {
            return Ok(());
        }
        Err(StartError::OtherAuthority { key: cache::key(&resource, Some("kube-system"), name) })
    }

    /// Keeps the endpoints of the Service `kubernetes` to the servers that are alive.
    pub(super) fn keep_endpoints(
        &self,
        config: &Config,
        address: SocketAddr,
        registry: &Arc<Registry>,
        background: &Background,
        stop: &CancellationToken,
    ) {
        let (registry, stop) = (Arc::clone(registry), stop.clone());
        match (self, &config.store.peers) {
            (Backend::Own(store), Some(peers)) => {
                let own = endpoints::Own { name: peers.name.clone(), address };
                let kept = endpoints::keep(registry, store.members(), own, stop);
                background.spawn("kubernetes-endpoints", kept);
            }
            (Backend::Own(_), None) => {}
            (Backend::Etcd(_), _) => {
                background.spawn("kubernetes-endpoints", presence::keep(registry, address, stop));
            }
        }
    }

    /// Adds the metric of its size.
    pub(super) fn measure(&self, config: &Config) -> Result<(), keelson_metrics::RegistryError> {
        match self {
            Backend::Own(_) => objects::register_size(&config.metrics, config.store.dir.clone()),
            Backend::Etcd(store) => objects::register_database_size(&config.metrics, store.size()),
        }
    }
}
