//! The node authorizer: a kubelet reads what its own pods refer to and writes its own node, lease and pods.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::pod_references::Reference;
use keelson_api::selector::{FieldSelector, LabelSelector};
use keelson_api::{GroupResource, Object};
use keelson_store::EventKind;
use parking_lot::Mutex;

use crate::authorization::{Authorizer, Decision, Opinion};
use crate::cache::{self, Cached, ResourceCache, WatchCache};
use crate::identity::{Identity, NODES};
use crate::request_info::RequestInfo;

mod graph;

pub use graph::Graph;

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

/// The label of a volume that is a folder on a node, with the node's name.
const VOLUME_NODE: &str = "local.keelson.io/node";

/// Whether the request's label selector asks for volumes of this node alone.
fn selects_volumes(info: &RequestInfo, node: &str) -> bool {
    let selector = info.parameter("labelSelector").and_then(|text| LabelSelector::parse(text).ok());
    selector.is_some_and(|selector| selector.exact(VOLUME_NODE) == Some(node))
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
    attachments: Arc<ResourceCache>,
    slices: Arc<ResourceCache>,
    known: Mutex<Known>,
}

/// Events taken up at once.
const BATCH: usize = 1000;

impl NodeAuthorizer {
    /// An authorizer over the pods of a cache.
    pub fn new(cache: &WatchCache) -> Self {
        let of = |resource: &str| cache.resource(&GroupResource::new("", resource));
        NodeAuthorizer {
            pods: of("pods"),
            volumes: of("persistentvolumes"),
            attachments: cache.resource(&GroupResource::new("storage.k8s.io", "volumeattachments")),
            slices: cache.resource(&GroupResource::new("resource.k8s.io", "resourceslices")),
            known: Mutex::default(),
        }
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

    fn claim_reaches(&self, graph: &Graph, node: &str, volume: &Object) -> bool {
        let text = |field: &str| volume.get_str(&["spec", "claimRef", field]);
        let (Some(namespace), Some(claim)) = (text("namespace"), text("name")) else { return false };
        graph.reaches(node, namespace, Reference::Claim(claim.to_owned()))
    }

    fn volume_of_claim(&self, graph: &Graph, node: &str, volume: &str) -> bool {
        let volume = self.volumes.get(volume).and_then(|volume| cache::decode(&volume.bytes).ok());
        volume.is_some_and(|volume| self.claim_reaches(graph, node, &volume))
    }

    /// Whether a volume is a folder on the node.
    fn is_folder_of(&self, node: &str, volume: &str) -> bool {
        let volume = self.volumes.get(volume).and_then(|volume| cache::decode(&volume.bytes).ok());
        volume.is_some_and(|volume| volume.label(VOLUME_NODE) == Some(node))
    }

    /// Whether a volume that one of the node's pods has claimed needs the secret in order to be mounted.
    fn secret_of_volume(&self, graph: &Graph, node: &str, namespace: &str, name: &str) -> bool {
        let listing = self.volumes.list();
        // Most volumes are passed over without being decoded.
        let finder = memchr::memmem::Finder::new(name);
        let mut volumes = listing.objects.values().filter(|volume| finder.find(&volume.bytes).is_some());
        volumes.any(|volume| {
            let Ok(volume) = cache::decode(&volume.bytes) else { return false };
            secrets(&volume).any(|(own, secret)| own == namespace && secret == name)
                && self.claim_reaches(graph, node, &volume)
        })
    }

    /// Whether an object without namespace names the node in its `spec.nodeName`.
    fn is_of_node(cache: &ResourceCache, name: &str, node: &str) -> bool {
        let object = cache.get(name).and_then(|object| cache::decode(&object.bytes).ok());
        object.is_some_and(|object| object.get_str(&["spec", "nodeName"]) == Some(node))
    }

    /// Why the node may not do it.
    fn decide(&self, node: &str, info: &RequestInfo) -> Result<(), String> {
        let verb = info.verb.as_str();
        let namespace = info.namespace.as_deref().unwrap_or_default();
        let name = info.object_name().unwrap_or_default();
        let name = &*name;
        let mut known = self.known.lock();
        self.catch_up(&mut known);
        let graph = &known.graph;
        let related = |is_related: bool| match is_related {
            true => Ok(()),
            false if name.is_empty() => Err("No Object name found".to_owned()),
            false => Err(format!("no relationship found between node '{node}' and this object")),
        };
        let allowed = |verbs: &[&str]| if verbs.contains(&verb) { Ok(()) } else { Err(String::new()) };
        let limited = |verbs: &[&str], reason: &str| {
            if verbs.contains(&verb) { Ok(()) } else { Err(reason.to_owned()) }
        };
        let refers = |reference: fn(String) -> Reference| {
            !name.is_empty() && graph.reaches(node, namespace, reference(name.to_owned()))
        };
        const READ: [&str; 3] = ["get", "list", "watch"];
        const GET_ONLY: &str = "can only get individual resources of this type";
        let own_named = |kind: &str| {
            limited(
                &["get", "create", "update", "patch", "delete"],
                &format!("can only get, create, update, patch, or delete a {kind}"),
            )
        };
        match (info.group.as_str(), info.resource.as_str(), info.subresource.as_str()) {
            ("", resource @ ("secrets" | "configmaps"), "") => {
                limited(&READ, "can only read resources of this type")?;
                if namespace.is_empty() {
                    return Err("can only read namespaced object of this type".to_owned());
                }
                if resource == "configmaps" {
                    return related(refers(Reference::ConfigMap));
                }
                let mounted = || !name.is_empty() && self.secret_of_volume(graph, node, namespace, name);
                related(refers(Reference::Secret) || mounted())
            }
            ("", "persistentvolumeclaims", "") => {
                limited(&["get"], GET_ONLY)?;
                related(refers(Reference::Claim))
            }
            ("", "persistentvolumeclaims", "status") => {
                limited(&["update", "patch"], "can only get/update/patch this type")?;
                related(refers(Reference::Claim))
            }
            ("", "persistentvolumes", "") => match verb {
                // A node removes the folders of its own volumes; NodeRestriction limits what it may change.
                "list" | "watch" if selects_volumes(info, node) => Ok(()),
                "patch" => related(self.is_folder_of(node, name)),
                _ => {
                    limited(&["get"], GET_ONLY)?;
                    related(self.volume_of_claim(graph, node, name))
                }
            },
            ("resource.k8s.io", "resourceclaims", "") => {
                limited(&["get"], GET_ONLY)?;
                related(refers(Reference::ResourceClaim))
            }
            ("storage.k8s.io", "volumeattachments", "") => {
                limited(&["get"], GET_ONLY)?;
                related(Self::is_of_node(&self.attachments, name, node))
            }
            ("", "serviceaccounts", "token") => {
                limited(&["create"], "can only create tokens for individual service accounts")?;
                related(refers(Reference::ServiceAccount))
            }
            // A kubelet looks at an account before it asks for tokens for those who provide credentials of images.
            ("", "serviceaccounts", "") if verb == "get" => related(refers(Reference::ServiceAccount)),
            ("", "serviceaccounts", _) if verb == "create" && !name.is_empty() => {
                Err("can only create token subresource of serviceaccount".to_owned())
            }
            ("", "serviceaccounts", _) => {
                Err("can only create tokens for individual service accounts".to_owned())
            }
            ("", "endpoints", "") => allowed(&["get"]),
            ("", "pods", "") => match verb {
                "get" => related(graph.runs(node, namespace, name)),
                // NodeRestriction limits it to mirror pods, and to the pods of this node.
                "create" | "delete" => Ok(()),
                "list" | "watch" if selects(info, "spec.nodeName", node) => Ok(()),
                "list" | "watch" if !name.is_empty() => related(graph.runs(node, namespace, name)),
                "list" | "watch" => {
                    Err("can only list/watch pods with spec.nodeName field selector".to_owned())
                }
                _ => Err(String::new()),
            },
            ("", "pods", "status") => allowed(&["update", "patch"]),
            ("", "pods", "eviction") => {
                allowed(&["create"])?;
                related(graph.runs(node, namespace, name))
            }
            ("", "nodes", "") => match verb {
                "create" | "update" | "patch" => Ok(()),
                "get" | "list" | "watch" if name == node => Ok(()),
                "get" | "list" | "watch" if name.is_empty() => {
                    Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
                }
                "get" | "list" | "watch" => {
                    Err(format!("node '{node}' cannot read '{name}', only its own Node object"))
                }
                _ => Err(String::new()),
            },
            ("", "nodes", "status") => allowed(&["update", "patch"]),
            ("coordination.k8s.io", "leases", "") => {
                own_named("node lease")?;
                if namespace != "kube-node-lease" {
                    return Err(
                        "can only access leases in the \"kube-node-lease\" system namespace".to_owned()
                    );
                }
                if verb == "create" || name == node {
                    return Ok(());
                }
                Err("can only access node lease with the same name as the requesting node".to_owned())
            }
            ("storage.k8s.io", "csinodes", "") => {
                own_named("CSINode")?;
                if verb == "create" || name == node {
                    return Ok(());
                }
                Err("can only access CSINode with the same name as the requesting node".to_owned())
            }
            ("resource.k8s.io", "resourceslices", "") => match verb {
                // NodeRestriction looks at the new slice's node.
                "create" => Ok(()),
                "get" | "update" | "patch" | "delete" => related(Self::is_of_node(&self.slices, name, node)),
                "list" | "watch" | "deletecollection" if selects(info, "spec.nodeName", node) => Ok(()),
                _ => Err("can only list/watch/deletecollection resourceslices with nodeName field selector"
                    .to_owned()),
            },
            ("", "services", "")
            | ("storage.k8s.io", "csidrivers", "")
            | ("node.k8s.io", "runtimeclasses", "") => allowed(&READ),
            ("" | "events.k8s.io", "events", "") => allowed(&["create", "update", "patch"]),
            ("authentication.k8s.io", "tokenreviews", "")
            | ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews", "") => {
                allowed(&["create"])
            }
            ("certificates.k8s.io", "certificatesigningrequests", "") => {
                allowed(&["create", "get", "list", "watch"])
            }
            _ => Err(String::new()),
        }
    }
}

