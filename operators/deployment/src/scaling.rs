//! Another number of pods, shared among the ReplicaSets of a Deployment (pure).

use std::cmp::Reverse;

use crate::decide::{Sets, Working};
use crate::revision::{DESIRED_REPLICAS, MAX_REPLICAS, number};
use crate::validate::{Strategy, ValidatedDeployment};

/// Gives the ReplicaSets the sizes that they have to have for what the Deployment asks for. In the middle of a rolling
/// update each gets its share.
pub fn scale(deployment: &ValidatedDeployment, sets: &mut Sets) {
    let active = sets.all().filter(|set| set.replicas > 0).count();
    if active <= 1 {
        if let Some(only) = active_or_latest(sets, active) {
            only.scale(deployment, deployment.replicas);
            only.note_sizes(deployment);
        }
        return;
    }
    if sets.new.as_ref().is_some_and(|new| is_saturated(deployment, new)) {
        for set in &mut sets.old {
            set.scale(deployment, 0);
        }
        return;
    }
    match deployment.strategy {
        Strategy::Recreate => sets.all_mut().for_each(|set| set.note_sizes(deployment)),
        Strategy::RollingUpdate { max_surge, .. } => share(deployment, sets, max_surge),
    }
}

/// The one that has pods, or else the one of the template, or else the youngest.
fn active_or_latest(sets: &mut Sets, active: usize) -> Option<&mut Working> {
    if active == 1 {
        return sets.all_mut().find(|set| set.replicas > 0);
    }
    match &mut sets.new {
        Some(new) => Some(new),
        None => sets.old.last_mut(),
    }
}

fn is_saturated(deployment: &ValidatedDeployment, new: &Working) -> bool {
    let wanted = deployment.replicas;
    new.replicas == wanted
        && number(&new.annotations, DESIRED_REPLICAS) == i64::from(wanted)
        && new.view().available() == wanted
}

/// Each ReplicaSet that has pods gets its share; what is left of rounding goes to the largest.
fn share(deployment: &ValidatedDeployment, sets: &mut Sets, max_surge: i32) {
    let allowed = if deployment.replicas > 0 { deployment.replicas.saturating_add(max_surge) } else { 0 };
    let to_add = allowed - sets.total();
    let mut active: Vec<&mut Working> = sets.all_mut().filter(|set| set.replicas > 0).collect();
    // Among those of the same size the younger grow first, and the older shrink first.
    if to_add > 0 {
        active.sort_by_key(|set| Reverse((set.replicas, set.view().created)));
    } else {
        active.sort_by_key(|set| (Reverse(set.replicas), set.view().created));
    }
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
    for set in &active {
        let fraction = fraction(deployment, set, max_surge);
        let left = to_add - added;
        let share = if to_add > 0 { fraction.clamp(0, left.max(0)) } else { fraction.clamp(left.min(0), 0) };
        added += share;
        sizes.push(set.replicas + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (set, size) in active.into_iter().zip(sizes) {
        set.scale(deployment, size);
        set.note_sizes(deployment);
    }
}

/// How many pods more a ReplicaSet would have if all grew alike.
fn fraction(deployment: &ValidatedDeployment, set: &Working, max_surge: i32) -> i32 {
    if deployment.replicas == 0 {
        return -set.replicas;
    }
    let status = deployment.object.status.as_ref();
    let before = match number(&set.annotations, MAX_REPLICAS) {
        // Nothing says so: then as many as there are.
        0 => i64::from(status.and_then(|status| status.replicas).unwrap_or(0)),
        noted => noted,
    };
    if before <= 0 {
        return 0;
    }
    let now = i64::from(deployment.replicas) + i64::from(max_surge);
    // Halves are rounded up; no number here is negative.
    let size = (2 * i64::from(set.replicas) * now + before) / (2 * before);
    i32::try_from(size).unwrap_or(i32::MAX).saturating_sub(set.replicas)
}
