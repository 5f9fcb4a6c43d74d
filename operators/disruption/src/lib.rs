//! Says, for each PodDisruptionBudget, how many of its pods may be evicted now.
//!
//! - [`controller`]: the driver.
//! - [`observe`]: what is watched and asked for, and what is kept of it.
//! - [`validate`], [`decide`]: how many pods there should be, are, and may go (pure).
//! - [`act`]: writes it.

use std::sync::Arc;

use keelson_operator_kit::{Definition, Operator, rule};

pub mod act;
pub mod controller;
pub mod decide;
pub mod observe;
pub mod validate;

/// The operator, for the catalog.
pub fn operator() -> Arc<dyn Operator> {
    Definition::new("disruption", "Says how many pods of each PodDisruptionBudget may be evicted now.")
        .with_rules([
            rule(&["policy"], &["poddisruptionbudgets"], &["get", "list", "watch"]),
            rule(&["policy"], &["poddisruptionbudgets/status"], &["patch", "update"]),
            rule(&[""], &["pods"], &["get", "list", "watch"]),
            rule(&["apps"], &["replicasets"], &["get"]),
            rule(&["*"], &["*/scale"], &["get"]),
        ])
        .run_by(controller::run)
}
