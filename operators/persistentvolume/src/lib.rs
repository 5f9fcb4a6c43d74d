//! Binds claims and volumes to each other, hands claims over to whoever provisions their class, and says what becomes of
//! volumes whose claims are gone.
//!
//! - [`controller`]: the driver.
//! - [`observe`]: what is watched.
//! - [`matching`]: which volume suits a claim (pure).
//! - [`decide`]: what is to be done for a claim or a volume (pure).
//! - [`act`]: writes both sides of a binding, the volume's first.
//!
//! Both sides name each other: `spec.claimRef` of the volume with the claim's UID, then `spec.volumeName` of the claim. Each write names
//! the revision that was decided on, and each step may be the last one of a process: the next look goes on from there.

use std::sync::Arc;

use keelson_operator_kit::{Definition, Operator, rule};

pub mod act;
pub mod controller;
pub mod decide;
pub mod matching;
pub mod observe;

/// The operator, for the catalog.
pub fn operator() -> Arc<dyn Operator> {
    let text = "Binds claims to volumes, and hands claims over to those who make volumes.";
    Definition::new("persistentvolume", text)
        .with_rules([
            rule(&[""], &["persistentvolumeclaims", "persistentvolumes"], &["get", "list", "watch", "patch"]),
            rule(&[""], &["persistentvolumeclaims/status", "persistentvolumes/status"], &["patch"]),
            rule(&["storage.k8s.io"], &["storageclasses"], &["get", "list", "watch"]),
            rule(&[""], &["pods"], &["get", "list", "watch"]),
        ])
        .run_by(controller::run)
}
