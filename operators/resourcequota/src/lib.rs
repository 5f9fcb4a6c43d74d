//! Says, for each ResourceQuota, what it limits and what is used of it: when objects go, when limits change, and where
//! admission has counted something that was not stored in the end.
//!
//! - [`controller`]: the driver.
//! - [`observe`]: the quotas, and watches on the kinds that they count; without a quota nothing else is watched.
//! - [`decide`]: the status that a quota is to have (pure).
//! - [`act`]: writes it.

use std::sync::Arc;

use keelson_operator_kit::{Definition, Operator, rule};

pub mod act;
pub mod controller;
pub mod decide;
pub mod observe;

/// The operator, for the catalog.
pub fn operator() -> Arc<dyn Operator> {
    Definition::new("resourcequota", "Says how much of each ResourceQuota is used.")
        .with_rules([
            // What is counted may be of any kind.
            rule(&["*"], &["*"], &["list", "watch"]),
            rule(&[""], &["resourcequotas"], &["get", "list", "watch"]),
            rule(&[""], &["resourcequotas/status"], &["update"]),
        ])
        .run_by(controller::run)
}
