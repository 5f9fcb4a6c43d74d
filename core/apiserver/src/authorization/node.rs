//! The node authorizer: a kubelet reads what its own pods refer to and writes its own node, lease and pods.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::selector::FieldSelector;
use keelson_api::{GroupResource, Object};
use keelson_store::EventKind;
use parking_lot::Mutex;
use serde_json::Value;

use crate::authorization::{Authorizer, Decision};
use crate::cache::{self, Cached, ResourceCache, WatchCache};
use crate::identity::Identity;
use crate::request_info::RequestInfo;

/// Something in a pod's namespace that the pod refers to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Reference {
    Secret(String),
    ConfigMap(String),
    Claim(String),
    ServiceAccount(String),
}

#[derive(Debug)]
struct PodEntry {
    node: String,
    references: HashSet<Reference>,
}

/// Which node's pods refer to what.
#[derive(Debug, Default)]
pub struct Graph {
    pods: HashMap<(String, String), PodEntry>,
    /// How many pods of a node refer to a thing in a namespace.
    edges: HashMap<(String, Reference), HashMap<String, usize>>,
}

fn references(pod: &Object) -> HashSet<Reference> {
    let mut found = HashSet::new();
    let text = |value: &Value, pointer: &str| value.pointer(pointer)?.as_str().map(str::to_owned);
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let service_account = pod.get_str(&["spec", "serviceAccountName"]).filter(|name| !name.is_empty());
    found.extend(service_account.map(|name| Reference::ServiceAccount(name.to_owned())));
    for secret in list(pod.get(&["spec", "imagePullSecrets"])) {
        found.extend(text(&secret, "/name").map(Reference::Secret));
    }
    for volume in list(pod.get(&["spec", "volumes"])) {
        found.extend(text(&volume, "/secret/secretName").map(Reference::Secret));
        found.extend(text(&volume, "/configMap/name").map(Reference::ConfigMap));
        found.extend(text(&volume, "/persistentVolumeClaim/claimName").map(Reference::Claim));
        for source in list(volume.pointer("/projected/sources")) {
            found.extend(text(&source, "/secret/name").map(Reference::Secret));
            found.extend(text(&source, "/configMap/name").map(Reference::ConfigMap));
        }
        for kind in ["cephfs", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
            found.extend(text(&volume, &format!("/{kind}/secretRef/name")).map(Reference::Secret));
        }
        found.extend(text(&volume, "/csi/nodePublishSecretRef/name").map(Reference::Secret));
        found.extend(text(&volume, "/azureFile/secretName").map(Reference::Secret));
        if volume.get("ephemeral").is_some()
            && let (Some(pod), Some(volume)) = (pod.name(), text(&volume, "/name"))
        {
            found.insert(Reference::Claim(format!("{pod}-{volume}")));
        }
    }
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for container in list(pod.get(&["spec", field])) {
            for variable in list(container.get("env")) {
                found.extend(text(&variable, "/valueFrom/secretKeyRef/name").map(Reference::Secret));
                found.extend(text(&variable, "/valueFrom/configMapKeyRef/name").map(Reference::ConfigMap));
            }
            for source in list(container.get("envFrom")) {
                found.extend(text(&source, "/secretRef/name").map(Reference::Secret));
                found.extend(text(&source, "/configMapRef/name").map(Reference::ConfigMap));
            }
        }
    }
    found
}

/// Whether the pod refers to objects that its kubelet may then read.
pub(crate) fn refers_to_objects(pod: &Object) -> bool {
    !references(pod).is_empty()
}

impl Graph {
    /// Takes a pod's new state.
    pub fn put_pod(&mut self, pod: &Object) {
        let (Some(namespace), Some(name)) = (pod.namespace(), pod.name()) else { return };
        self.remove_pod(namespace, name);
        let Some(node) = pod.get_str(&["spec", "nodeName"]).filter(|node| !node.is_empty()) else { return };
        // A static pod's mirror may not open what its node could not read before.
        let is_mirror = pod.annotation("kubernetes.io/config.mirror").is_some();
        let references = if is_mirror { HashSet::new() } else { references(pod) };
        for reference in &references {
            let nodes = self.edges.entry((namespace.to_owned(), reference.clone())).or_default();
            *nodes.entry(node.to_owned()).or_default() += 1;
        }
        let key = (namespace.to_owned(), name.to_owned());
        self.pods.insert(key, PodEntry { node: node.to_owned(), references });
    }

    /// Forgets a pod.
    pub fn remove_pod(&mut self, namespace: &str, name: &str) {
        let Some(entry) = self.pods.remove(&(namespace.to_owned(), name.to_owned())) else { return };
        for reference in entry.references {
            let key = (namespace.to_owned(), reference);
            let Some(nodes) = self.edges.get_mut(&key) else { continue };
            if let Some(count) = nodes.get_mut(&entry.node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&entry.node);
                }
            }
            if nodes.is_empty() {
                self.edges.remove(&key);
            }
        }
    }

    fn reaches(&self, node: &str, namespace: &str, reference: Reference) -> bool {
        let nodes = self.edges.get(&(namespace.to_owned(), reference));
        nodes.is_some_and(|nodes| nodes.contains_key(node))
    }

    fn runs(&self, node: &str, namespace: &str, pod: &str) -> bool {
        let entry = self.pods.get(&(namespace.to_owned(), pod.to_owned()));
        entry.is_some_and(|entry| entry.node == node)
    }
}

fn put(graph: &mut Graph, pod: &Cached) {
    match cache::decode(&pod.bytes) {
        Ok(pod) => graph.put_pod(&pod),
        Err(_) => graph.remove_pod(pod.namespace.as_deref().unwrap_or_default(), &pod.name),
    }
}

