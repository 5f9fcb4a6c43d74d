//! The node's heartbeat: a Lease in `kube-node-lease`, renewed every ten seconds.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

const NAMESPACE: &str = "kube-node-lease";
/// After so long without renewal others take the node for lost.
const DURATION_SECONDS: i32 = 40;
const INTERVAL: Duration = Duration::from_secs(10);
/// Attempts of one renewal.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// (pure) The lease with its next heartbeat. What others wrote into it stays.
fn renewed(found: Option<Lease>, node: &str, uid: &str, now: Timestamp) -> Lease {
    let mut lease = found.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    };
    lease.metadata.owner_references = Some(vec![owner]);
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(node.to_owned());
    spec.lease_duration_seconds = Some(DURATION_SECONDS);
    spec.renew_time = Some(MicroTime(now));
    lease
}

/// Writes one heartbeat. The lease as the server has it now; `None` if it has to be read first.
async fn renew(api: &Api<Lease>, known: Option<Lease>, node: &str, uid: &str) -> Result<Lease, kube::Error> {
    let found = match known {
        Some(known) => Some(known),
        None => api.get_opt(node).await?,
    };
    let exists = found.is_some();
    let lease = renewed(found, node, uid, Timestamp::now());
    let params = PostParams::default();
    if exists { api.replace(node, &params, &lease).await } else { api.create(&params, &lease).await }
}

/// Renews for ever, as a lease of the Node that has the UID now.
pub(super) async fn keep(client: kube::Client, node: &str, mut uid: watch::Receiver<String>) {
    let api: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let mut known = None;
    let mut ticks = tokio::time::interval_at(Instant::now(), INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Ok(()) = uid.changed() => {}
        }
        let owner = uid.borrow_and_update().clone();
        for attempt in 1..=ATTEMPTS {
            match renew(&api, known.take(), node, &owner).await {
                Ok(lease) => {
                    known = Some(lease);
                    break;
                }
                // Somebody else wrote or deleted it: it is read again at the next attempt.
                Err(error) => tracing::warn!(node, attempt, %error, "the node's lease cannot be renewed"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_belongs_to_the_node_and_keeps_what_others_wrote() {
        let now = Timestamp::from_second(7).unwrap();
        let mut first = renewed(None, "node-1", "u", now);
        let owner = &first.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.uid.as_str(), owner.controller), ("Node", "u", None));
        first.spec.as_mut().unwrap().lease_transitions = Some(3);
        let second = renewed(Some(first), "node-1", "u", Timestamp::from_second(17).unwrap());
        let spec = second.spec.unwrap();
        assert_eq!((spec.lease_transitions, spec.lease_duration_seconds), (Some(3), Some(40)));
        assert_eq!(spec.renew_time.unwrap().0.as_second(), 17);
    }
}
