//! The driver.

use std::sync::Arc;

use keelson_operator_kit::controller::{Next, is_not_found};
use keelson_operator_kit::{Context, Controller, Error as KitError, Fault, ObjectKey};
use kube::ResourceExt;

use crate::act;
use crate::decide::{SELECTED_NODE, for_claim, for_volume, node_of};
use crate::observe::{Subject, World};

/// How many objects are looked at at once.
const AT_ONCE: usize = 4;

/// Why a volume could not be made or deleted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not made.
    #[error("make a volume for a claim")]
    Make(#[source] kube::Error),
    /// Not deleted.
    #[error("delete a volume")]
    Delete(#[source] kube::Error),
}

impl Fault for Error {}

/// Works until the operator has to end.
pub async fn run(context: Context) -> Result<(), KitError> {
    act::class(&context.client).await.map_err(|error| KitError::failed("make the class", error))?;
    let mut controller = Controller::new(&context);
    let world = World::new(&context, &mut controller);
    let queue = world.queue.clone();
    controller.reconcile(&queue, AT_ONCE, move |subject| reconcile(Arc::clone(&world), subject));
    controller.run().await
}

async fn reconcile(world: Arc<World>, subject: Subject) -> Result<Next, Error> {
    let done = match subject {
        Subject::Claim(key) => look_at_claim(&world, &key).await.map_err(Error::Make),
        Subject::Volume(name) => look_at_volume(&world, &name).await.map_err(Error::Delete),
    };
    match done {
        // It is gone: its watch is on the way.
        Err(error) if is_not_found(&error) => Ok(Next::OnChange),
        Err(error) => Err(error),
        Ok(()) => Ok(Next::OnChange),
    }
}

async fn look_at_claim(world: &World, key: &ObjectKey) -> Result<(), kube::Error> {
    let Some(claim) = world.claims.get(key) else { return Ok(()) };
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    let class = class.and_then(|name| world.classes.get(&ObjectKey::cluster(name)));
    let node = claim.annotations().get(SELECTED_NODE);
    let node = node.and_then(|name| world.nodes.get(&ObjectKey::cluster(name)));
    act::claim(world, &claim, for_claim(&claim, class.as_deref(), node.as_deref())).await
}

async fn look_at_volume(world: &World, name: &str) -> Result<(), kube::Error> {
    let Some(volume) = world.volumes.get(&ObjectKey::cluster(name)) else { return Ok(()) };
    let exists = node_of(&volume).is_some_and(|node| world.nodes.get(&ObjectKey::cluster(node)).is_some());
    act::volume(world, &volume, for_volume(&volume, exists)).await
}
