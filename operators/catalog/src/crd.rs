//! Kinds that have to be served before something runs (client).

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::api::{Patch, PatchParams};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::{self, Condition, await_condition};
use kube::{Api, Client, CustomResourceExt, ResourceExt};

use crate::kind::Operator;

/// The field manager of what the host applies for an operator.
pub const MANAGER: &str = "keelson-operator-host";

/// How long a kind may take to be established.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a kind is not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its definition was refused.
    #[error("apply the definition {0}")]
    Apply(String, #[source] kube::Error),
    /// Its definition could not be watched.
    #[error("watch the definition {0}")]
    Watch(String, #[source] Box<wait::Error>),
    /// It takes too long.
    #[error("the definition {0} was not established within {seconds} s", seconds = PATIENCE.as_secs())]
    NotEstablished(String),
}

/// The definition of `kind: Operator`. An object without `spec` is one with an empty `spec`.
pub fn operator_kind() -> CustomResourceDefinition {
    let mut crd = Operator::crd();
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let Some(schema) = schema else { continue };
        if let Some(required) = &mut schema.required {
            required.retain(|field| field != "spec");
        }
        schema.required.take_if(|required| required.is_empty());
        if let Some(spec) = schema.properties.as_mut().and_then(|fields| fields.get_mut("spec")) {
            spec.default = Some(JSON(serde_json::json!({})));
        }
    }
    crd
}

/// Applies a definition and waits until its kind is served.
pub async fn establish(client: &Client, crd: &CustomResourceDefinition) -> Result<(), Error> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = crd.name_any();
    let params = PatchParams::apply(MANAGER).force();
    let applied = api.patch(&name, &params, &Patch::Apply(crd)).await;
    let applied = applied.map_err(|error| Error::Apply(name.clone(), error))?;
    if is_crd_established().matches_object(Some(&applied)) {
        return Ok(());
    }
    let established = await_condition(api, &name, is_crd_established());
    match tokio::time::timeout(PATIENCE, established).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Error::Watch(name, Box::new(error))),
        Err(_) => Err(Error::NotEstablished(name)),
    }
}
