//! The driver.

use std::sync::Arc;

use keelson_operator_kit::controller::{Next, is_not_found};
use keelson_operator_kit::{Context, Controller, Error as KitError, Fault, ObjectKey};

use crate::act;
use crate::decide::{Surroundings, for_claim, for_volume};
use crate::observe::{Subject, World};

/// One after the other, so that no volume is given to two claims.
const AT_ONCE: usize = 1;

/// Why a claim or a volume is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A claim, or the volume for it, could not be written.
    #[error("bind a claim")]
    Claim(#[source] kube::Error),
    /// A volume could not be written.
    #[error("write the phase of a volume")]
    Volume(#[source] kube::Error),
}

impl Fault for Error {}

/// Works until the operator has to end.
pub async fn run(context: Context) -> Result<(), KitError> {
    let mut controller = Controller::new(&context);
    let world = World::new(&context, &mut controller);
    let queue = world.queue.clone();
    controller.reconcile(&queue, AT_ONCE, move |subject| reconcile(Arc::clone(&world), subject));
    controller.run().await
}

async fn reconcile(world: Arc<World>, subject: Subject) -> Result<Next, Error> {
    let done = match subject {
        Subject::Claim(key) => look_at_claim(&world, &key).await.map_err(Error::Claim),
        Subject::Volume(name) => look_at_volume(&world, &name).await.map_err(Error::Volume),
    };
    match done {
        // It is gone: its watch is on the way.
        Err(error) if is_not_found(&error) => Ok(Next::OnChange),
        Err(error) => Err(error),
        Ok(()) => Ok(Next::OnChange),
    }
}

async fn look_at_claim(world: &World, key: &ObjectKey) -> Result<(), kube::Error> {
    let Some(claim) = world.claim(key) else { return Ok(()) };
    let (volumes, class, default) = (world.all_volumes(), world.class(&claim), world.default_class());
    let waiting_pods = world.waiting_pods(key);
    let around = Surroundings {
        volumes: &volumes,
        class: class.as_deref(),
        default_class: default.as_deref(),
        waiting_pods: &waiting_pods,
    };
    act::claim(world, &claim, for_claim(&claim, &around)).await
}

async fn look_at_volume(world: &World, name: &str) -> Result<(), kube::Error> {
    let Some(volume) = world.volume(name) else { return Ok(()) };
    let claim = world.claim_of(&volume);
    act::volume(world, &volume, for_volume(&volume, claim.as_deref())).await
}
