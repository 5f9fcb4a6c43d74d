//! Keeps as many pods of a template running as each ReplicaSet asks for.
//!
//! - [`controller`]: the driver.
//! - [`observe`]: what is watched, and what is kept of it ([`pod`], [`replica_set`]); [`expectations`] bridge the time
//!   until the watch has told of what was written.
//! - [`validate`], [`decide`] (with [`ranking`]): which pods to adopt, release, create and delete (pure).
//! - [`act`]: does so.
//! - [`status`]: what the ReplicaSet then says of itself (pure).

use std::sync::Arc;

use keelson_operator_kit::{Definition, Operator, rule};

pub mod act;
pub mod controller;
pub mod decide;
pub mod expectations;
pub mod observe;
pub mod pod;
pub mod ranking;
pub mod replica_set;
pub mod status;
pub mod validate;

/// The operator, for the catalog.
pub fn operator() -> Arc<dyn Operator> {
    Definition::new("replicaset", "Keeps as many pods of a template running as each ReplicaSet asks for.")
        .with_rules([
            rule(&["apps"], &["replicasets"], &["get", "list", "watch"]),
            rule(&["apps"], &["replicasets/status"], &["patch", "update"]),
            rule(&["apps"], &["replicasets/finalizers"], &["update"]),
            rule(&[""], &["pods"], &["create", "delete", "get", "list", "patch", "watch"]),
        ])
        .run_by(controller::run)
}
