//! The driver.

use std::sync::Arc;

use keelson_operator_kit::controller::Next;
use keelson_operator_kit::{Context, Error as KitError, Fault, Subject, world};

use crate::act;
use crate::decide::{Plan, decide, finalizers};
use crate::observe::{Kind, Known, World, is_really_used};

/// How many objects are looked at at once.
const AT_ONCE: usize = 4;

/// Why a finalizer is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not known who uses the object.
    #[error("ask who uses the object")]
    Ask(#[source] kube::Error),
    /// It could not be written.
    #[error("write the finalizers")]
    Write(#[source] kube::Error),
}

impl Fault for Error {}

/// Works until the operator has to end.
pub async fn run(context: Context) -> Result<(), KitError> {
    world::run(context, Known::default(), AT_ONCE, reconcile).await
}

async fn reconcile(world: Arc<World>, subject: Subject<Kind>) -> Result<Next, Error> {
    let Some(view) = world.known.find(&subject) else { return Ok(Next::OnChange) };
    let plan = decide(subject.kind, &view, world.known.is_used(&subject, &view));
    if plan == Plan::Remove && is_really_used(&world, &subject).await.map_err(Error::Ask)? {
        // The pod's change is on the way.
        return Ok(Next::OnChange);
    }
    if plan != Plan::Leave {
        let wanted = finalizers(subject.kind, &view, plan);
        act::write(&world, &subject, &view, &wanted).await.map_err(Error::Write)?;
    }
    Ok(Next::OnChange)
}
