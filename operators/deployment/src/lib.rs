//! Moves Deployments from one template to the next, a ReplicaSet for each.
//!
//! - [`controller`]: the driver.
//! - [`observe`]: what is watched, and what is kept of it ([`replica_set`]).
//! - [`validate`]: a Deployment that can be acted upon (pure).
//! - [`template`]: when two templates are the same, and the name that one gives (pure).
//! - [`decide`] (with [`rollout`], [`scaling`] and [`revision`]): which ReplicaSets to make, change and delete (pure).
//! - [`status`] and [`progress`]: what the Deployment then says of itself (pure).
//! - [`act`]: does what was decided.

use std::sync::Arc;

use keelson_operator_kit::{Definition, Operator, rule};

pub mod act;
pub mod controller;
pub mod decide;
pub mod observe;
pub mod progress;
pub mod replica_set;
pub mod revision;
pub mod rollout;
pub mod scaling;
pub mod status;
pub mod template;
pub mod validate;

/// The operator, for the catalog.
pub fn operator() -> Arc<dyn Operator> {
    Definition::new("deployment", "Moves Deployments from one template to the next, a ReplicaSet for each.")
        .with_rules([
            rule(&["apps"], &["deployments"], &["get", "list", "patch", "update", "watch"]),
            rule(&["apps"], &["deployments/status"], &["patch", "update"]),
            rule(&["apps"], &["deployments/finalizers"], &["update"]),
            rule(
                &["apps"],
                &["replicasets"],
                &["create", "delete", "get", "list", "patch", "update", "watch"],
            ),
            rule(&[""], &["pods"], &["get", "list", "watch"]),
        ])
        .run_by(controller::run)
}
