//! What several operators read in a pod (pure).

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;

/// The condition that says whether a pod can serve.
pub const READY: &str = "Ready";

/// The condition of a type.
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// Whether it can serve.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, READY).is_some_and(|ready| ready.status == crate::condition::TRUE)
}

/// Since when it is ready; `None` where it is not, or nothing says since when.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, READY).filter(|ready| ready.status == crate::condition::TRUE)?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// The phase; empty before the API has set one.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

/// Whether all its containers have ended for good.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether its deletion has been asked for.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}
