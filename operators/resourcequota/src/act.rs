//! Writes the status of a quota (client).

use keelson_api::Object;
use keelson_operator_kit::ObjectKey;
use keelson_operator_kit::controller::is_not_found;
use kube::api::{DynamicObject, PostParams};
use kube::{Api, Client};
use serde_json::Value;

use crate::observe::quotas;

/// Why a status could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The document is no object.
    #[error("encode the quota")]
    Encode(#[source] serde_json::Error),
    /// The API refused it; somebody may have counted meanwhile.
    #[error("write the status")]
    Write(#[source] kube::Error),
}

/// Writes a status, unless the quota has changed since it was read.
pub async fn write(client: &Client, key: &ObjectKey, quota: &Object, status: Value) -> Result<(), Error> {
    let mut quota = quota.clone();
    quota.set(&["status"], status);
    quota.set_managed_fields(Vec::new());
    let quota: DynamicObject = serde_json::from_value(quota.into_value()).map_err(Error::Encode)?;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), key.namespace(), &quotas());
    match api.replace_status(key.name(), &PostParams::default(), &quota).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::Write(error)),
    }
}
