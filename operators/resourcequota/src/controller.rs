//! The driver.

use std::sync::Arc;
use std::time::Duration;

use keelson_api::quota;
use keelson_operator_kit::controller::Next;
use keelson_operator_kit::{Context, Error as KitError, Fault, ObjectKey, world};

use crate::observe::{Known, World};
use crate::{act, decide, observe};

/// How many quotas are looked at at once.
const AT_ONCE: usize = 4;
/// A quota is counted anew now and then, whatever happens.
const RESYNC: Duration = Duration::from_secs(300);
/// How long a write that admission has counted may take to be stored.
const UNDER_WAY: Duration = Duration::from_millis(200);

/// Why the status of a quota is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be counted.
    #[error("count what is used")]
    Observe(#[from] observe::Error),
    /// It cannot be written.
    #[error("act")]
    Act(#[from] act::Error),
}

impl Fault for Error {}

/// Works until the operator has to end.
pub async fn run(context: Context) -> Result<(), KitError> {
    world::run(context, Known::default(), AT_ONCE, reconcile).await
}

async fn reconcile(world: Arc<World>, key: ObjectKey) -> Result<Next, Error> {
    let Some(quota) = observe::quota(&world, &key).await? else {
        observe::rest(&world);
        return Ok(Next::OnChange);
    };
    let kinds = observe::served(&world, &quota::sources(&quota::hard(&quota, "spec"))).await?;
    for (kind, resource) in &kinds {
        observe::watch(&world, kind, resource);
    }
    let mut status = decide::status(&quota, &observe::objects(&world, key.namespace(), &kinds).await?);
    if decide::is_less(&quota, &status) {
        // What admission has counted may be on its way to the store: it is there by then, and whatever is counted
        // meanwhile changes the quota, which is then not written.
        tokio::time::sleep(UNDER_WAY).await;
        status = decide::status(&quota, &observe::objects(&world, key.namespace(), &kinds).await?);
    }
    if !decide::has(&quota, &status) {
        act::write(&world.client, &key, &quota, status).await?;
    }
    Ok(Next::After(RESYNC))
}