/// Whether the request's field selector asks for this value alone.
fn selects(info: &RequestInfo, field: &str, value: &str) -> bool {
    let selector = info.parameter("fieldSelector").and_then(|text| FieldSelector::parse(text).ok());
    selector.is_some_and(|selector| selector.exact(field) == Some(value))
}

/// The graph, and the revision up to which it knows of pods.
#[derive(Default)]
struct Known {
    at: Option<u64>,
    graph: Graph,
}

/// The node authorizer. It takes up what happened to pods when a kubelet asks.
pub struct NodeAuthorizer {
    pods: Arc<ResourceCache>,
    volumes: Arc<ResourceCache>,
    known: Mutex<Known>,
}

/// Events taken up at once.
const BATCH: usize = 1000;

impl NodeAuthorizer {
    /// An authorizer over the pods of a cache.
    pub fn new(cache: &WatchCache) -> Self {
        let of = |resource: &str| cache.resource(&GroupResource::new("", resource));
        NodeAuthorizer { pods: of("pods"), volumes: of("persistentvolumes"), known: Mutex::default() }
    }

    fn catch_up(&self, known: &mut Known) {
        while let Some(at) = known.at {
            let Ok(events) = self.pods.events_after(at, BATCH) else {
                known.at = None;
                break;
            };
            let Some(last) = events.last() else { return };
            known.at = Some(last.revision);
            for event in &events {
                if event.kind == EventKind::Deleted {
                    known.graph.remove_pod(
                        event.object.namespace.as_deref().unwrap_or_default(),
                        &event.object.name,
                    );
                } else {
                    put(&mut known.graph, &event.object);
                }
            }
        }
        let listing = self.pods.list();
        known.graph = Graph::default();
        for object in listing.objects.values() {
            put(&mut known.graph, object);
        }
        known.at = Some(listing.revision);
    }

    fn volume_of_claim(&self, graph: &Graph, node: &str, volume: &str) -> bool {
        let Some(volume) = self.volumes.get(volume) else { return false };
        let Ok(volume) = cache::decode(&volume.bytes) else { return false };
        let namespace = volume.get_str(&["spec", "claimRef", "namespace"]);
        let claim = volume.get_str(&["spec", "claimRef", "name"]);
        let (Some(namespace), Some(claim)) = (namespace, claim) else { return false };
        graph.reaches(node, namespace, Reference::Claim(claim.to_owned()))
    }

    fn decide(&self, node: &str, info: &RequestInfo) -> bool {
        let verb = info.verb.as_str();
        let reads = matches!(verb, "get" | "list" | "watch");
        let namespace = info.namespace.as_deref().unwrap_or_default();
        let name = info.object_name().unwrap_or_default();
        let name = &*name;
        let mut known = self.known.lock();
        self.catch_up(&mut known);
        let graph = &known.graph;
        let refers = |reference: fn(String) -> Reference| {
            !name.is_empty() && graph.reaches(node, namespace, reference(name.to_owned()))
        };
        match (info.group.as_str(), info.resource.as_str(), info.subresource.as_str()) {
            ("", "secrets", "") => reads && refers(Reference::Secret),
            ("", "configmaps", "") => reads && refers(Reference::ConfigMap),
            ("", "persistentvolumeclaims", "") => verb == "get" && refers(Reference::Claim),
            ("", "persistentvolumeclaims", "status") => {
                matches!(verb, "get" | "update" | "patch") && refers(Reference::Claim)
            }
            ("", "persistentvolumes", "") => verb == "get" && self.volume_of_claim(graph, node, name),
            ("", "serviceaccounts", "") => verb == "get" && refers(Reference::ServiceAccount),
            ("", "serviceaccounts", "token") => verb == "create" && refers(Reference::ServiceAccount),
            ("", "pods", "") => match verb {
                "get" | "delete" => graph.runs(node, namespace, name),
                // NodeRestriction limits creation to mirror pods of this node.
                "create" => true,
                "list" | "watch" => selects(info, "spec.nodeName", node),
                _ => false,
            },
            ("", "pods", "status") => matches!(verb, "update" | "patch") && graph.runs(node, namespace, name),
            ("", "pods", "eviction") => verb == "create" && graph.runs(node, namespace, name),
            ("", "nodes", "") => match verb {
                "create" => true,
                "list" | "watch" => name == node || selects(info, "metadata.name", node),
                "get" | "update" | "patch" => name == node,
                _ => false,
            },
            ("", "nodes", "status") => matches!(verb, "update" | "patch") && name == node,
            ("coordination.k8s.io", "leases", "") => {
                namespace == "kube-node-lease"
                    && (verb == "create"
                        || (matches!(verb, "get" | "update" | "patch" | "delete") && name == node))
            }
            ("storage.k8s.io", "csinodes", "") => {
                verb == "create" || (matches!(verb, "get" | "update" | "patch" | "delete") && name == node)
            }
            ("", "services", "")
            | ("storage.k8s.io", "csidrivers", "")
            | ("node.k8s.io", "runtimeclasses", "") => reads,
            ("" | "events.k8s.io", "events", "") => matches!(verb, "create" | "update" | "patch"),
            ("authentication.k8s.io", "tokenreviews", "")
            | ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews", "") => {
                verb == "create"
            }
            ("certificates.k8s.io", "certificatesigningrequests", "") => {
                matches!(verb, "create" | "get" | "list" | "watch")
            }
            _ => false,
        }
    }
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, who: &Identity, info: &RequestInfo) -> Decision {
        let Some(node) = who.node() else { return Decision::NoOpinion };
        if info.is_resource && self.decide(node, info) { Decision::Allow } else { Decision::NoOpinion }
    }
}

#[cfg(test)]
mod tests;
