//! What is known of pods with ephemeral volumes, and of claims (client).

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use keelson_operator_kit::{Informer, ObjectKey, Observe, Watches};
use kube::ResourceExt;

/// What is known of the cluster.
#[derive(Default)]
pub struct Known {
    /// Pods with ephemeral volumes.
    pub pods: Informer<Pod>,
    /// Claims, without their specifications.
    pub claims: Informer<PersistentVolumeClaim>,
}

/// Everything that a reconcile reads and writes.
pub type World = keelson_operator_kit::World<Known>;

fn wanted(mut pod: Pod) -> Option<Pod> {
    let volumes = pod.spec.as_mut()?.volumes.take()?;
    let volumes: Vec<_> = volumes.into_iter().filter(|volume| volume.ephemeral.is_some()).collect();
    if volumes.is_empty() {
        return None;
    }
    let spec = pod.spec.as_mut()?;
    spec.volumes = Some(volumes);
    spec.containers.clear();
    spec.init_containers = None;
    Some(pod)
}

fn lean(mut claim: PersistentVolumeClaim) -> Option<PersistentVolumeClaim> {
    (claim.spec, claim.status) = (None, None);
    Some(claim)
}

impl Observe for Known {
    type Subject = ObjectKey;

    fn watch(watches: &mut Watches<'_, Self>) {
        watches.all(|it| &it.pods, wanted, |world, change| world.queue.add(change.key.clone()));
        watches.all(
            |it| &it.claims,
            lean,
            |world, change| {
                // One that is gone is made anew as long as its pod is there.
                let (None, Some(old)) = (&change.new, &change.old) else { return };
                let owners = old.owner_references().iter().filter(|owner| owner.kind == "Pod");
                owners.for_each(|owner| world.queue.add(change.key.sibling(&owner.name)));
            },
        );
    }
}
