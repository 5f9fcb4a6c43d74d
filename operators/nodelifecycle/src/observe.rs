//! What is known of nodes, their signs of life, and pods (client).

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::informer::Change;
use keelson_operator_kit::{Context, Controller, Informer, ObjectKey, Recorder, WorkQueue};
use kube::runtime::watcher;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::decide::loses_pods;
use crate::node::{NodeView, Readiness};
use crate::pod::{self, PodView};
use crate::taints::is_our_no_execute;
use crate::vigil::Vigil;
use crate::zones::{Reach, reach};

/// Where kubelets renew their Leases.
pub const LEASES: &str = "kube-node-lease";

/// Everything that a reconcile reads and writes.
pub struct World {
    /// The API.
    pub client: Client,
    /// Writes Events.
    pub recorder: Recorder,
    /// All nodes.
    pub nodes: Informer<NodeView>,
    /// All pods, by node.
    pub pods: Informer<PodView>,
    /// When the Leases of nodes were renewed.
    pub leases: Informer<Option<Timestamp>>,
    /// What was seen when.
    pub vigil: Mutex<Vigil>,
    /// Nodes whose pods are to be called not ready.
    pub fallen: Mutex<HashSet<ObjectKey>>,
    /// Nodes to look at.
    pub node_queue: WorkQueue<ObjectKey>,
    /// Pods to look at.
    pub pod_queue: WorkQueue<ObjectKey>,
}

impl World {
    /// Sets up the watches.
    pub fn new(context: &Context, controller: &mut Controller) -> Arc<Self> {
        let world = Arc::new(World {
            client: context.client.clone(),
            recorder: context.recorder.clone(),
            nodes: Informer::default(),
            pods: Informer::with_index(pod::index),
            leases: Informer::default(),
            vigil: Mutex::new(Vigil::begin(Instant::now())),
            fallen: Mutex::default(),
            node_queue: WorkQueue::default(),
            pod_queue: WorkQueue::default(),
        });
        let all = watcher::Config::default;
        let nodes = Arc::clone(&world);
        let api: Api<Node> = Api::all(context.client.clone());
        controller.watch(api, all(), &world.nodes, NodeView::read, move |it| nodes.node_changed(it));
        let pods = Arc::clone(&world);
        let api: Api<Pod> = Api::all(context.client.clone());
        controller.watch(api, all(), &world.pods, PodView::read, move |it| pods.pod_changed(it));
        let leases = Arc::clone(&world);
        let api: Api<Lease> = Api::namespaced(context.client.clone(), LEASES);
        let read = |lease: Lease| Some(renewed_at(&lease));
        controller.watch(api, all(), &world.leases, read, move |it| leases.lease_changed(it));
        world
    }

    /// How far the failure of a node reaches.
    pub fn reach(&self, node: &NodeView) -> Reach {
        if node.readiness() == Readiness::Ready {
            return Reach::Node;
        }
        reach(&self.nodes.all(), &node.zone)
    }

    fn node_changed(&self, change: &Change<NodeView>) {
        let (key, old) = (&change.key, change.old.as_deref());
        let Some(new) = &change.new else {
            self.vigil.lock().forget_node(key.name());
            self.look_at_pods(key);
            return;
        };
        if old.is_none() {
            let message = format!("Node {key} event: Registered Node {key} in Controller");
            self.recorder.normal(&new.reference, "RegisteredNode", message);
        }
        self.vigil.lock().heard(key.name(), new.heartbeat(), Instant::now());
        if loses_pods(old, new) {
            self.fallen.lock().insert(key.clone());
        }
        let turned = old.map(NodeView::readiness) != Some(new.readiness());
        if turned || old.is_some_and(|old| old.taints != new.taints) {
            self.look_at_pods(key);
        }
        if turned {
            // How far failures reach has changed for others, too.
            for (other, node) in self.nodes.all() {
                if node.readiness() != Readiness::Ready || node.taints.iter().any(is_our_no_execute) {
                    self.node_queue.add(other);
                }
            }
        }
        self.node_queue.add(key.clone());
    }

    fn look_at_pods(&self, node: &ObjectKey) {
        for (key, _) in self.pods.indexed(node.name()) {
            self.pod_queue.add(key);
        }
    }

    fn pod_changed(&self, change: &Change<PodView>) {
        let uid = |pod: &Option<Arc<PodView>>| pod.as_ref().map(|pod| pod.uid.clone());
        if let Some(gone) = uid(&change.old).filter(|old| uid(&change.new).as_ref() != Some(old)) {
            self.vigil.lock().stays(&gone);
        }
        let judged = |pod: &Arc<PodView>| {
            (pod.uid.clone(), pod.node.clone(), pod.tolerations.clone(), pod.terminal, pod.terminating)
        };
        if change.new.is_some() && change.old.as_ref().map(judged) != change.new.as_ref().map(judged) {
            self.pod_queue.add(change.key.clone());
        }
    }

    fn lease_changed(&self, change: &Change<Option<Timestamp>>) {
        if let Some(renewed) = &change.new {
            self.vigil.lock().renewed(change.key.name(), **renewed, Instant::now());
        }
    }
}

/// When a Lease was renewed.
pub fn renewed_at(lease: &Lease) -> Option<Timestamp> {
    Some(lease.spec.as_ref()?.renew_time.as_ref()?.0)
}
