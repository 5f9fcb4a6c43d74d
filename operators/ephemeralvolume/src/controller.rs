//! The driver.

use std::sync::Arc;

use keelson_operator_kit::controller::Next;
use keelson_operator_kit::{Context, Controller, Error as KitError, Fault, ObjectKey};

use crate::act;
use crate::decide::decide;
use crate::observe::World;

/// How many pods are looked at at once.
const AT_ONCE: usize = 4;

/// Why a pod lacks a claim.
#[derive(Debug, thiserror::Error)]
#[error("make the claims of a pod's ephemeral volumes")]
pub struct Error(#[source] kube::Error);

impl Fault for Error {}

/// Works until the operator has to end.
pub async fn run(context: Context) -> Result<(), KitError> {
    let mut controller = Controller::new(&context);
    let world = World::new(&context, &mut controller);
    let queue = world.queue.clone();
    controller.reconcile(&queue, AT_ONCE, move |key| reconcile(Arc::clone(&world), key));
    controller.run().await
}

async fn reconcile(world: Arc<World>, key: ObjectKey) -> Result<Next, Error> {
    let Some(pod) = world.pods.get(&key) else { return Ok(Next::OnChange) };
    let claims = world.claims.in_namespace(key.namespace());
    let find = |name: &str| claims.iter().find(|(key, _)| key.name() == name).map(|(_, claim)| &**claim);
    act::act(&world, &pod, decide(&pod, find)).await.map_err(Error)?;
    Ok(Next::OnChange)
}
