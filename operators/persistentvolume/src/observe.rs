//! What is known of claims, volumes and classes (client).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use keelson_operator_kit::informer::Change;
use keelson_operator_kit::{Informer, ObjectKey, Observe, Subject, Watches};
use kube::ResourceExt;

use crate::matching::class_of_claim;

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
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    /// The claims of pods that have no node yet.
    pods: Informer<Vec<String>>,
}

/// Everything that a reconcile reads and writes.
pub type World = keelson_operator_kit::World<Known>;

fn is_default(class: &StorageClass) -> bool {
    let marks =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    marks.iter().any(|mark| class.annotations().get(*mark).is_some_and(|value| value == "true"))
}

fn claim_key(volume: &PersistentVolume) -> Option<ObjectKey> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(ObjectKey::new(reference.namespace.as_deref()?, reference.name.as_deref()?))
}

/// The claims of a pod that waits for a node.
fn claims_of(pod: &Pod) -> Option<Vec<String>> {
    let spec = pod.spec.as_ref().filter(|spec| spec.node_name.as_deref().unwrap_or_default().is_empty())?;
    let name = |volume: &k8s_openapi::api::core::v1::Volume| match (
        &volume.persistent_volume_claim,
        &volume.ephemeral,
    ) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), volume.name)),
        (None, None) => None,
    };
    let claims: Vec<String> = spec.volumes.iter().flatten().filter_map(name).collect();
    Some(claims).filter(|claims| !claims.is_empty())
}

impl Observe for Known {
    type Subject = Subject<Kind>;

    fn watch(watches: &mut Watches<'_, Self>) {
        watches.all(|it| &it.claims, Some, claim_changed);
        watches.all(|it| &it.volumes, Some, volume_changed);
        watches.all(|it| &it.classes, Some, |world, _| look_at_pending(world));
        watches.all(
            |it| &it.pods,
            |pod| claims_of(&pod),
            |world, change| {
                if change.old.is_some() && change.new.is_some() {
                    return;
                }
                for claim in change.new.iter().flat_map(|claims| claims.iter()) {
                    world.queue.add(Subject::new(Kind::Claim, change.key.sibling(claim)));
                }
            },
        );
    }
}

fn claim_changed(world: &World, change: &Change<PersistentVolumeClaim>) {
    world.queue.add(Subject::new(Kind::Claim, change.key.clone()));
    let volume =
        |claim: &Option<Arc<PersistentVolumeClaim>>| claim.as_ref()?.spec.as_ref()?.volume_name.clone();
    let named = volume(&change.old).into_iter().chain(volume(&change.new));
    named
        .filter(|name| !name.is_empty())
        .for_each(|name| world.queue.add(Subject::new(Kind::Volume, ObjectKey::cluster(&name))));
    // One that is gone frees what was reserved for it as well, and a new one takes it.
    if change.old.is_none() || change.new.is_none() {
        for (key, volume) in world.known.volumes.all() {
            if claim_key(&volume).as_ref() == Some(&change.key) {
                world.queue.add(Subject::new(Kind::Volume, key));
            }
        }
    }
}

fn volume_changed(world: &World, change: &Change<PersistentVolume>) {
    world.queue.add(Subject::new(Kind::Volume, change.key.clone()));
    let keys = [&change.old, &change.new].into_iter().flatten().filter_map(|volume| claim_key(volume));
    keys.for_each(|key| world.queue.add(Subject::new(Kind::Claim, key)));
    let phase = |volume: &PersistentVolume| volume.status.as_ref().and_then(|it| it.phase.clone());
    let is_free = |volume: &Option<Arc<PersistentVolume>>| {
        volume.as_ref().is_some_and(|it| phase(it).as_deref() == Some("Available"))
    };
    if change.old.is_none() || change.new.is_none() || is_free(&change.new) {
        look_at_pending(world);
    }
}

/// What was found for no claim may now be there.
fn look_at_pending(world: &World) {
    for (key, claim) in world.known.claims.all() {
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase != Some("Bound") {
            world.queue.add(Subject::new(Kind::Claim, key));
        }
    }
}

impl Known {
    /// A claim.
    pub fn claim(&self, key: &ObjectKey) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(key)
    }

    /// A volume.
    pub fn volume(&self, key: &ObjectKey) -> Option<Arc<PersistentVolume>> {
        self.volumes.get(key)
    }

    /// The claim of the name that a volume names.
    pub fn claim_of(&self, volume: &PersistentVolume) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(&claim_key(volume)?)
    }

    /// All volumes.
    pub fn all_volumes(&self) -> Vec<Arc<PersistentVolume>> {
        self.volumes.all().into_iter().map(|(_, volume)| volume).collect()
    }

    /// The class that a claim names.
    pub fn class(&self, claim: &PersistentVolumeClaim) -> Option<Arc<StorageClass>> {
        self.classes.get(&ObjectKey::cluster(class_of_claim(claim)?))
    }

    /// The newest of the classes that are marked as the default; of those made at the same time the first by name.
    pub fn default_class(&self) -> Option<String> {
        let mut marked: Vec<_> =
            self.classes.all().into_iter().filter(|(_, class)| is_default(class)).collect();
        marked.sort_by(|(a, first), (b, second)| {
            let made = |class: &StorageClass| class.metadata.creation_timestamp.clone().map(|time| time.0);
            made(second).cmp(&made(first)).then_with(|| a.cmp(b))
        });
        marked.first().map(|(key, _)| key.name().to_owned())
    }

    /// Names of pods that use a claim and have no node.
    pub fn waiting_pods(&self, claim: &ObjectKey) -> Vec<String> {
        let pods = self.pods.in_namespace(claim.namespace());
        let uses = |claims: &[String]| claims.iter().any(|name| name == claim.name());
        pods.iter().filter(|(_, claims)| uses(claims)).map(|(key, _)| key.name().to_owned()).collect()
    }

    /// Takes a claim as it was written.
    pub fn remember_claim(&self, mut claim: PersistentVolumeClaim) -> PersistentVolumeClaim {
        claim.metadata.managed_fields = None;
        if let Some(key) = ObjectKey::of(&claim) {
            self.claims.put(&key, Some(Arc::new(claim.clone())));
        }
        claim
    }

    /// Takes a volume as it was written.
    pub fn remember_volume(&self, mut volume: PersistentVolume) -> PersistentVolume {
        volume.metadata.managed_fields = None;
        if let Some(key) = ObjectKey::of(&volume) {
            self.volumes.put(&key, Some(Arc::new(volume.clone())));
        }
        volume
    }
}
