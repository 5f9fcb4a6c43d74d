//! The driver.

use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use keelson_operator_kit::controller::{is_conflict, is_not_found};
use keelson_operator_kit::{
    Context, Controller, Error as KitError, Fault, Next, ObjectKey, recorder::Recorder,
};

use crate::act;
use crate::observe::{World, reference};
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
    let mut controller = Controller::new(&context);
    let world = World::new(&context, &mut controller, ranges);
    let (queue, recorder) = (world.queue.clone(), context.recorder.clone());
    controller.reconcile(&queue, AT_ONCE, move |key| reconcile(Arc::clone(&world), recorder.clone(), key));
    controller.run().await
}

async fn reconcile(world: Arc<World>, recorder: Recorder, key: ObjectKey) -> Result<Next, Error> {
    let Some(node) = world.node(&key) else {
        world.forget(&key);
        return Ok(Next::OnChange);
    };
    if node.has_range {
        if world.seen(&key) {
            tell_faults(&world, &key, &node.ranges);
        }
        return Ok(Next::OnChange);
    }
    let told = |reason| {
        let message = format!("Node {} status is now: {reason}", key.name());
        recorder.normal(&reference(&key), reason, message);
    };
    let Some(range) = world.reserve(&key) else {
        told("CIDRNotAvailable");
        return Err(Error::None(key));
    };
    match act::give(&world.client, &key, &node, range).await {
        Ok(()) => {
            tracing::info!(node = key.name(), %range, "a node was given a range of pod addresses");
            Ok(Next::OnChange)
        }
        // It has changed, or gone: that is on the way.
        Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(Next::OnChange),
        Err(error) => {
            told("CIDRAssignmentFailed");
            Err(Error::Give(key, error))
        }
    }
}

/// Says of a node that came with a range what is wrong with it. It keeps it: pods have its addresses.
fn tell_faults(world: &World, key: &ObjectKey, ranges: &[Ipv4Net]) {
    if let Some(range) = ranges.iter().find(|range| !world.contains(range)) {
        tracing::warn!(node = key.name(), %range, "a node's range of pod addresses is not in the cluster's");
    }
    if let Some(rival) = world.rival(key, ranges) {
        tracing::error!(node = key.name(), other = rival.name(), "two nodes have the same pod addresses");
    }
}
