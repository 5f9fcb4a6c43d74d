//! What is known of claims, volumes, classes, and the pods that use claims (client).

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use keelson_operator_kit::informer::Change;
use keelson_operator_kit::{Informer, ObjectKey, Observe, Subject, Watches};
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};

/// What is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A PersistentVolumeClaim, used by pods that are bound to a node.
    Claim,
    /// A PersistentVolume, used while it is bound.
    Volume,
    /// A VolumeAttributesClass, used by claims and volumes that name it.
    AttributesClass,
}

/// What is kept of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Whether it is to go.
    pub ending: bool,
    /// Its finalizers.
    pub finalizers: Vec<String>,
    /// At which revision they are these.
    pub resource_version: String,
    /// Of a volume: whether it is bound.
    pub bound: bool,
    /// The attribute classes that it names.
    pub classes: BTreeSet<String>,
}

/// What is known of the cluster.
#[derive(Default)]
pub struct Known {
    claims: Informer<View>,
    volumes: Informer<View>,
    classes: Informer<View>,
    /// The claims of each pod that has any and is bound to a node.
    pods: Informer<BTreeSet<String>>,
}

/// Everything that a reconcile reads and writes.
pub type World = keelson_operator_kit::World<Known>;

fn view<K: Resource>(object: &K) -> View {
    View {
        ending: object.meta().deletion_timestamp.is_some(),
        finalizers: object.meta().finalizers.clone().unwrap_or_default(),
        resource_version: object.resource_version().unwrap_or_default(),
        ..View::default()
    }
}

fn claim_view(claim: &PersistentVolumeClaim) -> View {
    let (spec, status) = (claim.spec.as_ref(), claim.status.as_ref());
    let asked = spec.and_then(|it| it.volume_attributes_class_name.clone());
    let current = status.and_then(|it| it.current_volume_attributes_class_name.clone());
    let target =
        status.and_then(|it| it.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone());
    View { classes: [asked, current, target].into_iter().flatten().collect(), ..view(claim) }
}

fn volume_view(volume: &PersistentVolume) -> View {
    let bound = volume.status.as_ref().and_then(|it| it.phase.as_deref()) == Some("Bound");
    let class = volume.spec.as_ref().and_then(|it| it.volume_attributes_class_name.clone());
    View { bound, classes: class.into_iter().collect(), ..view(volume) }
}

/// The claims of a pod that a kubelet may have taken up; none of one that has no node, as no kubelet starts a pod whose
/// claim is to go.
fn claims_of(pod: &Pod) -> BTreeSet<String> {
    let Some(spec) =
        pod.spec.as_ref().filter(|spec| spec.node_name.as_ref().is_some_and(|it| !it.is_empty()))
    else {
        return BTreeSet::new();
    };
    let volumes = spec.volumes.iter().flatten();
    volumes
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => Some(source.claim_name.clone()),
            (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), volume.name)),
            (None, None) => None,
        })
        .collect()
}

impl Observe for Known {
    type Subject = Subject<Kind>;

    fn watch(watches: &mut Watches<'_, Self>) {
        watches.all(
            |it| &it.claims,
            |it| Some(claim_view(&it)),
            |world, change| {
                world.queue.add(Subject::new(Kind::Claim, change.key.clone()));
                look_at_classes(world, change);
            },
        );
        watches.all(
            |it| &it.volumes,
            |it| Some(volume_view(&it)),
            |world, change| {
                world.queue.add(Subject::new(Kind::Volume, change.key.clone()));
                look_at_classes(world, change);
            },
        );
        watches.all(
            |it| &it.classes,
            |it: VolumeAttributesClass| Some(view(&it)),
            |world, change| world.queue.add(Subject::new(Kind::AttributesClass, change.key.clone())),
        );
        watches.all(
            |it| &it.pods,
            |pod| Some(claims_of(&pod)).filter(|claims| !claims.is_empty()),
            |world, change| {
                // Only that somebody uses a claim no longer changes anything.
                if change.new.is_none() {
                    for claim in change.old.iter().flat_map(|claims| claims.iter()) {
                        world.queue.add(Subject::new(Kind::Claim, change.key.sibling(claim)));
                    }
                }
            },
        );
    }
}

fn look_at_classes(world: &World, change: &Change<View>) {
    let classes = |view: &Option<Arc<View>>| view.as_ref().map(|it| it.classes.clone()).unwrap_or_default();
    for class in classes(&change.old).difference(&classes(&change.new)) {
        world.queue.add(Subject::new(Kind::AttributesClass, ObjectKey::cluster(class)));
    }
}

impl Known {
    /// What is known of an object.
    pub fn find(&self, subject: &Subject<Kind>) -> Option<Arc<View>> {
        match subject.kind {
            Kind::Claim => self.claims.get(&subject.key),
            Kind::Volume => self.volumes.get(&subject.key),
            Kind::AttributesClass => self.classes.get(&subject.key),
        }
    }

    /// Whether somebody is known to use an object.
    pub fn is_used(&self, subject: &Subject<Kind>, view: &View) -> bool {
        let key = &subject.key;
        match subject.kind {
            Kind::Claim => {
                let pods = self.pods.in_namespace(key.namespace());
                pods.iter().any(|(_, claims)| claims.contains(key.name()))
            }
            Kind::Volume => view.bound,
            Kind::AttributesClass => {
                let all = self.claims.all().into_iter().chain(self.volumes.all());
                all.into_iter().any(|(_, view)| view.classes.contains(key.name()))
            }
        }
    }
}

/// Asks the API whether somebody uses an object of which nobody is known to: a watch may be behind.
pub async fn is_really_used(world: &World, subject: &Subject<Kind>) -> Result<bool, kube::Error> {
    let key = &subject.key;
    let everything = ListParams::default();
    match subject.kind {
        Kind::Claim => {
            let pods: Api<Pod> = Api::namespaced(world.client.clone(), key.namespace());
            let pods = pods.list(&everything).await?;
            Ok(pods.items.iter().any(|pod| claims_of(pod).contains(key.name())))
        }
        // A volume says it itself, at the revision that is written.
        Kind::Volume => Ok(false),
        Kind::AttributesClass => {
            let claims: Api<PersistentVolumeClaim> = Api::all(world.client.clone());
            let volumes: Api<PersistentVolume> = Api::all(world.client.clone());
            let claims = claims.list(&everything).await?.items;
            let volumes = volumes.list(&everything).await?.items;
            let mut views = claims.iter().map(claim_view).chain(volumes.iter().map(volume_view));
            Ok(views.any(|view| view.classes.contains(key.name())))
        }
    }
}
