//! What is known of Services, pods, and their endpoints (client).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_operator_kit::informer::Change;
use keelson_operator_kit::selection::is_subset;
use keelson_operator_kit::{Context, Controller, Informer, ObjectKey, Recorder, WorkQueue};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};

use crate::decide::{MANAGED_BY, MANAGER, SERVICE_NAME};
use crate::legacy;
use crate::pod::PodView;
use crate::service::ServiceView;

const ZONE: &str = "topology.kubernetes.io/zone";

/// Everything that a reconcile reads and writes.
pub struct World {
    /// The API.
    pub client: Client,
    /// Writes Events.
    pub recorder: Recorder,
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
    /// Services to look at.
    pub queue: WorkQueue<ObjectKey>,
}

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

impl World {
    /// Sets up the watches.
    pub fn new(context: &Context, controller: &mut Controller) -> Arc<Self> {
        let world = Arc::new(World {
            client: context.client.clone(),
            recorder: context.recorder.clone(),
            services: Informer::default(),
            pods: Informer::default(),
            zones: Informer::default(),
            slices: Informer::with_index(|key, slice| service_of(key, slice).to_string()),
            endpoints: Informer::default(),
            queue: WorkQueue::default(),
        });
        let client = || context.client.clone();
        let all = watcher::Config::default;
        let queue = world.queue.clone();
        let api: Api<Service> = Api::all(client());
        let changed = move |it: &Change<ServiceView>| queue.add(it.key.clone());
        controller.watch(api, all(), &world.services, ServiceView::read, changed);
        let pods = Arc::clone(&world);
        let api: Api<Pod> = Api::all(client());
        controller.watch(api, all(), &world.pods, PodView::read, move |it| pods.pod_changed(it));
        let nodes = Arc::clone(&world);
        let api: Api<Node> = Api::all(client());
        let zone = |node: Node| node.metadata.labels?.remove(ZONE);
        controller.watch(api, all(), &world.zones, zone, move |it| nodes.zone_changed(it));
        let queue = world.queue.clone();
        let api: Api<EndpointSlice> = Api::all(client());
        let ours = all().labels(&format!("{MANAGED_BY}={MANAGER}"));
        let changed = move |it: &Change<EndpointSlice>| {
            for slice in it.old.iter().chain(&it.new) {
                queue.add(service_of(&it.key, slice));
            }
        };
        controller.watch(api, ours, &world.slices, Some, changed);
        let queue = world.queue.clone();
        let api: Api<Endpoints> = Api::all(client());
        let ours = all().labels(&format!("{}={}", legacy::MANAGED_BY, legacy::MANAGER));
        controller.watch(api, ours, &world.endpoints, Some, move |it| queue.add(it.key.clone()));
        world
    }

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

    fn pod_changed(&self, change: &Change<PodView>) {
        if change.old == change.new {
            return;
        }
        for (key, service) in self.services.in_namespace(change.key.namespace()) {
            let mut pods = change.old.iter().chain(&change.new);
            if !service.selector.is_empty() && pods.any(|pod| is_subset(&service.selector, &pod.labels)) {
                self.queue.add(key);
            }
        }
    }

    /// The pods of a node may have been seen before its zone.
    fn zone_changed(&self, change: &Change<String>) {
        if change.old == change.new {
            return;
        }
        for (key, pod) in self.pods.all() {
            if pod.node.as_deref() == Some(change.key.name()) {
                self.pod_changed(&Change { key, old: None, new: Some(pod) });
            }
        }
    }
}

fn service_of(key: &ObjectKey, slice: &EndpointSlice) -> ObjectKey {
    key.sibling(slice.labels().get(SERVICE_NAME).map_or("", String::as_str))
}
