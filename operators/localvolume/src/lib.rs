//! Volumes that are folders on nodes: the StorageClass `local`, and the volumes for claims of it.
//!
//! A claim waits for its first pod; the volume is then made for the node that the scheduler has chosen, below the folder that the node's
//! kubelet names in an annotation of its Node. The kubelet makes the folder when it is first mounted. When the volume is deleted, the
//! kubelet removes the folder and then the finalizer `local.keelson.io/folder`, so that no volume goes whose folder stays. Of a node that
//! no longer exists, the finalizer is removed here.
//!
//! The size of a claim is not enforced: a folder has what the node's disk has.
//!
//! - [`controller`]: the driver.
//! - [`observe`]: what is watched.
//! - [`decide`]: what is to be done for a claim or a volume (pure).
//! - [`volume`]: the volume for a claim, and the class (pure).
//! - [`act`]: makes and deletes volumes.

use std::sync::Arc;

use keelson_operator_kit::{Definition, Operator, rule};

pub mod act;
pub mod controller;
pub mod decide;
pub mod observe;
pub mod volume;

/// The operator, for the catalog.
pub fn operator() -> Arc<dyn Operator> {
    let text =
        "Makes volumes that are folders on nodes, for claims of the class local, which is the default.";
    Definition::new("localvolume", text)
        .with_rules([
            rule(&[""], &["persistentvolumes"], &["get", "list", "watch", "create", "patch", "delete"]),
            rule(&[""], &["persistentvolumeclaims"], &["get", "list", "watch", "patch"]),
            rule(&[""], &["nodes"], &["get", "list", "watch"]),
            rule(&["storage.k8s.io"], &["storageclasses"], &["get", "list", "watch", "create"]),
        ])
        .run_by(controller::run)
}
