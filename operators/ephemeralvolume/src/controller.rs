//! The driver.

use std::sync::Arc;

use keelson_operator_kit::controller::Next;
use keelson_operator_kit::{Context, Error as KitError, Fault, ObjectKey, world};

use crate::act;
use crate::decide::decide;
use crate::observe::{Known, World};

/// How many pods are looked at at once.
const AT_ONCE: usize = 4;

/// Why a pod lacks a claim.
#[derive(Debug, thiserror::Error)]
#[error("make the claims of a pod's ephemeral volumes")]
pub struct Error(#[source] kube::Error);

impl Fault for Error {}

/// Works until the operator has to end.
pub async fn run(context: Context) -> Result<(), KitError> {
    world::run(context, Known::default(), AT_ONCE, reconcile).await
}

async fn reconcile(world: Arc<World>, key: ObjectKey) -> Result<Next, Error> {
    let Some(pod) = world.known.pods.get(&key) else { return Ok(Next::OnChange) };
    let claims = world.known.claims.in_namespace(key.namespace());
    let find = |name: &str| claims.iter().find(|(key, _)| key.name() == name).map(|(_, claim)| &**claim);
    act::act(&world, &pod, decide(&pod, find)).await.map_err(Error)?;
    Ok(Next::OnChange)
}
