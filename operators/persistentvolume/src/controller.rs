//! The driver.

use std::sync::Arc;

use keelson_operator_kit::controller::{Next, unless_gone};
use keelson_operator_kit::{Context, Error as KitError, Fault, ObjectKey, Subject, world};

use crate::act;
use crate::decide::{Surroundings, for_claim, for_volume};
use crate::observe::{Kind, Known, World};

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
    world::run(context, Known::default(), AT_ONCE, reconcile).await
}

async fn reconcile(world: Arc<World>, subject: Subject<Kind>) -> Result<Next, Error> {
    let Subject { kind, key } = subject;
    unless_gone(match kind {
        Kind::Claim => look_at_claim(&world, &key).await.map_err(Error::Claim),
        Kind::Volume => look_at_volume(&world, &key).await.map_err(Error::Volume),
    })?;
    Ok(Next::OnChange)
}

async fn look_at_claim(world: &World, key: &ObjectKey) -> Result<(), kube::Error> {
    let Some(claim) = world.known.claim(key) else { return Ok(()) };
    let known = &world.known;
    let (volumes, class, default) = (known.all_volumes(), known.class(&claim), known.default_class());
    let waiting_pods = known.waiting_pods(key);
    let around = Surroundings {
        volumes: &volumes,
        class: class.as_deref(),
        default_class: default.as_deref(),
        waiting_pods: &waiting_pods,
    };
    act::claim(world, &claim, for_claim(&claim, &around)).await
}

async fn look_at_volume(world: &World, key: &ObjectKey) -> Result<(), kube::Error> {
    let Some(volume) = world.known.volume(key) else { return Ok(()) };
    let claim = world.known.claim_of(&volume);
    act::volume(world, &volume, for_volume(&volume, claim.as_deref())).await
}
