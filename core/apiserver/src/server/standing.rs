//! Objects without which a cluster does not work: they are made again when somebody has deleted them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::select_all;
use keelson_api::{Object, Status};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Config, bootstrap, kubernetes_service};
use crate::admission::service_allocation::repair;
use crate::cache::Scope;
use crate::registry::{Registry, Target};

/// Before what could not be made is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// Objects that are made together.
pub(super) enum Standing {
    /// The namespaces that every cluster has, with what they hold.
    Namespaces {
        /// The certificate of the cluster's authority, in PEM.
        authority: String,
    },
    /// The range of the cluster's own that Services have their addresses from.
    Range(ipnet::Ipv4Net),
    /// The Service `kubernetes` of a server that listens at an address.
    Service(Box<Config>, SocketAddr),
}

impl Standing {
    fn documents(&self) -> Vec<Value> {
        let namespace = |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        match self {
            Standing::Namespaces { .. } => bootstrap::NAMESPACES.map(namespace).into(),
            Standing::Range(_) => vec![json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
            })],
            Standing::Service(config, bound) => kubernetes_service::documents(config, *bound).into(),
        }
    }

    async fn make(&self, registry: &Registry) -> Result<(), Status> {
        match self {
            Standing::Namespaces { authority } => bootstrap::namespaces(registry, authority).await,
            Standing::Range(range) => repair::start(registry, *range).await,
            // Other servers' addresses stay.
            Standing::Service(config, bound) => {
                kubernetes_service::keep(registry, config, *bound, false).await
            }
        }
    }

    /// Makes the objects whenever one of them is missing, until it is told to stop. What they say is not looked at:
    /// other servers of the cluster may have written it.
    pub(super) async fn keep(self, registry: Arc<Registry>, stop: CancellationToken) {
        let mut objects = Vec::new();
        for document in self.documents() {
            match target(&registry, &document) {
                Ok(target) => objects.push(target),
                Err(error) => tracing::error!(%error, "a kind that the cluster needs is not served"),
            }
        }
        let mut newest = Vec::new();
        for target in &objects {
            let scope = Scope::Object(target.cache_key());
            newest.push(registry.resource(&target.group_resource()).follow_scope(&scope));
        }
        loop {
            newest.iter_mut().for_each(|newest| _ = newest.borrow_and_update());
            let mut pause = None;
            let missing = objects.iter().find(|target| registry.find(target).is_none());
            if let Some(missing) = missing
                && let Err(error) = self.make(&registry).await
            {
                tracing::warn!(%error, object = missing.name, "what the cluster needs could not be made again");
                pause = Some(AGAIN);
            }
            let changed = select_all(newest.iter_mut().map(|newest| Box::pin(newest.changed())));
            let later = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                (changed, ..) = changed => if changed.is_err() { return },
                () = later => {}
            }
        }
    }
}

/// Where an object is.
fn target(registry: &Registry, document: &Value) -> Result<Target, Status> {
    let object = Object::from_value(document.clone()).map_err(Status::internal)?;
    let resource =
        registry.catalog().find_kind(&object.gvk()).map(Arc::clone).ok_or_else(Status::path_not_found)?;
    let (namespace, name) =
        (object.namespace().map(str::to_owned), object.name().unwrap_or_default().to_owned());
    Ok(Target { resource, namespace, name, subresource: String::new() })
}
