//! The catalog of operators, and the host that runs those that are installed.
//!
//! - [`all`]: the catalog.
//! - [`kind`]: `kind: Operator`, by which one of the catalog is installed.
//! - [`profile`]: which operators a new cluster has; [`settled`]: how far they are.
//! - [`crd`]: kinds that have to be served before something runs; [`rbac`]: who an operator is and what it may do.
//! - [`host`]: watches Operator objects and runs what they name, each under its own Lease, identity and rights.
//!
//! One bad operator stops no other: each runs in its own task, and what fails or panics is started again after a
//! growing pause while its object shows Degraded. Without Operator objects the host is one idle watch.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keelson_operator_kit as kit;
use kube::Client;
use tokio_util::sync::CancellationToken;

pub use profile::InstallError;
pub use settled::{SettleError, wait_until_settled};

pub mod crd;
pub mod host;
pub mod kind;
pub mod profile;
pub mod rbac;
pub mod settled;

/// The user that the host acts as.
pub const HOST_USER: &str = "system:keelson:operator-host";

/// The pause after the kind of Operator objects could not be made.
const RETRY: Duration = Duration::from_secs(2);

/// How the host runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where pods can reach this process. No two servers of a cluster have the same, so that it also tells the holders
    /// of Leases apart.
    pub address: IpAddr,
    /// What is true of the whole cluster.
    pub cluster: kit::ClusterFacts,
}

impl Config {
    /// Who this process is in Leases: the same after a restart, so that a server takes up its own Leases at once.
    pub fn identity(&self) -> String {
        format!("server-{}", self.address)
    }
}

/// Makes the client of an operator, by its name: it acts as `system:serviceaccount:keelson-system:NAME`.
pub type Clients = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// Why the host ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of its own tasks failed.
    #[error("the operator host failed")]
    Host(#[source] kit::Error),
}

/// Runs the host until shutdown. `client` acts as [`HOST_USER`]. The API has to outlive it: operators give up their
/// Leases when they end.
pub async fn run(
    config: Config,
    client: Client,
    clients: Clients,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    run_catalog(all(), config, client, clients, shutdown).await
}

/// As [`run`], with other operators than those of this program.
pub async fn run_catalog(
    catalog: Vec<Arc<dyn kit::Operator>>,
    config: Config,
    client: Client,
    clients: Clients,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    while let Err(error) = crd::establish(&client, &crd::operator_kind()).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the kind of Operator objects could not be made"
        );
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    host::run(catalog, config, client, clients, shutdown).await.map_err(Error::Host)
}

/// Makes the kind of Operator objects, and those of the profile `minimal` or `default`; returns the names of the objects
/// that it made. For the very first start of a cluster only: later on it would bring back what was removed.
pub async fn install(client: Client, profile_name: &str) -> Result<Vec<String>, InstallError> {
    profile::install(&client, profile_name.parse()?).await
}

/// All operators that this program has, in the order of their names.
pub fn all() -> Vec<Arc<dyn kit::Operator>> {
    vec![
        keelson_operator_attachdetach::operator(),
        keelson_operator_bootstraptoken::operator(),
        keelson_operator_deployment::operator(),
        keelson_operator_disruption::operator(),
        keelson_operator_dns::operator(),
        keelson_operator_endpointslice::operator(),
        keelson_operator_ephemeralvolume::operator(),
        keelson_operator_garbagecollector::operator(),
        keelson_operator_localvolume::operator(),
        keelson_operator_metrics::operator(),
        keelson_operator_namespace::operator(),
        keelson_operator_nodeipam::operator(),
        keelson_operator_nodelifecycle::operator(),
        keelson_operator_persistentvolume::operator(),
        keelson_operator_replicaset::operator(),
        keelson_operator_resourceclaim::operator(),
        keelson_operator_resourcequota::operator(),
        keelson_operator_serviceaccount::operator(),
        keelson_operator_storageprotection::operator(),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_different_and_in_order() {
        let names: Vec<_> = super::all().iter().map(|operator| operator.definition().name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(names, sorted);
    }
}
