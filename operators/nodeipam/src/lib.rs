//! Gives every node its range of pod addresses: a part of the cluster's that no other node has.
//!
//! - [`controller`]: the driver, one node after the other.
//! - [`observe`]: what is kept of nodes, and what was given and has not been seen yet.
//! - [`ranges`]: which range is free (pure).
//! - [`act`]: writes it.
//!
//! A range that a node has already counts as taken, whoever gave it, and is never changed. The first range of the cluster
//! is not given away: it belongs to the machine on which `keelson up` began the cluster, also while its Node is not there.

use std::sync::Arc;

use keelson_operator_kit::{Definition, Operator, rule};

pub mod act;
pub mod controller;
pub mod observe;
pub mod ranges;

/// The operator, for the catalog.
pub fn operator() -> Arc<dyn Operator> {
    Definition::new("nodeipam", "Gives every node a range of pod addresses out of the cluster's.")
        .with_rules([rule(&[""], &["nodes"], &["get", "list", "patch", "update", "watch"])])
        .run_by(controller::run)
}
