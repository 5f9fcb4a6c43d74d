//! Makes the claims of generic ephemeral volumes: the claim `POD-VOLUME` of each, owned by its pod, with which it goes.
//!
//! - [`controller`]: the driver.
//! - [`observe`]: what is watched.
//! - [`decide`]: which claims a pod lacks (pure).
//! - [`act`]: makes them.

use std::sync::Arc;

use keelson_operator_kit::{Definition, Operator, rule};

pub mod act;
pub mod controller;
pub mod decide;
pub mod observe;

/// The operator, for the catalog.
pub fn operator() -> Arc<dyn Operator> {
    let text = "Makes the claims of pods' generic ephemeral volumes.";
    Definition::new("ephemeralvolume", text)
        .with_rules([
            rule(&[""], &["pods"], &["get", "list", "watch"]),
            // Who owns what it makes, and blocks its owner's deletion.
            rule(&[""], &["pods/finalizers"], &["update"]),
            rule(&[""], &["persistentvolumeclaims"], &["get", "list", "watch", "create"]),
        ])
        .run_by(controller::run)
}
