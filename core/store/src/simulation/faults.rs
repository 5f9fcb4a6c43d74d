//! What goes wrong.

use std::sync::Arc;
use std::time::Duration;

use super::network::Weather;
use super::world::{PLACES, World};
use crate::raft::runtime::random;

/// Between so many and twice as many things go wrong in a run.
const FAULTS: u64 = 8;
/// The members that are left when one is removed.
const LEAST: usize = 2;

/// Lets one thing after the other go wrong. What is violated ends it.
pub(super) async fn inject(world: &Arc<World>) -> Result<(), String> {
    for _ in 0..FAULTS + random() % FAULTS {
        tokio::time::sleep(Duration::from_millis(50 + random() % 1_500)).await;
        world.truth().check()?;
        fault(world).await;
    }
    world.truth().check()
}

fn any(of: usize) -> usize {
    random() as usize % of.max(1)
}

async fn fault(world: &Arc<World>) {
    let (one, other) = (any(PLACES), any(PLACES));
    match random() % 20 {
        // One is cut off.
        0 | 1 => (0..PLACES).for_each(|place| {
            world.network.cut(one, place);
            world.network.cut(place, one);
        }),
        // One can speak and not hear, or the other way round.
        2 => (0..PLACES).for_each(|place| world.network.cut(one, place)),
        3 => (0..PLACES).for_each(|place| world.network.cut(place, one)),
        // Two cannot reach each other, and others can reach both.
        4 => {
            world.network.cut(one, other);
            world.network.cut(other, one);
        }
        5 | 6 => world.network.set_weather(Weather {
            lost: random() % 300,
            doubled: random() % 200,
            slow: random() % 500,
        }),
        7 | 8 => world.network.heal(),
        // The process is gone, the machine is not.
        9 if world.store(one).is_some() => {
            world.kill(one);
            world.disk(one).end_process();
            come_back(world, one);
        }
        // The power fails: at once, or at a write.
        10 if world.store(one).is_some() => {
            world.kill(one);
            world.disk(one).lose_power();
            come_back(world, one);
        }
        11 if world.store(one).is_some() => world.disk(one).fail_after(1 + random() % 40),
        // The power of all fails.
        12 => {
            for place in world.running() {
                world.kill(place);
                world.disk(place).lose_power();
                come_back(world, place);
            }
        }
        13 => change_members(world).await,
        14 => hand_over(world).await,
        // The state is saved and the log is cut, now of all times.
        15 => {
            if let Some(store) = world.any_store() {
                tokio::spawn(async move {
                    // It may have no power for it.
                    let _ = tokio::time::timeout(Duration::from_secs(5), store.checkpoint()).await;
                });
            }
        }
        // The disk is full, or nearly so, and after a while it is not.
        16 | 17 if world.is_used(one) => {
            world.disk(one).limit(Some(random() % 6_000));
            let world = Arc::clone(world);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(random() % 6_000)).await;
                world.disk(one).limit(None);
            });
        }
        // A write or a flush fails.
        18 if world.store(one).is_some() => world.disk(one).flaw_after(1 + random() % 30),
        // Two states are saved at once.
        19 => {
            if let Some(store) = world.any_store() {
                let twice = [Arc::clone(&store), store];
                tokio::spawn(async move {
                    let saves = twice.iter().map(|store| store.checkpoint());
                    let all = futures::future::join_all(saves);
                    let _ = tokio::time::timeout(Duration::from_millis(random() % 3_000), all).await;
                });
            }
        }
        _ => {}
    }
}

/// Starts a member again after a while.
fn come_back(world: &Arc<World>, place: usize) {
    let world = Arc::clone(world);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(random() % 2_500)).await;
        if world.is_used(place) && world.store(place).is_none() {
            world.boot(place);
        }
    });
}

/// A member is added where none lives, or one is removed.
async fn change_members(world: &Arc<World>) {
    let free = (0..PLACES).find(|place| !world.is_used(*place));
    let running = world.running();
    if let Some(free) = free
        && random().is_multiple_of(2)
    {
        world.truth().count(|report| report.changes += 1);
        world.boot(free);
        return;
    }
    let Some(&gone) = running.get(any(running.len())) else { return };
    if running.len() <= LEAST {
        return;
    }
    let (Some(store), Some(asked)) = (world.store(gone), world.any_store()) else { return };
    let id = store.members().me();
    drop(store);
    if asked.members().remove(id).await.is_ok() {
        world.truth().count(|report| report.changes += 1);
        world.vacate(gone);
    }
}

async fn hand_over(world: &Arc<World>) {
    let (Some(asked), Some(to)) = (world.any_store(), world.any_store()) else { return };
    // It may fail for many reasons.
    let _ = asked.members().transfer_leadership(to.members().me()).await;
}
