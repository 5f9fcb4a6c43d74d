//! From one template to the next (pure).

use crate::decide::{Sets, begin};
use crate::validate::{Strategy, ValidatedDeployment};

/// Whether anything moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A ReplicaSet is made or gets another size.
    Moving,
    /// Old pods have to go first.
    Waiting,
    /// Nothing has to be done.
    Settled,
}

/// How many pods the ReplicaSet of the template may ask for now, if it asks for `has` and all together for `total`.
pub fn wanted_of_new(deployment: &ValidatedDeployment, total: i32, has: i32) -> i32 {
    match deployment.strategy {
        Strategy::Recreate => deployment.replicas,
        Strategy::RollingUpdate { max_surge, .. } => {
            let room = deployment.replicas.saturating_add(max_surge).saturating_sub(total);
            has + room.min(deployment.replicas - has).max(0)
        }
    }
}

/// New pods come while old ones go.
pub fn rolling(deployment: &ValidatedDeployment, sets: &mut Sets) -> Step {
    if sets.new.is_none() {
        begin(deployment, sets);
    }
    if grow(deployment, sets) {
        return Step::Moving;
    }
    if shrink(deployment, sets) || sets.is_created { Step::Moving } else { Step::Settled }
}

fn grow(deployment: &ValidatedDeployment, sets: &mut Sets) -> bool {
    let total = sets.total();
    let Some(new) = &mut sets.new else { return false };
    let wanted = if new.replicas > deployment.replicas {
        deployment.replicas
    } else {
        wanted_of_new(deployment, total, new.replicas)
    };
    new.scale(deployment, wanted)
}

/// Takes away old pods: first such as do not work, then as many as available new ones allow.
fn shrink(deployment: &ValidatedDeployment, sets: &mut Sets) -> bool {
    let old: i32 = sets.old.iter().map(|set| set.replicas).sum();
    if old == 0 {
        return false;
    }
    let min_available = deployment.replicas - deployment.max_unavailable();
    let new_unavailable = sets.new.as_ref().map_or(0, |new| new.replicas - new.view().available());
    let mut expendable = sets.total() - min_available - new_unavailable;
    if expendable <= 0 {
        return false;
    }
    let mut moved = false;
    for set in &mut sets.old {
        let broken = (set.replicas - set.view().available()).clamp(0, expendable);
        expendable -= broken;
        moved |= set.scale(deployment, set.replicas - broken);
    }
    let mut surplus = sets.available() - min_available;
    for set in &mut sets.old {
        let going = set.replicas.min(surplus).max(0);
        surplus -= going;
        moved |= set.scale(deployment, set.replicas - going);
    }
    moved
}

/// All old pods go before a new one comes.
pub fn recreate(deployment: &ValidatedDeployment, sets: &mut Sets) -> Step {
    let mut moved = false;
    for set in &mut sets.old {
        moved |= set.scale(deployment, 0);
    }
    if moved {
        return Step::Moving;
    }
    let new = sets.new.as_ref().map(|set| set.view().uid.as_str());
    let others_run = deployment.running.iter().any(|uid| Some(uid.as_str()) != new);
    if others_run || sets.old.iter().any(|set| set.view().status.replicas > 0) {
        return Step::Waiting;
    }
    if sets.new.is_none() {
        begin(deployment, sets);
        return Step::Moving;
    }
    let Some(new) = &mut sets.new else { return Step::Settled };
    if new.scale(deployment, deployment.replicas) { Step::Moving } else { Step::Settled }
}
