//! The driver.

use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use keelson_operator_kit::controller::unless_changed;
use keelson_operator_kit::{Context, Error as KitError, Fault, Next, ObjectKey, world};

use crate::act;
use crate::observe::{Known, World, reference};
use crate::ranges::Ranges;

/// One after the other: what one node gets the next one does not.
const AT_ONCE: usize = 1;

/// Why a node has no range.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none left.
    #[error("no range of pod addresses is left for node {0}")]
    None(ObjectKey),
    /// It could not be written.
    #[error("give node {0} its range of pod addresses")]
    Give(ObjectKey, #[source] kube::Error),
}

impl Fault for Error {}

/// The cluster's range, which has to be one of IPv4.
fn cluster_range(range: IpNet) -> Result<Ipv4Net, KitError> {
    match range {
        IpNet::V4(range) => Ok(range),
        IpNet::V6(_) => {
            Err(KitError::failed("divide the cluster's range of pod addresses", "it is not one of IPv4"))
        }
    }
}

/// Works until the operator has to end.
pub async fn run(context: Context) -> Result<(), KitError> {
    let ranges = Ranges::new(cluster_range(context.cluster.pod_cidr)?);
    let ranges =
        ranges.map_err(|error| KitError::failed("divide the cluster's range of pod addresses", error))?;
    world::run(context, Known::new(ranges), AT_ONCE, reconcile).await
}

async fn reconcile(world: Arc<World>, key: ObjectKey) -> Result<Next, Error> {
    let known = &world.known;
    let Some(node) = known.node(&key) else {
        known.forget(&key);
        return Ok(Next::OnChange);
    };
    if node.has_range {
        if known.seen(&key) {
            tell_faults(known, &key, &node.ranges);
        }
        return Ok(Next::OnChange);
    }
    let told = |reason| {
        let message = format!("Node {} status is now: {reason}", key.name());
        world.recorder.normal(&reference(&key), reason, message);
    };
    let Some(range) = known.reserve(&key) else {
        told("CIDRNotAvailable");
        return Err(Error::None(key));
    };
    match unless_changed(act::give(&world.client, &key, &node, range).await) {
        Ok(given) => {
            if given.is_some() {
                tracing::info!(node = key.name(), %range, "a node was given a range of pod addresses");
            }
            Ok(Next::OnChange)
        }
        Err(error) => {
            told("CIDRAssignmentFailed");
            Err(Error::Give(key, error))
        }
    }
}

/// Says of a node that came with a range what is wrong with it. It keeps it: pods have its addresses.
fn tell_faults(known: &Known, key: &ObjectKey, ranges: &[Ipv4Net]) {
    if let Some(range) = ranges.iter().find(|range| !known.contains(range)) {
        tracing::warn!(node = key.name(), %range, "a node's range of pod addresses is not in the cluster's");
    }
    if let Some(rival) = known.rival(key, ranges) {
        tracing::error!(node = key.name(), other = rival.name(), "two nodes have the same pod addresses");
    }
}
