//! Whether, and when, a pod has to go (pure).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Taint, Toleration};
use keelson_operator_kit::ObjectKey;

use crate::node::{NodeView, Readiness};
use crate::pod::PodView;
use crate::taints::{NO_EXECUTE, OUT_OF_SERVICE};

/// How long the node of a pod has to be gone.
pub const QUARANTINE: Duration = Duration::from_secs(40);

/// Why a pod has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its node has a taint that it does not bear, or no longer.
    Taint,
    /// Its node is gone.
    NodeGone,
    /// It is being deleted and never had a node.
    NeverScheduled,
    /// It is being deleted, and its node is out of service.
    OutOfService,
}

/// Whether a pod has to go, and how long it may stay from when that began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Stay,
    /// It goes after this time.
    Leave(Cause, Duration),
}

/// Judges a pod whose node is `node`, or gone.
pub fn judge(pod: &PodView, node: Option<&NodeView>) -> Verdict {
    let Some(node) = node else {
        return match (&pod.node, pod.terminating) {
            (Some(_), _) => Verdict::Leave(Cause::NodeGone, QUARANTINE),
            (None, true) => Verdict::Leave(Cause::NeverScheduled, Duration::ZERO),
            (None, false) => Verdict::Stay,
        };
    };
    let fails = node.readiness() != Readiness::Ready;
    if pod.terminating {
        let is_out = fails && node.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE);
        return if is_out { Verdict::Leave(Cause::OutOfService, Duration::ZERO) } else { Verdict::Stay };
    }
    if pod.terminal {
        return Verdict::Stay;
    }
    let mut shortest: Option<Duration> = None;
    for taint in node.taints.iter().filter(|taint| taint.effect == NO_EXECUTE) {
        let mut tolerations =
            pod.tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if tolerations.peek().is_none() {
            return Verdict::Leave(Cause::Taint, Duration::ZERO);
        }
        for seconds in tolerations.filter_map(|toleration| toleration.toleration_seconds) {
            let time = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            shortest = Some(shortest.map_or(time, |shortest| shortest.min(time)));
        }
    }
    shortest.map_or(Verdict::Stay, |time| Verdict::Leave(Cause::Taint, time))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        Some("Equal" | "") | None => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        Some("Lt") => compared(toleration, taint).is_some_and(|(own, of_taint)| of_taint < own),
        Some("Gt") => compared(toleration, taint).is_some_and(|(own, of_taint)| of_taint > own),
        Some(_unknown) => false,
    }
}

fn compared(toleration: &Toleration, taint: &Taint) -> Option<(i64, i64)> {
    Some((toleration.value.as_ref()?.parse().ok()?, taint.value.as_ref()?.parse().ok()?))
}

/// Pods that have ended are kept for people to look at, up to so many.
const KEPT: usize = 12_500;

/// The oldest of the pods that have ended, beyond those that are kept.
pub fn surplus(pods: Vec<(ObjectKey, Arc<PodView>)>) -> Vec<(ObjectKey, Arc<PodView>)> {
    let mut ended: Vec<_> = pods.into_iter().filter(|(_, pod)| pod.terminal && !pod.terminating).collect();
    let surplus = ended.len().saturating_sub(KEPT);
    ended.sort_by(|(key_a, a), (key_b, b)| (a.created, key_a).cmp(&(b.created, key_b)));
    ended.truncate(surplus);
    ended
}

#[cfg(test)]
mod tests;
