//! The driver.

use std::sync::Arc;

use keelson_operator_kit::controller::{Next, is_conflict};
use keelson_operator_kit::operator::chain;
use keelson_operator_kit::{Context, Error as KitError, ObjectKey, world};

use crate::observe::{Known, World};
use crate::{act, decide, validate};

/// How many Services are looked at at once.
const AT_ONCE: usize = 8;

/// Works until the operator has to end.
pub async fn run(context: Context) -> Result<(), KitError> {
    world::run(context, Known::default(), AT_ONCE, reconcile).await
}

async fn reconcile(world: Arc<World>, key: ObjectKey) -> Result<Next, act::Error> {
    let observed = world.known.observe(&key);
    let service = observed.service.clone();
    let plan = decide::decide(validate::validate(observed));
    if let Err(error) = act::act(&world, &key, plan).await {
        if let Some(service) = service.filter(|_| !is_conflict(&error)) {
            let why = chain(&error);
            let message = format!("Error updating Endpoint Slices for Service {key}: {why}");
            world.recorder.warning(&service.reference, "FailedToUpdateEndpointSlices", message);
        }
        return Err(error);
    }
    Ok(Next::OnChange)
}
