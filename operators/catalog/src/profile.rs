//! Which operators a new cluster has.

use std::fmt;
use std::str::FromStr;

use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::kind::{Operator, OperatorSpec};

/// A choice of operators for a new cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// The core alone.
    Minimal,
    /// What a user of Kubernetes expects: all of the catalog.
    #[default]
    Default,
}

/// There is no profile of this name.
#[derive(Debug, thiserror::Error)]
#[error("there is no profile {0:?}: choose minimal or default")]
pub struct UnknownProfile(String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, UnknownProfile> {
        match text {
            "minimal" => Ok(Profile::Minimal),
            "default" => Ok(Profile::Default),
            other => Err(UnknownProfile(other.to_owned())),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Profile::Minimal => "minimal",
            Profile::Default => "default",
        })
    }
}

/// Why a profile could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There is no such profile.
    #[error("choose a profile")]
    Profile(#[from] UnknownProfile),
    /// The kind of Operator objects is not served.
    #[error("make the kind of Operator objects")]
    Kind(#[from] crate::crd::Error),
    /// An Operator object was refused.
    #[error("install the operator {0}")]
    Operator(String, #[source] kube::Error),
}

/// The object that installs an operator of the catalog as it is.
pub fn manifest(name: &str) -> Operator {
    let mut operator = Operator::new(name, OperatorSpec::default());
    operator.labels_mut().insert("app.kubernetes.io/part-of".to_owned(), "keelson".to_owned());
    operator
}

/// The operators of a profile.
pub fn profile(profile: Profile) -> Vec<Operator> {
    match profile {
        Profile::Minimal => Vec::new(),
        Profile::Default => {
            crate::all().iter().map(|operator| manifest(operator.definition().name)).collect()
        }
    }
}

/// Makes the Operator objects of a profile that are not there yet, for a cluster that was just made; returns the names
/// of those that it made. The kind itself is applied first, so that this may come before the host has started.
pub async fn install(client: &Client, which: Profile) -> Result<Vec<String>, InstallError> {
    crate::crd::establish(client, &crate::crd::operator_kind()).await?;
    let mut installed = Vec::new();
    let api: Api<Operator> = Api::all(client.clone());
    for operator in profile(which) {
        let name = operator.name_any();
        match api.create(&PostParams::default(), &operator).await {
            Ok(_) => installed.push(name),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => return Err(InstallError::Operator(name, error)),
        }
    }
    Ok(installed)
}

/// The manifest that users apply, without what only the server writes.
pub fn document(operator: &Operator) -> serde_json::Value {
    json!({
        "apiVersion": "platform.keelson.io/v1alpha1",
        "kind": "Operator",
        "metadata": {"name": operator.name_any(), "labels": operator.labels()},
    })
}
