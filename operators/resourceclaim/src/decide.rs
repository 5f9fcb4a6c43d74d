//! What pods and claims need (pure).

mod claim;
mod pod;

pub use claim::{ClaimPlan, FINALIZER, decide_claim};
pub use pod::{Make, PodPlan, decide_pod};
