//! Makes the claims to devices that pods ask for by templates, and frees what pods that are over have held: their places in
//! claims, devices that nobody uses any more, and claims that were made for them.
//!
//! - [`controller`]: the driver.
//! - [`observe`]: what is watched, and what is kept of it.
//! - [`decide`]: which claims a pod lacks, and what a claim no longer needs (pure).
//! - [`act`]: writes it.

use std::sync::Arc;

use keelson_operator_kit::{Definition, Operator, rule};

pub mod act;
pub mod controller;
pub mod decide;
pub mod observe;

/// The operator, for the catalog.
pub fn operator() -> Arc<dyn Operator> {
    let text = "Makes the claims to devices that pods ask for by templates, and frees devices of pods that are over.";
    let claims = ["get", "list", "watch", "create", "delete", "patch"];
    Definition::new("resourceclaim", text)
        .with_rules([
            rule(&[""], &["pods"], &["get", "list", "watch"]),
            // Who owns what it makes, and blocks its owner's deletion.
            rule(&[""], &["pods/finalizers"], &["update"]),
            rule(&[""], &["pods/status"], &["patch"]),
            rule(&["resource.k8s.io"], &["resourceclaims"], &claims),
            rule(&["resource.k8s.io"], &["resourceclaims/status"], &["patch"]),
            rule(&["resource.k8s.io"], &["resourceclaimtemplates"], &["get", "list", "watch"]),
        ])
        .run_by(controller::run)
}
