//! The driver.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::controller::Next;
use keelson_operator_kit::{Context, Error as KitError, Fault, ObjectKey, Policy, world};

use crate::observe::{Known, World};
use crate::{act, decide, status, validate};

/// How many ReplicaSets are looked at at once.
const AT_ONCE: usize = 8;

/// Why a ReplicaSet is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It makes no sense.
    #[error("validate")]
    Validate(#[from] validate::Invalid),
    /// Something could not be done.
    #[error("act")]
    Act(#[from] act::Error),
}

impl Fault for Error {
    fn policy(&self) -> Policy {
        match self {
            Error::Validate(invalid) => invalid.policy(),
            Error::Act(error) => error.policy(),
        }
    }
}

/// Works until the operator has to end.
pub async fn run(context: Context) -> Result<(), KitError> {
    world::run(context, Known::default(), AT_ONCE, reconcile).await
}

async fn reconcile(world: Arc<World>, key: ObjectKey) -> Result<Next, Error> {
    let Some(observed) = world.known.observe(&key) else { return Ok(Next::OnChange) };
    let valid = validate::validate(observed)?;
    let plan = decide::decide(&valid, Timestamp::now());
    let applied = act::act(&world, &valid, plan).await?;
    let report = status::status(&valid, &applied, Timestamp::now());
    if !status::is_same(&valid.set.status, &report.status) {
        act::write_status(&world, &valid, &report.status).await?;
    }
    match applied.failure {
        Some(failure) => Err(failure.error.into()),
        None => Ok(report.available_in.map_or(Next::OnChange, Next::After)),
    }
}
