//! What must be well for the server to be alive and ready, under the names that upstream gives it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keelson_store::Store;

use super::backend::Patience;
use crate::cache::WatchCache;
use crate::insight::health::{Concerns, Health, Hook};

/// What is done once after the start.
pub(super) struct Hooks {
    /// Default roles and bindings are there.
    pub(super) roles: Hook,
    /// The namespaces that every cluster has are there.
    pub(super) namespaces: Hook,
    /// The priority classes that every cluster has are there.
    pub(super) priority_classes: Hook,
    /// The flow schemas and priority levels that every cluster has are there.
    pub(super) flow_producer: Hook,
    /// They are in force.
    pub(super) flow_consumer: Hook,
    /// Custom resources are served.
    pub(super) custom_resources: Hook,
    /// The Service `kubernetes` leads here.
    pub(super) kubernetes_service: Hook,
}

/// Registers all checks.
pub(super) fn register(
    health: &Health,
    store: &Arc<dyn Store>,
    patience: Patience,
    cache: &Arc<WatchCache>,
    ending: &Arc<AtomicBool>,
) -> Hooks {
    let barrier = |store: Arc<dyn Store>, patience: Duration| async move {
        match tokio::time::timeout(patience, store.barrier()).await {
            Ok(outcome) => outcome.map(drop).map_err(|error| error.to_string()),
            Err(_) => Err("the store does not answer".to_owned()),
        }
    };
    for (name, concerns, patience) in [
        ("etcd", Concerns::Everything, patience.health),
        ("etcd-readiness", Concerns::Readiness, patience.readiness),
    ] {
        let store = Arc::clone(store);
        health.add(name, concerns, move || barrier(Arc::clone(&store), patience));
    }
    let alarmed = Arc::clone(store);
    health.add("store-alarms", Concerns::Notice, move || {
        let store = Arc::clone(&alarmed);
        async move {
            let alarms = store.alarms().await;
            let texts: Vec<String> = alarms.iter().map(ToString::to_string).collect();
            if texts.is_empty() { Ok(()) } else { Err(texts.join("; ")) }
        }
    });
    let (store, cache) = (Arc::clone(store), Arc::clone(cache));
    health.add("informer-sync", Concerns::Readiness, move || {
        // Read first: the cache may only be ahead.
        let stored = store.snapshot().revision().get();
        let seen = cache.revision();
        let behind = || format!("the cache is at revision {seen}, the store at {stored}");
        std::future::ready(if seen >= stored { Ok(()) } else { Err(behind()) })
    });
    let hooks = Hooks {
        roles: health.hook("rbac/bootstrap-roles"),
        namespaces: health.hook("start-system-namespaces-controller"),
        priority_classes: health.hook("scheduling/bootstrap-system-priority-classes"),
        flow_producer: health.hook("priority-and-fairness-config-producer"),
        flow_consumer: health.hook("priority-and-fairness-config-consumer"),
        custom_resources: health.hook("crd-informer-synced"),
        kubernetes_service: health.hook("start-kubernetes-service-controller"),
    };
    let ending = Arc::clone(ending);
    health.add("shutdown", Concerns::Readiness, move || {
        let ends = ending.load(Ordering::Acquire);
        std::future::ready(if ends { Err("process is shutting down".to_owned()) } else { Ok(()) })
    });
    hooks
}
