//! What a control plane has beside its API server: the scheduler and the operators.

use std::net::IpAddr;
use std::sync::Arc;

use keelson_apiserver::ApiServer;
use keelson_apiserver::identity::Identity;
use keelson_operator_kit::leader_election::{self, Term, Timing};
use keelson_operator_kit::{ClusterFacts, SYSTEM_NAMESPACE};

use super::Components;

/// The Lease of the one scheduler that works, as elsewhere.
const SCHEDULER_LEASE: (&str, &str) = ("kube-system", "kube-scheduler");

/// What they are told.
pub(crate) struct ControlPlane<'a> {
    pub(crate) server: &'a ApiServer,
    /// Where pods and other servers reach this process.
    pub(crate) address: IpAddr,
    pub(crate) facts: ClusterFacts,
    /// Whether there may be other servers, of which one schedules at a time.
    pub(crate) has_others: bool,
}

impl Components {
    /// Starts them.
    pub(crate) fn start_control_plane(&self, control_plane: ControlPlane<'_>) {
        let ControlPlane { server, address, facts, has_others } = control_plane;
        let client = server.client(Identity::user("system:kube-scheduler", &[]));
        let components = server.components();
        let election = has_others.then(|| leader_election::Config {
            namespace: SCHEDULER_LEASE.0.to_owned(),
            name: SCHEDULER_LEASE.1.to_owned(),
            // The same after a restart, so that a server takes up its own Lease at once.
            identity: format!("server-{address}"),
            timing: Timing::default(),
        });
        self.start("scheduler", move |stop| {
            let running = components.begin("scheduler");
            let (client, election) = (client.clone(), election.clone());
            async move {
                let _running = running;
                let work =
                    |stop| keelson_scheduler::run(keelson_scheduler::Config::default(), client.clone(), stop);
                let Some(election) = election else { return work(stop).await };
                loop {
                    match leader_election::lead(client.clone(), &election, &stop, work).await {
                        Term::Ended(ended) => return ended,
                        Term::NeverBegan => return Ok(()),
                        Term::Lost => {}
                    }
                }
            }
        });

        let host = keelson_operator_catalog::Config { address, cluster: facts };
        let client = server.client(Identity::user("system:keelson:operator-host", &[]));
        let clients = server.clients();
        let of_operators: Arc<dyn Fn(&str) -> kube::Client + Send + Sync> =
            Arc::new(move |name| clients.client(Identity::service_account(SYSTEM_NAMESPACE, name)));
        let components = server.components();
        self.start("operator host", move |stop| {
            // It does what a controller manager does elsewhere.
            let running = components.begin("controller-manager");
            let host =
                keelson_operator_catalog::run(host.clone(), client.clone(), Arc::clone(&of_operators), stop);
            async move {
                let _running = running;
                host.await
            }
        });
    }
}
