//! Which node's pods refer to what.

use std::collections::{HashMap, HashSet};

use keelson_api::Object;
use keelson_api::pod_references::{Reference, references};

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
