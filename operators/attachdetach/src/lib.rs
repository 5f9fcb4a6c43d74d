//! Has volumes of storage drivers attached to the nodes whose pods use them: a VolumeAttachment each, which the driver's
//! external-attacher acts on, and `status.volumesAttached` of the node, which its kubelet waits for.
//!
//! - [`controller`]: the driver. What is looked at is a node.
//! - [`observe`]: what is watched, and what is kept of it ([`view`], [`name`]).
//! - [`decide`]: what is to be attached to a node, and detached from it (pure).
//! - [`act`]: does what was decided.
//!
//! # Guarantees
//! - Nothing is detached that the node says is in use, or of which it has not spoken yet, unless nobody has wanted it for long and the
//!   node is unhealthy, silent or gone, or somebody says that it is out of service. The node is told that a volume is no longer attached before it is asked, at that very revision, whether it uses it.
//! - A volume for one node is attached to one node at a time.
//! - Attachments of others, which are named otherwise, are left alone.

use std::sync::Arc;

use keelson_operator_kit::{Definition, Operator, rule};

pub mod act;
pub mod controller;
pub mod decide;
pub mod name;
pub mod observe;
pub mod view;

/// The operator, for the catalog.
pub fn operator() -> Arc<dyn Operator> {
    const READ: [&str; 3] = ["get", "list", "watch"];
    Definition::new(
        "attachdetach",
        "Has volumes of storage drivers attached to the nodes whose pods use them.",
    )
    .with_rules([
        rule(&[""], &["pods", "persistentvolumeclaims", "persistentvolumes", "nodes"], &READ),
        rule(&[""], &["nodes/status"], &["patch"]),
        rule(&["storage.k8s.io"], &["csidrivers"], &READ),
        rule(&["storage.k8s.io"], &["volumeattachments"], &["get", "list", "watch", "create", "delete"]),
    ])
    .run_by(controller::run)
}
