//! The driver.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::controller::Next;
use keelson_operator_kit::{Context, Error as KitError, ObjectKey, world};
use tokio::time::Instant;

use crate::act::{Error, act};
use crate::decide::{Situation, decide};
use crate::observe::{Known, World};

/// One node at a time, so that two of them are never given a volume for one.
const AT_ONCE: usize = 1;

/// Works until the operator has to end.
pub async fn run(context: Context) -> Result<(), KitError> {
    world::run(context, Known::default(), AT_ONCE, reconcile).await
}

async fn reconcile(world: Arc<World>, key: ObjectKey) -> Result<Next, Error> {
    let known = &world.known;
    let node = known.nodes.get(&key);
    let wanted = known.wanted(key.name());
    let (found, handles) = known.found(key.name());
    let unwanted = known.unwanted_since(&found, &wanted, Instant::now());
    let plan = decide(&Situation {
        name: key.name(),
        node: node.as_deref(),
        wanted: &wanted,
        found: &found,
        handles: &handles,
        elsewhere: &|wanted| known.elsewhere(key.name(), wanted),
        unwanted_for: &|name| unwanted.get(name).copied().unwrap_or_default(),
        now: Timestamp::now(),
    });
    let next = act(&world, key.name(), node.as_deref(), plan).await?;
    Ok(next.map_or(Next::OnChange, Next::After))
}
