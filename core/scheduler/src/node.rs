//! A node and what is on it, kept up to date as pods come and go.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use crate::labels::Labels;
use crate::names::{NodeName, PodUid};
use crate::pod::{ControllerId, HostPort, PodInfo};
use crate::queue::event::ClusterEvents;
use crate::resources::{Resources, units};
use crate::taint::Taint;

/// A node with the sums over its pods.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Its name.
    pub name: NodeName,
    /// Its labels.
    pub labels: Labels,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// What its pods may take together.
    pub allocatable: Resources,
    /// How many pods it may have.
    pub allocatable_pods: i64,
    /// Images that it has, with their size in bytes.
    pub images: HashMap<Box<str>, i64>,
    /// Its pods, those included that are about to be bound to it.
    pub pods: Vec<Arc<PodInfo>>,
    /// What its pods ask for together.
    pub requested: Resources,
    /// CPU as it counts in scores.
    pub scored_milli_cpu: i64,
    /// Memory as it counts in scores.
    pub scored_memory: i64,
    /// Ports that its pods have taken.
    pub ports: Vec<HostPort>,
    /// How many of its pods have an affinity to other pods.
    pub with_affinity: usize,
    /// How many of its pods have a required anti-affinity to other pods.
    pub with_forbidden: usize,
    siblings: HashMap<ControllerId, i64>,
}

impl NodeInfo {
    /// Reads a node, without pods; `None` where it has no name, which the API does not hand out.
    pub fn read(node: &core::Node) -> Option<Self> {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        let images = status.and_then(|status| status.images.as_ref()).into_iter().flatten();
        Some(NodeInfo {
            name: NodeName::new(node.metadata.name.as_deref()?),
            labels: Labels::from(node.metadata.labels.as_ref()),
            taints: spec
                .and_then(|it| it.taints.as_ref())
                .into_iter()
                .flatten()
                .filter_map(Taint::read)
                .collect(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            allocatable: Resources::read(allocatable),
            allocatable_pods: allocatable.and_then(|all| all.get("pods")).map_or(0, units),
            images: images
                .flat_map(|image| {
                    let size = image.size_bytes.unwrap_or(0);
                    image.names.iter().flatten().map(move |name| (name.as_str().into(), size))
                })
                .collect(),
            pods: Vec::new(),
            requested: Resources::default(),
            scored_milli_cpu: 0,
            scored_memory: 0,
            ports: Vec::new(),
            with_affinity: 0,
            with_forbidden: 0,
            siblings: HashMap::new(),
        })
    }

    /// Takes over what `newer` says of the node, keeps the pods, and says what changed that could help a pod.
    pub fn update(&mut self, newer: NodeInfo) -> ClusterEvents {
        let mut changes = ClusterEvents::NONE;
        if self.allocatable != newer.allocatable || self.allocatable_pods != newer.allocatable_pods {
            changes = changes | ClusterEvents::NODE_ALLOCATABLE;
        }
        if self.labels != newer.labels {
            changes = changes | ClusterEvents::NODE_LABELS;
        }
        if self.taints != newer.taints || self.unschedulable != newer.unschedulable {
            changes = changes | ClusterEvents::NODE_TAINTS;
        }
        self.labels = newer.labels;
        self.taints = newer.taints;
        self.unschedulable = newer.unschedulable;
        self.allocatable = newer.allocatable;
        self.allocatable_pods = newer.allocatable_pods;
        self.images = newer.images;
        changes
    }

    /// Adds a pod.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.count(&pod, 1);
        self.requested.add(&pod.requests.actual);
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.push(pod);
    }

    /// Takes a pod away; `None` where it is not here.
    pub fn remove(&mut self, uid: &PodUid) -> Option<Arc<PodInfo>> {
        let at = self.pods.iter().position(|pod| pod.uid == *uid)?;
        let pod = self.pods.swap_remove(at);
        self.count(&pod, -1);
        self.requested.subtract(&pod.requests.actual);
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|have| have == port) {
                self.ports.swap_remove(at);
            }
        }
        Some(pod)
    }

    fn count(&mut self, pod: &PodInfo, sign: i64) {
        self.scored_milli_cpu += sign * pod.requests.scored_milli_cpu;
        self.scored_memory += sign * pod.requests.scored_memory;
        if let Some(affinity) = &pod.affinity {
            self.with_affinity = self.with_affinity.saturating_add_signed(sign as isize);
            if !affinity.forbidden.is_empty() {
                self.with_forbidden = self.with_forbidden.saturating_add_signed(sign as isize);
            }
        }
        if let Some(controller) = pod.controller {
            let siblings = self.siblings.entry(controller).or_insert(0);
            *siblings += sign;
            if *siblings == 0 {
                self.siblings.remove(&controller);
            }
        }
    }

    /// How many of its pods have this controller.
    pub fn siblings(&self, controller: ControllerId) -> i64 {
        self.siblings.get(&controller).copied().unwrap_or(0)
    }

    /// The zone that its labels put it in, as `region/zone`.
    pub fn zone(&self) -> Option<String> {
        let region = self.labels.get("topology.kubernetes.io/region");
        let zone = self.labels.get("topology.kubernetes.io/zone");
        (region.is_some() || zone.is_some())
            .then(|| format!("{}/{}", region.unwrap_or_default(), zone.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_pod_that_came_and_went_leaves_no_trace() {
        let mut node = NodeInfo::read(&from_value(json!({"metadata": {"name": "n"}})).unwrap()).unwrap();
        let pod = json!({
            "metadata": {"name": "a", "namespace": "d", "uid": "1",
                "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "x", "controller": true}]},
            "spec": {
                "containers": [{
                    "name": "c",
                    "ports": [{"containerPort": 80, "hostPort": 80}],
                    "resources": {"requests": {"cpu": "1", "x/y": "1"}},
                }],
                "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}},
                ]}},
            },
        });
        let pod = Arc::new(PodInfo::read(&from_value(pod).unwrap()).unwrap());
        let controller = pod.controller.unwrap();
        node.add(pod.clone());
        assert_eq!((node.requested.milli_cpu, node.ports.len(), node.with_forbidden), (1000, 1, 1));
        assert_eq!(node.siblings(controller), 1);
        assert_eq!(node.remove(&pod.uid), Some(pod.clone()));
        assert_eq!(node.remove(&pod.uid), None);
        assert!(node.requested.is_zero() && node.ports.is_empty() && node.pods.is_empty());
        assert_eq!((node.scored_milli_cpu, node.scored_memory, node.siblings(controller)), (0, 0, 0));
        assert_eq!((node.with_affinity, node.with_forbidden), (0, 0));
    }
}
