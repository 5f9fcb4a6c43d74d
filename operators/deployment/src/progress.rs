//! Whether a rollout moves, and how long it may stand still: the condition Progressing (pure).

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};
use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::time::{api_time, plus_seconds};

use crate::decide::Sets;
use crate::status::{is_complete, old_status};
use crate::validate::ValidatedDeployment;

/// The condition that says whether a rollout moves.
pub const PROGRESSING: &str = "Progressing";
/// Its reason when all pods are of the template and available.
pub const AVAILABLE: &str = "NewReplicaSetAvailable";
/// Its reason when it has stood still for too long.
pub const TIMED_OUT: &str = "ProgressDeadlineExceeded";
/// Its reason when a ReplicaSet cannot be made; also that of the Event.
pub const CREATE_ERROR: &str = "ReplicaSetCreateError";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";
const CREATED: &str = "NewReplicaSetCreated";
const FOUND: &str = "FoundNewReplicaSet";
const UPDATED: &str = "ReplicaSetUpdated";

/// A condition that begins now.
pub fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: impl Into<String>,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.into()),
        last_transition_time: Some(api_time(now)),
        last_update_time: Some(api_time(now)),
    }
}

/// The condition of a type.
pub fn find<'a>(conditions: &'a [DeploymentCondition], type_: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Puts a condition in the place of the one of its type, unless that says the same.
pub fn set(conditions: &mut Vec<DeploymentCondition>, mut new: DeploymentCondition) {
    if let Some(old) = find(conditions, &new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    conditions.retain(|condition| condition.type_ != new.type_);
    conditions.push(new);
}

fn has_reason(condition: Option<&DeploymentCondition>, reason: &str) -> bool {
    condition.is_some_and(|condition| condition.reason.as_deref() == Some(reason))
}

/// Says that the Deployment is paused, so that standing still does not count against it, or no longer is.
pub fn pause(deployment: &ValidatedDeployment, conditions: &mut Vec<DeploymentCondition>, now: Timestamp) {
    let current = find(conditions, PROGRESSING);
    if deployment.deadline.is_none() || has_reason(current, TIMED_OUT) {
        return;
    }
    let was_paused = has_reason(current, PAUSED);
    if deployment.paused && !was_paused {
        set(conditions, condition(PROGRESSING, "Unknown", PAUSED, "Deployment is paused", now));
    } else if !deployment.paused && was_paused {
        set(conditions, condition(PROGRESSING, "Unknown", RESUMED, "Deployment is resumed", now));
    }
}

/// Says that a ReplicaSet for the template is made, or was found.
pub fn note_new(
    deployment: &ValidatedDeployment,
    sets: &Sets,
    conditions: &mut Vec<DeploymentCondition>,
    now: Timestamp,
) {
    let Some(new) = sets.new.as_ref().filter(|_| deployment.deadline.is_some()) else { return };
    if sets.is_created {
        let message = format!("Created new replica set {:?}", new.name());
        set(conditions, condition(PROGRESSING, "True", CREATED, message, now));
    } else if find(conditions, PROGRESSING).is_none() {
        let message = format!("Found new replica set {:?}", new.name());
        set(conditions, condition(PROGRESSING, "True", FOUND, message, now));
    }
}

/// Says whether the rollout is complete, moves, or has stood still for too long.
pub fn judge(
    deployment: &ValidatedDeployment,
    sets: &Sets,
    status: &DeploymentStatus,
    conditions: &mut Vec<DeploymentCondition>,
    now: Timestamp,
) {
    let Some(deadline) = deployment.deadline else {
        conditions.retain(|condition| condition.type_ != PROGRESSING);
        return;
    };
    let current = find(conditions, PROGRESSING).cloned();
    let all_updated = status.replicas.unwrap_or(0) == status.updated_replicas.unwrap_or(0);
    if all_updated && has_reason(current.as_ref(), AVAILABLE) {
        return;
    }
    let subject = match &sets.new {
        Some(new) => format!("ReplicaSet {:?}", new.name()),
        None => format!("Deployment {:?}", deployment.key.name()),
    };
    if is_complete(deployment, status) {
        let message = format!("{subject} has successfully progressed.");
        set(conditions, condition(PROGRESSING, "True", AVAILABLE, message, now));
    } else if is_progressing(&old_status(deployment), status) {
        let mut new = condition(PROGRESSING, "True", UPDATED, format!("{subject} is progressing."), now);
        if let Some(current) = current.filter(|current| current.status == "True") {
            new.last_transition_time = current.last_transition_time;
        }
        // Also where it says the same: the time of the last progress counts.
        conditions.retain(|condition| condition.type_ != PROGRESSING);
        conditions.push(new);
    } else if has_timed_out(current.as_ref(), deadline, now) {
        let message = format!("{subject} has timed out progressing.");
        set(conditions, condition(PROGRESSING, "False", TIMED_OUT, message, now));
    }
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let count = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(new.updated_replicas) > count(old.updated_replicas)
        || outdated(new) < outdated(old)
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas)
}

fn has_timed_out(current: Option<&DeploymentCondition>, deadline: i32, now: Timestamp) -> bool {
    match current {
        None => false,
        Some(current) if has_reason(Some(current), AVAILABLE) => false,
        Some(current) if has_reason(Some(current), TIMED_OUT) => true,
        Some(current) => ends_at(current, deadline).is_some_and(|end| end < now),
    }
}

fn ends_at(current: &DeploymentCondition, deadline: i32) -> Option<Timestamp> {
    Some(plus_seconds(current.last_update_time.as_ref()?.0, i64::from(deadline)))
}

/// How long until a rollout that does not move has stood still for too long; `None` where that cannot be.
pub fn deadline_in(
    deployment: &ValidatedDeployment,
    status: &DeploymentStatus,
    conditions: &[DeploymentCondition],
    now: Timestamp,
) -> Option<Duration> {
    let current = find(conditions, PROGRESSING)?;
    if is_complete(deployment, status)
        || has_reason(Some(current), TIMED_OUT)
        || has_reason(Some(current), AVAILABLE)
    {
        return None;
    }
    let end = ends_at(current, deployment.deadline?)?;
    // The condition has whole seconds: one more, so that the limit is passed then.
    let left = Duration::try_from(end.duration_since(now)).unwrap_or_default();
    Some(left + Duration::from_secs(1))
}
