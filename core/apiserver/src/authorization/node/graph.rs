//! Which node's pods refer to what.

use std::collections::{HashMap, HashSet};

use keelson_api::Object;
use serde_json::Value;

/// Something in a pod's namespace that the pod refers to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reference {
    Secret(String),
    ConfigMap(String),
    Claim(String),
    ServiceAccount(String),
    ResourceClaim(String),
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
    pub(super) edges: HashMap<(String, Reference), HashMap<String, usize>>,
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
    for claim in list(pod.get(&["spec", "resourceClaims"])) {
        found.extend(text(&claim, "/resourceClaimName").map(Reference::ResourceClaim));
    }
    // Claims that were made of templates.
    for claim in list(pod.get(&["status", "resourceClaimStatuses"])) {
        found.extend(text(&claim, "/resourceClaimName").map(Reference::ResourceClaim));
    }
    let extended = pod.get_str(&["status", "extendedResourceClaimStatus", "resourceClaimName"]);
    found.extend(extended.map(|name| Reference::ResourceClaim(name.to_owned())));
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

/// The kind of objects that the pod refers to and its kubelet may then read; the first of several, as upstream names it.
pub(crate) fn referred_kind(pod: &Object) -> Option<&'static str> {
    const KINDS: [&str; 5] =
        ["a service account", "secrets", "configmaps", "persistentvolumeclaims", "resourceclaims"];
    let place = |reference: &Reference| match reference {
        Reference::ServiceAccount(_) => 0,
        Reference::Secret(_) => 1,
        Reference::ConfigMap(_) => 2,
        Reference::Claim(_) => 3,
        Reference::ResourceClaim(_) => 4,
    };
    references(pod).iter().map(place).min().map(|place: usize| KINDS[place])
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

    pub(super) fn reaches(&self, node: &str, namespace: &str, reference: Reference) -> bool {
        let nodes = self.edges.get(&(namespace.to_owned(), reference));
        nodes.is_some_and(|nodes| nodes.contains_key(node))
    }

    pub(super) fn runs(&self, node: &str, namespace: &str, pod: &str) -> bool {
        let entry = self.pods.get(&(namespace.to_owned(), pod.to_owned()));
        entry.is_some_and(|entry| entry.node == node)
    }
}