/// The secrets that a kubelet needs in order to mount a volume, each with its namespace.
fn secrets(volume: &Object) -> impl Iterator<Item = (&str, &str)> {
    const REFERENCES: [[&str; 2]; 9] = [
        ["cephfs", "secretRef"],
        ["flexVolume", "secretRef"],
        ["iscsi", "secretRef"],
        ["rbd", "secretRef"],
        ["scaleIO", "secretRef"],
        ["storageos", "secretRef"],
        ["csi", "nodePublishSecretRef"],
        ["csi", "nodeStageSecretRef"],
        ["csi", "nodeExpandSecretRef"],
    ];
    let claim = volume.get_str(&["spec", "claimRef", "namespace"]);
    let text = |path: &[&str]| volume.get_str(path).filter(|text| !text.is_empty());
    let named = REFERENCES.into_iter().filter_map(move |[kind, field]| {
        let namespace = text(&["spec", kind, field, "namespace"]).or(claim)?;
        Some((namespace, text(&["spec", kind, field, "name"])?))
    });
    let azure = text(&["spec", "azureFile", "secretName"])
        .and_then(|name| Some((text(&["spec", "azureFile", "secretNamespace"]).or(claim)?, name)));
    named.chain(azure)
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, who: &Identity, info: &RequestInfo) -> Decision {
        self.explain(who, info).await.decision
    }

    async fn explain(&self, who: &Identity, info: &RequestInfo) -> Opinion {
        if !who.is_in(NODES) {
            return Decision::NoOpinion.into();
        }
        let Some(node) = who.node() else {
            // A user of another name in the group of nodes.
            let unknown = who.username == "system:node:";
            let reason =
                if unknown { format!("unknown node for user {:?}", who.username) } else { String::new() };
            return Opinion::new(Decision::NoOpinion, reason);
        };
        if !info.is_resource {
            return Decision::NoOpinion.into();
        }
        match self.decide(node, info) {
            Ok(()) => Decision::Allow.into(),
            Err(reason) => Opinion::new(Decision::NoOpinion, reason),
        }
    }

    fn gaps(&self, who: &Identity) -> Vec<&'static str> {
        let is_node = who.node().is_some();
        is_node.then_some("node authorizer does not support user rule resolution").into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
