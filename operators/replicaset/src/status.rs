//! What a ReplicaSet says of itself (pure).

use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::condition::TRUE;
use keelson_operator_kit::selection::is_subset;
use keelson_operator_kit::time::api_time;

use crate::act::{Applied, Failure};
use crate::decide::claimed;
use crate::pod::{Phase, PodView};
use crate::validate::ValidatedReplicaSet;

/// The condition that says that pods cannot be created or deleted.
pub const REPLICA_FAILURE: &str = "ReplicaFailure";
/// Its reason.
pub const FAILED_CREATE: &str = "FailedCreate";
/// Its reason.
pub const FAILED_DELETE: &str = "FailedDelete";

/// The new status, and when it changes of itself.
#[derive(Debug, PartialEq)]
pub struct Report {
    /// The status.
    pub status: ReplicaSetStatus,
    /// How long until a pod that is ready becomes available.
    pub available_in: Option<Duration>,
}

/// Counts pods, and says what failed.
pub fn status(valid: &ValidatedReplicaSet, applied: &Applied, now: Timestamp) -> Report {
    let pods = claimed(valid, &applied.adopted);
    let pods: Vec<&PodView> = pods.iter().map(|(_, pod)| pod.as_ref()).collect();
    let active: Vec<&PodView> = pods.iter().copied().filter(|pod| pod.is_active()).collect();
    let count = |wanted: &dyn Fn(&PodView) -> bool| number(active.iter().filter(|pod| wanted(pod)).count());
    let available_from = |pod: &PodView| pod.available_from(valid.set.min_ready_seconds);
    let terminating = pods.iter().filter(|pod| pod.terminating && pod.phase != Phase::Terminal).count();
    let later = active.iter().filter_map(|pod| available_from(pod)).filter(|from| *from > now).min();
    let old = &valid.set.status;
    let status = ReplicaSetStatus {
        replicas: number(active.len()),
        fully_labeled_replicas: Some(count(&|pod| is_subset(&valid.set.template_labels, &pod.labels))),
        ready_replicas: Some(count(&|pod| pod.ready)),
        available_replicas: Some(count(&|pod| available_from(pod).is_some_and(|from| from <= now))),
        terminating_replicas: Some(number(terminating)),
        observed_generation: Some(old.observed_generation.unwrap_or(0).max(valid.set.generation)),
        conditions: conditions(old, applied.failure.as_ref(), now),
    };
    Report { status, available_in: later.and_then(|at| Duration::try_from(at.duration_since(now)).ok()) }
}

fn conditions(
    old: &ReplicaSetStatus,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let there = conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE);
    match failure {
        // The first failure is the one that is shown, so that changing texts do not make a stream of writes.
        Some(failure) if !there => conditions.push(ReplicaSetCondition {
            type_: REPLICA_FAILURE.to_owned(),
            status: TRUE.to_owned(),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.error.to_string()),
            last_transition_time: Some(api_time(now)),
        }),
        Some(_) => {}
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
    }
    Some(conditions).filter(|conditions| !conditions.is_empty())
}

/// Whether nothing would change; a count that is absent is zero.
pub fn is_same(old: &ReplicaSetStatus, new: &ReplicaSetStatus) -> bool {
    let counts = |status: &ReplicaSetStatus| {
        [
            Some(status.replicas),
            status.fully_labeled_replicas,
            status.ready_replicas,
            status.available_replicas,
        ]
        .map(|count| count.unwrap_or(0))
    };
    counts(old) == counts(new)
        && old.terminating_replicas == new.terminating_replicas
        && old.observed_generation == new.observed_generation
        && old.conditions.as_deref().unwrap_or(&[]) == new.conditions.as_deref().unwrap_or(&[])
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
