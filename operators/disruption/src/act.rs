//! Writes what was decided (client).

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use keelson_operator_kit::controller::is_not_found;
use keelson_operator_kit::{Fault, ObjectKey};
use kube::Api;
use kube::api::PostParams;

use crate::observe::World;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The status could not be written.
    #[error("write the status")]
    Status(#[source] kube::Error),
}

impl Fault for Error {}

/// Writes the status, unless an eviction has changed it meanwhile.
pub async fn write_status(
    world: &World,
    key: &ObjectKey,
    object: &PodDisruptionBudget,
    status: PodDisruptionBudgetStatus,
) -> Result<(), Error> {
    let api: Api<PodDisruptionBudget> = Api::namespaced(world.client.clone(), key.namespace());
    let budget = PodDisruptionBudget { status: Some(status), ..object.clone() };
    match api.replace_status(key.name(), &PostParams::default(), &budget).await {
        Ok(_) => Ok(()),
        // It was deleted meanwhile.
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::Status(error)),
    }
}
