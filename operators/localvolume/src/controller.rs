//! The driver.

use std::sync::Arc;

use keelson_operator_kit::controller::{Next, unless_gone};
use keelson_operator_kit::{Context, Error as KitError, Fault, ObjectKey, Subject, world};
use kube::ResourceExt;

use crate::act;
use crate::decide::{SELECTED_NODE, for_claim, for_volume, node_of};
use crate::observe::{Kind, Known, World};

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
    world::run(context, Known::default(), AT_ONCE, reconcile).await
}

async fn reconcile(world: Arc<World>, subject: Subject<Kind>) -> Result<Next, Error> {
    let Subject { kind, key } = subject;
    unless_gone(match kind {
        Kind::Claim => look_at_claim(&world, &key).await.map_err(Error::Make),
        Kind::Volume => look_at_volume(&world, &key).await.map_err(Error::Delete),
    })?;
    Ok(Next::OnChange)
}

async fn look_at_claim(world: &World, key: &ObjectKey) -> Result<(), kube::Error> {
    let Some(claim) = world.known.claims.get(key) else { return Ok(()) };
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    let class = class.and_then(|name| world.known.classes.get(&ObjectKey::cluster(name)));
    let node = claim.annotations().get(SELECTED_NODE);
    let node = node.and_then(|name| world.known.nodes.get(&ObjectKey::cluster(name)));
    act::claim(world, &claim, for_claim(&claim, class.as_deref(), node.as_deref())).await
}

async fn look_at_volume(world: &World, key: &ObjectKey) -> Result<(), kube::Error> {
    let Some(volume) = world.known.volumes.get(key) else { return Ok(()) };
    let exists =
        node_of(&volume).is_some_and(|node| world.known.nodes.get(&ObjectKey::cluster(node)).is_some());
    act::volume(world, &volume, for_volume(&volume, exists)).await
}
