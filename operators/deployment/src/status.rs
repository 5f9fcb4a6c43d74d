//! What a Deployment says of itself (pure).

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSetCondition};
use k8s_openapi::jiff::Timestamp;

use crate::decide::{Plan, Sets, Working};
use crate::progress;
use crate::validate::ValidatedDeployment;

/// The condition that says whether enough pods are available.
pub const AVAILABLE: &str = "Available";
/// The condition that says that pods cannot be created or deleted.
pub const REPLICA_FAILURE: &str = "ReplicaFailure";

/// The new status, and when it may change of itself.
#[derive(Clone, Debug)]
pub struct Report {
    /// The status.
    pub status: DeploymentStatus,
    /// How long until the limit for progress is reached.
    pub deadline_in: Option<Duration>,
}

/// What is done with the ReplicaSets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing, or their sizes change, or the Deployment is paused or goes.
    Resting,
    /// They are brought from one template to the next, or that has been done.
    Rollout,
}

/// Counts, and judges.
pub fn report(deployment: &ValidatedDeployment, sets: &Sets, stage: Stage, now: Timestamp) -> Report {
    let old = old_status(deployment);
    let mut conditions = old.conditions.clone().unwrap_or_default();
    if !deployment.terminating {
        progress::pause(deployment, &mut conditions, now);
        progress::note_new(deployment, sets, &mut conditions, now);
    }
    let mut status = counts(deployment, sets);
    progress::set(&mut conditions, availability(deployment, sets, now));
    if stage == Stage::Rollout {
        progress::judge(deployment, sets, &status, &mut conditions, now);
        conditions.retain(|condition| condition.type_ != REPLICA_FAILURE);
        conditions.extend(failure(sets));
    }
    let deadline_in = match stage {
        Stage::Resting => None,
        Stage::Rollout => progress::deadline_in(deployment, &status, &conditions, now),
    };
    status.conditions = Some(conditions).filter(|conditions| !conditions.is_empty());
    Report { status, deadline_in }
}

/// What the Deployment said before.
pub fn old_status(deployment: &ValidatedDeployment) -> DeploymentStatus {
    deployment.object.status.clone().unwrap_or_default()
}

/// Whether, by what the Deployment said before, all its pods are of its template and available.
pub fn is_complete_before(deployment: &ValidatedDeployment) -> bool {
    is_complete(deployment, &old_status(deployment))
}

/// Whether all pods are of the template and available.
pub fn is_complete(deployment: &ValidatedDeployment, status: &DeploymentStatus) -> bool {
    let wanted = |count: Option<i32>| count.unwrap_or(0) == deployment.replicas;
    wanted(status.updated_replicas)
        && wanted(status.replicas)
        && wanted(status.available_replicas)
        && status.observed_generation.unwrap_or(0) >= deployment.generation
}

fn counts(deployment: &ValidatedDeployment, sets: &Sets) -> DeploymentStatus {
    let sum = |count: fn(&Working) -> i32| sets.all().map(count).sum::<i32>();
    let counted = |count: i32| Some(count).filter(|count| *count != 0);
    let available = sets.available();
    let old = old_status(deployment);
    let terminating: Vec<i32> = sets.all().filter_map(|set| set.view().status.terminating_replicas).collect();
    DeploymentStatus {
        observed_generation: Some(deployment.generation),
        replicas: counted(sum(|set| set.view().status.replicas)),
        updated_replicas: counted(sets.new.as_ref().map_or(0, |new| new.view().status.replicas)),
        ready_replicas: counted(sum(|set| set.view().status.ready_replicas.unwrap_or(0))),
        available_replicas: counted(available),
        unavailable_replicas: counted((sets.total() - available).max(0)),
        terminating_replicas: Some(terminating.iter().sum()).filter(|_| !terminating.is_empty()),
        collision_count: old.collision_count,
        conditions: None,
    }
}

fn availability(deployment: &ValidatedDeployment, sets: &Sets, now: Timestamp) -> DeploymentCondition {
    if sets.available() >= deployment.replicas - deployment.max_unavailable() {
        let message = "Deployment has minimum availability.";
        progress::condition(AVAILABLE, "True", "MinimumReplicasAvailable", message, now)
    } else {
        let message = "Deployment does not have minimum availability.";
        progress::condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message, now)
    }
}

/// What keeps pods from being created: first in the ReplicaSet of the template.
fn failure(sets: &Sets) -> Option<DeploymentCondition> {
    let failure = |set: &Working| {
        let conditions = set.view().status.conditions.as_deref().unwrap_or_default();
        conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE).map(from_set)
    };
    sets.new.as_ref().and_then(failure).or_else(|| sets.old.iter().find_map(failure))
}

fn from_set(condition: &ReplicaSetCondition) -> DeploymentCondition {
    DeploymentCondition {
        type_: condition.type_.clone(),
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        last_transition_time: condition.last_transition_time.clone(),
        last_update_time: condition.last_transition_time.clone(),
    }
}

/// What is said when the name of the ReplicaSet to make is taken: the next try takes another one.
pub fn after_collision(deployment: &ValidatedDeployment) -> DeploymentStatus {
    let mut status = old_status(deployment);
    status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
    status
}

/// What is said when the ReplicaSet for the template could not be made.
pub fn after_failure(
    deployment: &ValidatedDeployment,
    plan: &Plan,
    message: &str,
    now: Timestamp,
) -> DeploymentStatus {
    let mut status = old_status(deployment);
    if deployment.deadline.is_some() && plan.create.is_some() {
        let mut conditions = status.conditions.take().unwrap_or_default();
        let failed =
            progress::condition(progress::PROGRESSING, "False", progress::CREATE_ERROR, message, now);
        progress::set(&mut conditions, failed);
        status.conditions = Some(conditions);
    }
    status
}

/// Whether nothing would change; a count that is absent is zero.
pub fn is_same(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let counts = |status: &DeploymentStatus| {
        [
            status.replicas,
            status.updated_replicas,
            status.ready_replicas,
            status.available_replicas,
            status.unavailable_replicas,
        ]
        .map(|count| count.unwrap_or(0))
    };
    counts(old) == counts(new)
        && old.terminating_replicas == new.terminating_replicas
        && old.collision_count == new.collision_count
        && old.observed_generation == new.observed_generation
        && old.conditions.as_deref().unwrap_or(&[]) == new.conditions.as_deref().unwrap_or(&[])
}
