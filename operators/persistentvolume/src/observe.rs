//! What is known of claims, volumes and classes (client).

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use keelson_operator_kit::informer::Change;
use keelson_operator_kit::{Context, Controller, Informer, ObjectKey, Recorder, WorkQueue};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};

use crate::matching::class_of_claim;

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
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    /// The claims of pods that have no node yet.
    pods: Informer<Vec<String>>,
}

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
            pods: Informer::default(),
        });
        let config = watcher::Config::default;
        let known = Arc::clone(&world);
        let claims = Api::<PersistentVolumeClaim>::all(client.clone());
        controller.watch(claims, config(), &world.claims, Some, move |change| known.claim_changed(change));
        let known = Arc::clone(&world);
        let volumes = Api::<PersistentVolume>::all(client.clone());
        controller.watch(volumes, config(), &world.volumes, Some, move |change| known.volume_changed(change));
        let known = Arc::clone(&world);
        let classes = Api::<StorageClass>::all(client.clone());
        controller.watch(classes, config(), &world.classes, Some, move |_| known.look_at_pending());
        let pods = Api::<Pod>::all(client);
        let to = world.queue.clone();
        controller.watch(
            pods,
            config(),
            &world.pods,
            |pod| claims_of(&pod),
            move |change| {
                if change.old.is_some() && change.new.is_some() {
                    return;
                }
                for claim in change.new.iter().flat_map(|claims| claims.iter()) {
                    to.add(Subject::Claim(change.key.sibling(claim)));
                }
            },
        );
        world
    }

    fn claim_changed(&self, change: &Change<PersistentVolumeClaim>) {
        self.queue.add(Subject::Claim(change.key.clone()));
        let volume =
            |claim: &Option<Arc<PersistentVolumeClaim>>| claim.as_ref()?.spec.as_ref()?.volume_name.clone();
        let named = volume(&change.old).into_iter().chain(volume(&change.new));
        named.filter(|name| !name.is_empty()).for_each(|name| self.queue.add(Subject::Volume(name)));
        // One that is gone frees what was reserved for it as well, and a new one takes it.
        if change.old.is_none() || change.new.is_none() {
            for (key, volume) in self.volumes.all() {
                if claim_key(&volume).as_ref() == Some(&change.key) {
                    self.queue.add(Subject::Volume(key.name().to_owned()));
                }
            }
        }
    }

    fn volume_changed(&self, change: &Change<PersistentVolume>) {
        self.queue.add(Subject::Volume(change.key.name().to_owned()));
        let keys = [&change.old, &change.new].into_iter().flatten().filter_map(|volume| claim_key(volume));
        keys.for_each(|key| self.queue.add(Subject::Claim(key)));
        let phase = |volume: &PersistentVolume| volume.status.as_ref().and_then(|it| it.phase.clone());
        let is_free = |volume: &Option<Arc<PersistentVolume>>| {
            volume.as_ref().is_some_and(|it| phase(it).as_deref() == Some("Available"))
        };
        if change.old.is_none() || change.new.is_none() || is_free(&change.new) {
            self.look_at_pending();
        }
    }

    /// What was found for no claim may now be there.
    fn look_at_pending(&self) {
        for (key, claim) in self.claims.all() {
            let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
            if phase != Some("Bound") {
                self.queue.add(Subject::Claim(key));
            }
        }
    }

    /// A claim.
    pub fn claim(&self, key: &ObjectKey) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(key)
    }

    /// A volume.
    pub fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get(&ObjectKey::cluster(name))
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
