//! How many pods may be evicted now (pure).

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::policy::v1::PodDisruptionBudgetStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::condition;
use keelson_operator_kit::time::plus_seconds;

use crate::validate::ValidatedBudget;

/// The condition that says whether a pod may be evicted.
pub const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";

/// How long an eviction may take from when it was allowed until the pod is being deleted, in seconds.
const DELETION_TIMEOUT: i64 = 120;

/// What to write.
#[derive(Debug)]
pub struct Plan {
    /// The status.
    pub status: PodDisruptionBudgetStatus,
    /// Pods whose eviction was allowed and that were never deleted.
    pub not_deleted: Vec<ObjectReference>,
    /// How long until an eviction that was allowed no longer counts.
    pub recheck_in: Option<Duration>,
}

/// Decides.
pub fn decide(budget: &ValidatedBudget, now: Timestamp) -> Plan {
    let mut disrupted: BTreeMap<String, Time> = BTreeMap::new();
    let mut not_deleted = Vec::new();
    let mut recheck_at: Option<Timestamp> = None;
    let mut healthy = 0;
    for (key, pod) in budget.pods.iter().filter(|(_, pod)| !pod.terminating) {
        let allowed_at = budget.status.disrupted_pods.as_ref().and_then(|pods| pods.get(key.name()));
        if let Some(allowed_at) = allowed_at {
            let until = plus_seconds(allowed_at.0, DELETION_TIMEOUT);
            if until > now {
                disrupted.insert(key.name().to_owned(), allowed_at.clone());
                recheck_at = Some(recheck_at.map_or(until, |at| at.min(until)));
                continue;
            }
            not_deleted.push(pod.reference.clone());
        }
        healthy += i32::from(pod.ready);
    }
    let allowed = if budget.expected > 0 { (healthy - budget.desired).max(0) } else { 0 };
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    let mut conditions = budget.status.conditions.clone().unwrap_or_default();
    put(&mut conditions, allowed > 0, reason, String::new(), budget.generation, now);
    Plan {
        status: PodDisruptionBudgetStatus {
            conditions: Some(conditions),
            current_healthy: Some(healthy),
            desired_healthy: Some(budget.desired),
            disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
            disruptions_allowed: Some(allowed),
            expected_pods: Some(budget.expected),
            observed_generation: Some(budget.generation),
        },
        not_deleted,
        recheck_in: recheck_at.and_then(|at| Duration::try_from(at.duration_since(now)).ok()),
    }
}

/// What is said when nothing can be calculated: then nothing may be evicted.
pub fn failed(
    old: &PodDisruptionBudgetStatus,
    generation: i64,
    error: String,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let mut status = old.clone();
    status.disruptions_allowed = Some(0);
    let conditions = status.conditions.get_or_insert_default();
    put(conditions, false, "SyncFailed", error, generation, now);
    status
}

fn put(
    conditions: &mut Vec<Condition>,
    allowed: bool,
    reason: &str,
    message: String,
    generation: i64,
    now: Timestamp,
) {
    let mut new = condition::condition(DISRUPTION_ALLOWED, allowed, reason, message, now);
    new.observed_generation = Some(generation);
    condition::set(conditions, new);
}

/// Whether nothing would change.
pub fn is_same(old: &PodDisruptionBudgetStatus, new: &PodDisruptionBudgetStatus) -> bool {
    let pods = |status: &PodDisruptionBudgetStatus| status.disrupted_pods.clone().unwrap_or_default();
    let mut old_without = old.clone();
    let mut new_without = new.clone();
    old_without.disrupted_pods = None;
    new_without.disrupted_pods = None;
    old_without == new_without && pods(old) == pods(new)
}

#[cfg(test)]
mod tests;
