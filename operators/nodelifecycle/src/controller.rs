//! The driver.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::controller::Next;
use keelson_operator_kit::{Context, Controller, Error as KitError, ObjectKey};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::act;
use crate::decide::{GRACE, Plan, decide};
use crate::eviction::{Cause, Verdict, judge, surplus};
use crate::node::{NodeView, Readiness};
use crate::observe::World;
use crate::taints::{NO_EXECUTE, is_our_no_execute};
use crate::vigil::LOOK;
use crate::zones::Reach;

/// How many nodes are looked at at once.
const NODES_AT_ONCE: usize = 4;

/// How many pods are looked at at once.
const PODS_AT_ONCE: usize = 8;

/// How often pods that have ended are counted, in looks.
const COUNT_EVERY: u32 = 12;

/// Works until the operator has to end.
pub async fn run(context: Context) -> Result<(), KitError> {
    let mut controller = Controller::new(&context);
    let world = World::new(&context, &mut controller);
    controller.task("look", look(Arc::clone(&world), context.shutdown.clone()));
    let nodes = Arc::clone(&world);
    controller
        .reconcile(&world.node_queue, NODES_AT_ONCE, move |key| reconcile_node(Arc::clone(&nodes), key));
    let pods = Arc::clone(&world);
    controller.reconcile(&world.pod_queue, PODS_AT_ONCE, move |key| reconcile_pod(Arc::clone(&pods), key));
    controller.run().await
}

/// Notices that this process slept, and discards pods that ended long ago.
async fn look(world: Arc<World>, shutdown: CancellationToken) -> Result<(), KitError> {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = 0;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        wake(&world);
        looks = (looks + 1) % COUNT_EVERY;
        if looks != 0 {
            continue;
        }
        for (key, pod) in surplus(world.pods.all()) {
            if let Err(error) = act::discard(&world, &key, &pod).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(object = %key, error, "a pod that has ended could not be discarded");
            }
        }
    }
}

/// Has to come before anything that depends on how long something has lasted.
fn wake(world: &World) -> Instant {
    let now = Instant::now();
    if world.vigil.lock().look(now) {
        tracing::info!("this process slept: nodes and pods have their time again");
    }
    now
}

async fn reconcile_node(world: Arc<World>, key: ObjectKey) -> Result<Next, act::Error> {
    let now = wake(&world);
    let Some(node) = world.nodes.get(&key) else {
        world.fallen.lock().remove(&key);
        return Ok(Next::OnChange);
    };
    let silence = world.vigil.lock().silence(key.name(), now);
    let (plan, next) = decide(&node, silence, world.reach(&node), Timestamp::now());
    let mut next = next;
    match plan {
        Plan::Silent(conditions) => {
            let renewed = act::lease_renewed_at(&world, &key).await?;
            world.vigil.lock().renewed(key.name(), renewed, now);
            if world.vigil.lock().silence(key.name(), now).is_zero() {
                return Ok(Next::After(GRACE));
            }
            act::write_conditions(&world, &key, &node, &conditions).await?;
            if node.readiness() == Readiness::Ready {
                let message = format!("Node {key} status is now: NodeNotReady");
                world.recorder.normal(&node.reference, "NodeNotReady", message);
            }
        }
        Plan::Taints { taints, until_turn } => {
            let mut taints = taints;
            if let Some(without) = until_turn
                && let Some(wait) = world.vigil.lock().take_turn(&node.zone, now)
            {
                taints = without;
                next = Some(next.map_or(wait, |next| next.min(wait)));
            }
            if taints != node.taints {
                act::write_taints(&world, &key, &node, &taints).await?;
            }
        }
    }
    mark_pods(&world, &key, &node).await?;
    Ok(next.map_or(Next::OnChange, Next::After))
}

async fn mark_pods(world: &World, key: &ObjectKey, node: &NodeView) -> Result<(), act::Error> {
    if !world.fallen.lock().contains(key) {
        return Ok(());
    }
    if node.readiness() != Readiness::Ready {
        for (key, pod) in world.pods.indexed(key.name()) {
            if pod.ready {
                act::mark_not_ready(world, &key, &pod).await?;
            }
        }
    }
    world.fallen.lock().remove(key);
    Ok(())
}

async fn reconcile_pod(world: Arc<World>, key: ObjectKey) -> Result<Next, act::Error> {
    let now = wake(&world);
    let Some(pod) = world.pods.get(&key) else { return Ok(Next::OnChange) };
    let node = pod.node.as_ref().and_then(|node| world.nodes.get(&ObjectKey::cluster(node)));
    match judge(&pod, node.as_deref()) {
        Verdict::Stay => {
            let was_leaving = world.vigil.lock().stays(&pod.uid);
            if was_leaving && !pod.terminating {
                let message = format!("Cancelling deletion of Pod {key}");
                world.recorder.normal(&pod.reference, "TaintManagerEviction", message);
            }
            Ok(Next::OnChange)
        }
        Verdict::Leave(cause, after) => {
            let left = after.saturating_sub(world.vigil.lock().leaving_for(&pod.uid, now));
            if left > Duration::ZERO {
                return Ok(Next::After(left));
            }
            // The watch may be late: the node may be there again.
            if let (Cause::NodeGone, Some(node)) = (cause, &pod.node)
                && !act::is_gone(&world, node).await?
            {
                return Ok(Next::After(LOOK));
            }
            // Where no node works, the taints are about to be taken back.
            if let (Cause::Taint, Some(node)) = (cause, &node)
                && node.taints.iter().all(|taint| taint.effect != NO_EXECUTE || is_our_no_execute(taint))
                && world.reach(node) == Reach::Everything
            {
                return Ok(Next::After(LOOK));
            }
            act::evict(&world, &key, &pod, cause).await?;
            Ok(Next::OnChange)
        }
    }
}
