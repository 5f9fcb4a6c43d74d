//! Deletes bootstrap tokens that have expired, and keeps `kube-public/cluster-info`: where the API server is, which
//! authority vouches for it, and a signature of that by each token that may sign.
//!
//! Who knows a token and nothing else so finds the cluster and can tell that it is the right one: the signature is made
//! with the token's secret part. The ConfigMap is read without credentials only where a configuration of authentication
//! lists its path.
//!
//! - [`controller`]: the driver.
//! - [`observe`]: what is watched, and what is kept of it.
//! - [`validate`]: which tokens sign, and which have expired (pure).
//! - [`signature`]: the signature (pure).
//! - [`decide`]: what `cluster-info` is to say (pure).
//! - [`act`]: deletes tokens, writes `cluster-info`.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::PolicyRule;
use keelson_operator_kit::{Definition, Operator, rule};

pub mod act;
pub mod controller;
pub mod decide;
pub mod observe;
pub mod signature;
pub mod validate;

/// The operator, for the catalog.
pub fn operator() -> Arc<dyn Operator> {
    let text = "Deletes expired bootstrap tokens, and signs with the others where the cluster is: kube-public/cluster-info.";
    Definition::new("bootstraptoken", text)
        .with_rules([
            rule(&[""], &["secrets"], &["list", "watch", "delete"]),
            rule(&[""], &["configmaps"], &["list", "watch", "create"]),
            PolicyRule {
                resource_names: Some(vec![observe::CLUSTER_INFO.to_owned()]),
                ..rule(&[""], &["configmaps"], &["get", "update"])
            },
            rule(&["discovery.k8s.io"], &["endpointslices"], &["list", "watch"]),
        ])
        .run_by(controller::run)
}
