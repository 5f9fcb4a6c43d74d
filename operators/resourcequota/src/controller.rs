//! The driver.

use std::sync::Arc;
use std::time::Duration;

use keelson_api::quota;
use keelson_operator_kit::controller::Next;
use keelson_operator_kit::{Context, Controller, Error as KitError, Fault, ObjectKey};

use crate::observe::World;
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
    let mut controller = Controller::new(&context);
    let world = World::new(&context, &mut controller);
    let queue = world.queue.clone();
    controller.reconcile(&queue, AT_ONCE, move |key| reconcile(Arc::clone(&world), key));
    controller.run().await
}

async fn reconcile(world: Arc<World>, key: ObjectKey) -> Result<Next, Error> {
    let Some(quota) = world.quota(&key).await? else {
        world.rest();
        return Ok(Next::OnChange);
    };
    let kinds = world.served(&quota::sources(&quota::hard(&quota, "spec"))).await?;
    for (kind, resource) in &kinds {
        world.watch(kind, resource);
    }
    let mut status = decide::status(&quota, &world.objects(key.namespace(), &kinds).await?);
    if decide::is_less(&quota, &status) {
        // What admission has counted may be on its way to the store: it is there by then, and whatever is counted
        // meanwhile changes the quota, which is then not written.
        tokio::time::sleep(UNDER_WAY).await;
        status = decide::status(&quota, &world.objects(key.namespace(), &kinds).await?);
    }
    if !decide::has(&quota, &status) {
        act::write(&world.client, &key, &quota, status).await?;
    }
    Ok(Next::After(RESYNC))
}
