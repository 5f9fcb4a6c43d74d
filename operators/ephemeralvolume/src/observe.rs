//! What is known of pods with ephemeral volumes, and of claims (client).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use keelson_operator_kit::{Context, Controller, Informer, ObjectKey, Recorder, WorkQueue};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};

/// Everything that a reconcile reads.
pub struct World {
    /// The API.
    pub client: Client,
    /// Pods to look at.
    pub queue: WorkQueue<ObjectKey>,
    /// Where it is told.
    pub recorder: Recorder,
    /// Pods with ephemeral volumes.
    pub pods: Informer<Pod>,
    /// Claims, without their specifications.
    pub claims: Informer<PersistentVolumeClaim>,
}

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

impl World {
    /// Watches everything.
    pub fn new(context: &Context, controller: &mut Controller) -> Arc<Self> {
        let client = context.client.clone();
        let world = Arc::new(World {
            client: client.clone(),
            queue: WorkQueue::default(),
            recorder: context.recorder.clone(),
            pods: Informer::default(),
            claims: Informer::default(),
        });
        let config = watcher::Config::default;
        let to = world.queue.clone();
        controller.watch(Api::<Pod>::all(client.clone()), config(), &world.pods, wanted, move |change| {
            to.add(change.key.clone());
        });
        let to = world.queue.clone();
        let claims = Api::<PersistentVolumeClaim>::all(client);
        controller.watch(claims, config(), &world.claims, lean, move |change| {
            // One that is gone is made anew as long as its pod is there.
            let (None, Some(old)) = (&change.new, &change.old) else { return };
            let owners = old.owner_references().iter().filter(|owner| owner.kind == "Pod");
            owners.for_each(|owner| to.add(change.key.sibling(&owner.name)));
        });
        world
    }
}
