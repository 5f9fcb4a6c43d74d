//! What is known of Services, pods, and their endpoints (client).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Node};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_operator_kit::informer::Change;
use keelson_operator_kit::selection::is_subset;
use keelson_operator_kit::{Informer, ObjectKey, Observe, Watches};
use kube::runtime::watcher::Config;
use kube::{Api, ResourceExt};

use crate::decide::{MANAGED_BY, MANAGER, SERVICE_NAME};
use crate::legacy;
use crate::pod::PodView;
use crate::service::ServiceView;

const ZONE: &str = "topology.kubernetes.io/zone";

/// What is known of the cluster.
pub struct Known {
    /// All Services.
    pub services: Informer<ServiceView>,
    /// The pods that have an address and have not ended.
    pub pods: Informer<PodView>,
    /// The zones of nodes.
    pub zones: Informer<String>,
    /// Our EndpointSlices.
    pub slices: Informer<EndpointSlice>,
    /// Our Endpoints.
    pub endpoints: Informer<Endpoints>,
}

/// Everything that a reconcile reads and writes.
pub type World = keelson_operator_kit::World<Known>;

/// What matters for one Service.
#[derive(Debug)]
pub struct Observed {
    /// Its name.
    pub key: ObjectKey,
    /// What is known of it; `None` when it is gone.
    pub service: Option<Arc<ServiceView>>,
    /// The pods that it selects.
    pub pods: Vec<(ObjectKey, Arc<PodView>)>,
    /// The zones of their nodes.
    pub zones: BTreeMap<String, Arc<String>>,
    /// Its slices.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Its Endpoints.
    pub endpoints: Option<Arc<Endpoints>>,
}

impl Default for Known {
    fn default() -> Self {
        Known {
            services: Informer::default(),
            pods: Informer::default(),
            zones: Informer::default(),
            slices: Informer::with_index(|key, slice| service_of(key, slice).to_string()),
            endpoints: Informer::default(),
        }
    }
}

impl Observe for Known {
    type Subject = ObjectKey;

    fn watch(watches: &mut Watches<'_, Self>) {
        watches.all(
            |it| &it.services,
            ServiceView::read,
            |world, change| world.queue.add(change.key.clone()),
        );
        watches.all(|it| &it.pods, PodView::read, pod_changed);
        let zone = |node: Node| node.metadata.labels?.remove(ZONE);
        watches.all(|it| &it.zones, zone, zone_changed);
        let ours = Config::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
        watches.selected(
            Api::all(watches.client()),
            ours,
            |it| &it.slices,
            Some,
            |world, change| {
                for slice in change.old.iter().chain(&change.new) {
                    world.queue.add(service_of(&change.key, slice));
                }
            },
        );
        let ours = Config::default().labels(&format!("{}={}", legacy::MANAGED_BY, legacy::MANAGER));
        watches.selected(
            Api::all(watches.client()),
            ours,
            |it| &it.endpoints,
            Some,
            |world, change| world.queue.add(change.key.clone()),
        );
    }
}

fn pod_changed(world: &World, change: &Change<PodView>) {
    if change.old == change.new {
        return;
    }
    for (key, service) in world.known.services.in_namespace(change.key.namespace()) {
        let mut pods = change.old.iter().chain(&change.new);
        if !service.selector.is_empty() && pods.any(|pod| is_subset(&service.selector, &pod.labels)) {
            world.queue.add(key);
        }
    }
}

/// The pods of a node may have been seen before its zone.
fn zone_changed(world: &World, change: &Change<String>) {
    if change.old == change.new {
        return;
    }
    for (key, pod) in world.known.pods.all() {
        if pod.node.as_deref() == Some(change.key.name()) {
            pod_changed(world, &Change { key, old: None, new: Some(pod) });
        }
    }
}

impl Known {
    /// What is known of a Service.
    pub fn observe(&self, key: &ObjectKey) -> Observed {
        let service = self.services.get(key);
        let selector = service.as_ref().map(|service| &service.selector).filter(|it| !it.is_empty());
        let mut pods = Vec::new();
        if let Some(selector) = selector {
            pods = self.pods.in_namespace(key.namespace());
            pods.retain(|(_, pod)| is_subset(selector, &pod.labels));
        }
        let nodes = pods.iter().filter_map(|(_, pod)| pod.node.clone());
        let zones =
            nodes.filter_map(|node| Some((node.clone(), self.zones.get(&ObjectKey::cluster(&node))?)));
        Observed {
            key: key.clone(),
            zones: zones.collect(),
            slices: self.slices.indexed(&key.to_string()).into_iter().map(|(_, slice)| slice).collect(),
            endpoints: self.endpoints.get(key),
            service,
            pods,
        }
    }
}

fn service_of(key: &ObjectKey, slice: &EndpointSlice) -> ObjectKey {
    key.sibling(slice.labels().get(SERVICE_NAME).map_or("", String::as_str))
}
