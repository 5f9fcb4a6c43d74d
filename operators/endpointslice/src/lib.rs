//! Keeps, for each Service, the addresses of the pods behind it: EndpointSlices, and the older Endpoints.
//!
//! - [`controller`]: the driver.
//! - [`observe`]: what is watched, and what is kept of it ([`pod`], [`service`]).
//! - [`validate`]: a Service whose pods have to be found (pure).
//! - [`endpoints`]: the endpoints that pods give (pure).
//! - [`decide`] (with [`packing`]): which slices to make, change and delete (pure).
//! - [`legacy`]: the same as Endpoints (pure).
//! - [`act`]: does what was decided.
//!
//! Endpoints that people write by hand for Services without a selector are not mirrored to EndpointSlices.

use std::sync::Arc;

use keelson_operator_kit::{Definition, Operator, rule};

pub mod act;
pub mod controller;
pub mod decide;
pub mod endpoints;
pub mod legacy;
pub mod observe;
pub mod packing;
pub mod pod;
pub mod service;
pub mod validate;

/// The operator, for the catalog.
pub fn operator() -> Arc<dyn Operator> {
    let all = ["create", "delete", "get", "list", "update", "watch"];
    Definition::new("endpointslice", "Keeps, for each Service, the addresses of the pods behind it.")
        .with_rules([
            rule(&[""], &["nodes", "pods", "services"], &["get", "list", "watch"]),
            rule(&[""], &["services/finalizers"], &["update"]),
            rule(&[""], &["endpoints"], &all),
            rule(&[""], &["endpoints/restricted"], &["create"]),
            rule(&["discovery.k8s.io"], &["endpointslices"], &all),
            rule(&["discovery.k8s.io"], &["endpointslices/restricted"], &["create"]),
        ])
        .run_by(controller::run)
}
