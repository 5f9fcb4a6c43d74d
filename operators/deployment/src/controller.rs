//! The driver.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::controller::Next;
use keelson_operator_kit::recorder::reference;
use keelson_operator_kit::selection::InvalidSelector;
use keelson_operator_kit::{Context, Error as KitError, Fault, ObjectKey, Policy, world};

use crate::act::{self, Outcome};
use crate::observe::{Known, World};
use crate::validate::{self, Invalid};
use crate::{decide, status};

/// How many Deployments are looked at at once.
const AT_ONCE: usize = 8;

/// Why a Deployment is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It makes no sense.
    #[error("validate")]
    Validate(#[from] Invalid),
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
    let object = Arc::clone(&observed.object);
    let valid = match validate::validate(observed) {
        Ok(valid) => valid,
        Err(invalid) => {
            if let Invalid::Selector(InvalidSelector::Empty) = invalid {
                let message = "This deployment is selecting all pods. A non-empty selector is required.";
                world.recorder.warning(&reference(&*object), "SelectingAll", message);
            }
            return Err(invalid.into());
        }
    };
    let now = Timestamp::now();
    let mut plan = decide::decide(&valid, now);
    let done = act::act(&world, &valid, &plan).await?;
    let failure = match done.outcome {
        Outcome::Done => None,
        Outcome::NameTaken => {
            plan.report.status = status::after_collision(&valid);
            None
        }
        Outcome::NotCreated(error) => {
            plan.report.status = status::after_failure(&valid, &plan, &error.to_string(), now);
            Some(error)
        }
    };
    if !status::is_same(&status::old_status(&valid), &plan.report.status) {
        act::write_status(&world, &valid, &done.resource_version, &plan.report.status).await?;
    }
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(plan.report.deadline_in.map_or(Next::OnChange, Next::After)),
    }
}
