//! The driver.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::controller::Next;
use keelson_operator_kit::operator::chain;
use keelson_operator_kit::recorder::reference;
use keelson_operator_kit::{Context, Error as KitError, Fault, ObjectKey, Policy, world};

use crate::observe::{Known, World, observe};
use crate::validate::{self, Invalid};
use crate::{act, decide};

/// How many budgets are looked at at once.
const AT_ONCE: usize = 4;

/// Why the status of a budget is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be calculated.
    #[error("calculate the budget")]
    Validate(#[from] Invalid),
    /// It could not be written.
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
    let Some(observed) = observe(&world, &key).await else { return Ok(Next::OnChange) };
    let object = Arc::clone(&observed.object);
    let regarding = reference(&*object);
    let old = object.status.clone().unwrap_or_default();
    let now = Timestamp::now();
    let budget = match validate::validate(observed) {
        Ok(budget) => budget,
        Err(invalid) => {
            let why = chain(&invalid);
            let status = decide::failed(&old, object.metadata.generation.unwrap_or(0), why.clone(), now);
            if !decide::is_same(&old, &status) {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                world.recorder.warning(&regarding, "CalculateExpectedPodCountFailed", message);
                act::write_status(&world, &key, &object, status).await?;
            }
            return Err(invalid.into());
        }
    };
    let plan = decide::decide(&budget, now);
    for pod in &plan.not_deleted {
        let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
        world.recorder.warning(pod, "NotDeleted", message);
    }
    if !decide::is_same(&old, &plan.status) {
        if budget.pods.is_empty() {
            world.recorder.normal(&regarding, "NoPods", "No matching pods found");
        }
        if budget.has_unmanaged {
            let message = "some of the selected pods have no controller, so how many there should be is not \
                           known; an integer in spec.minAvailable avoids this";
            world.recorder.warning(&regarding, "UnmanagedPods", message);
        }
        act::write_status(&world, &key, &object, plan.status).await?;
    }
    Ok(plan.recheck_in.map_or(Next::OnChange, Next::After))
}
