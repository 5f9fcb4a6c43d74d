//! What is known of claims, volumes, classes and nodes (client).

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use keelson_operator_kit::{Informer, Observe, Subject, Watches};
use kube::ResourceExt;

use crate::decide::SELECTED_NODE;
use crate::volume::{FOLDER, NodeView, PROVISIONER, is_own};

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A PersistentVolumeClaim.
    Claim,
    /// A PersistentVolume.
    Volume,
}

/// What is known of the cluster.
#[derive(Default)]
pub struct Known {
    /// Claims without a volume.
    pub claims: Informer<PersistentVolumeClaim>,
    /// Volumes that were made here.
    pub volumes: Informer<PersistentVolume>,
    /// Classes of this provisioner.
    pub classes: Informer<StorageClass>,
    /// The nodes.
    pub nodes: Informer<NodeView>,
}

/// Everything that a reconcile reads and writes.
pub type World = keelson_operator_kit::World<Known>;

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

fn own(volume: PersistentVolume) -> Option<PersistentVolume> {
    is_own(&volume).then_some(volume)
}

fn of_ours(class: StorageClass) -> Option<StorageClass> {
    (class.provisioner == PROVISIONER).then_some(class)
}

impl Observe for Known {
    type Subject = Subject<Kind>;

    fn watch(watches: &mut Watches<'_, Self>) {
        watches.all(
            |it| &it.claims,
            unbound,
            |world, change| world.queue.add(Subject::new(Kind::Claim, change.key.clone())),
        );
        watches.all(
            |it| &it.volumes,
            own,
            |world, change| world.queue.add(Subject::new(Kind::Volume, change.key.clone())),
        );
        watches.all(|it| &it.classes, of_ours, |world, _| look_at_all(world));
        watches.all(
            |it| &it.nodes,
            |it| Some(node(&it)),
            |world, change| {
                // A node's heartbeat changes nothing.
                if change.old != change.new {
                    look_at_all(world);
                }
            },
        );
    }
}

fn look_at_all(world: &World) {
    let Known { claims, volumes, .. } = &world.known;
    claims.all().into_iter().for_each(|(key, _)| world.queue.add(Subject::new(Kind::Claim, key)));
    volumes.all().into_iter().for_each(|(key, _)| world.queue.add(Subject::new(Kind::Volume, key)));
}
