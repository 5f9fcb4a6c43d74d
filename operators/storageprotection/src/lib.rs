//! Keeps claims, volumes and their attribute classes as long as somebody uses them: each has a finalizer, which goes when
//! its object is to go and nobody needs it.
//!
//! - [`controller`]: the driver.
//! - [`observe`]: what is watched, and what is kept of it.
//! - [`decide`]: whether the finalizer is to come or to go (pure).
//! - [`act`]: writes it.

use std::sync::Arc;

use keelson_operator_kit::{Definition, Operator, rule};

pub mod act;
pub mod controller;
pub mod decide;
pub mod observe;

/// The operator, for the catalog.
pub fn operator() -> Arc<dyn Operator> {
    let text = "Keeps volumes and the claims on them until nobody uses them.";
    Definition::new("storageprotection", text)
        .with_rules([
            rule(&[""], &["persistentvolumeclaims", "persistentvolumes"], &["get", "list", "watch", "patch"]),
            rule(&["storage.k8s.io"], &["volumeattributesclasses"], &["get", "list", "watch", "patch"]),
            rule(&[""], &["pods"], &["get", "list", "watch"]),
        ])
        .run_by(controller::run)
}
