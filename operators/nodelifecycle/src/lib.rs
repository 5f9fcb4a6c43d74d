//! Watches over nodes: says of a node that is silent that nothing is known of it, keeps pods away from it, and lets
//! them go from there.
//!
//! - [`controller`]: the driver. Nodes and pods have a queue each.
//! - [`observe`]: what is watched, and what is kept of it ([`node`], [`pod`]).
//! - [`vigil`]: since when each node has been silent, and each pod has to go; aware of that this process may have slept
//!   (pure).
//! - [`decide`] (with [`taints`] and [`zones`]): what has to be written of a node (pure).
//! - [`eviction`]: whether, and when, a pod has to go (pure).
//! - [`act`]: does what was decided.
//!
//! A process that begins, or wakes, gives every node the full grace period again: silence counts only while somebody
//! listens.

use std::sync::Arc;

use keelson_operator_kit::{Definition, Operator, rule};

pub mod act;
pub mod controller;
pub mod decide;
pub mod eviction;
pub mod node;
pub mod observe;
pub mod pod;
pub mod taints;
pub mod vigil;
pub mod zones;

/// The operator, for the catalog.
pub fn operator() -> Arc<dyn Operator> {
    Definition::new("nodelifecycle", "Watches over nodes, and moves pods away from those that are silent.")
        .with_rules([
            rule(&[""], &["nodes"], &["get", "list", "patch", "update", "watch"]),
            rule(&[""], &["nodes/status"], &["patch", "update"]),
            rule(&[""], &["pods"], &["delete", "get", "list", "watch"]),
            rule(&[""], &["pods/status"], &["patch", "update"]),
            rule(&["coordination.k8s.io"], &["leases"], &["get", "list", "watch"]),
        ])
        .run_by(controller::run)
}
