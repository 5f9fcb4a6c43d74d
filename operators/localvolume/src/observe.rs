//! What is known of claims, volumes, classes and nodes (client).

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use keelson_operator_kit::{Context, Controller, Informer, ObjectKey, Recorder, WorkQueue};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};

use crate::decide::SELECTED_NODE;
use crate::volume::{FOLDER, NodeView, PROVISIONER, is_own};

/// An object to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A PersistentVolumeClaim.
    Claim(ObjectKey),
    /// A PersistentVolume, by its name.
    Volume(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Claim(key) => write!(f, "claim {key}"),
            Subject::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

/// Everything that a reconcile reads.
pub struct World {
    /// The API.
    pub client: Client,
    /// What to look at.
    pub queue: WorkQueue<Subject>,
    /// Where it is told.
    pub recorder: Recorder,
    /// Claims without a volume.
    pub claims: Informer<PersistentVolumeClaim>,
    /// Volumes that were made here.
    pub volumes: Informer<PersistentVolume>,
    /// Classes of this provisioner.
    pub classes: Informer<StorageClass>,
    /// The nodes.
    pub nodes: Informer<NodeView>,
}

fn unbound(claim: PersistentVolumeClaim) -> Option<PersistentVolumeClaim> {
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    let chosen = claim.annotations().contains_key(SELECTED_NODE);
    (named.is_empty() && chosen).then_some(claim)
}

fn node(node: &Node) -> NodeView {
    NodeView {
        hostname: node.labels().get("kubernetes.io/hostname").cloned(),
        folder: node.annotations().get(FOLDER).cloned(),
    }
}

impl World {
    /// Watches everything.
    pub fn new(context: &Context, controller: &mut Controller) -> Arc<Self> {
        let client = context.client.clone();
        let world = Arc::new(World {
            client: client.clone(),
            queue: WorkQueue::default(),
            recorder: context.recorder.clone(),
            claims: Informer::default(),
            volumes: Informer::default(),
            classes: Informer::default(),
            nodes: Informer::default(),
        });
        let config = watcher::Config::default;
        let to = world.queue.clone();
        let claims = Api::<PersistentVolumeClaim>::all(client.clone());
        controller.watch(claims, config(), &world.claims, unbound, move |change| {
            to.add(Subject::Claim(change.key.clone()));
        });
        let to = world.queue.clone();
        let own = |volume: PersistentVolume| is_own(&volume).then_some(volume);
        let volumes = Api::<PersistentVolume>::all(client.clone());
        controller.watch(volumes, config(), &world.volumes, own, move |change| {
            to.add(Subject::Volume(change.key.name().to_owned()));
        });
        let known = Arc::clone(&world);
        let of_ours = |class: StorageClass| (class.provisioner == PROVISIONER).then_some(class);
        let classes = Api::<StorageClass>::all(client.clone());
        controller.watch(classes, config(), &world.classes, of_ours, move |_| known.look_at_all());
        let known = Arc::clone(&world);
        controller.watch(
            Api::<Node>::all(client),
            config(),
            &world.nodes,
            |it| Some(node(&it)),
            move |change| {
                // A node's heartbeat changes nothing.
                if change.old != change.new {
                    known.look_at_all();
                }
            },
        );
        world
    }

    fn look_at_all(&self) {
        self.claims.all().into_iter().for_each(|(key, _)| self.queue.add(Subject::Claim(key)));
        for (key, _) in self.volumes.all() {
            self.queue.add(Subject::Volume(key.name().to_owned()));
        }
    }
}
