//! Keeps claims, volumes and their attribute classes as long as somebody uses them: each has a finalizer, which goes when
//! its object is to go and nobody needs it.
//!
//! - [`controller`]: the driver.
//! - [`observe`]: what is watched, and what is kept of it.
//! - [`decide`]: whether the finalizer is to come or to go (pure).
//! - [`act`]: writes it.

use std::sync::{Arc, LazyLock};

use keelson_operator_kit::{Context, Definition, Error, Operator, async_trait, rule};

pub mod act;
pub mod controller;
pub mod decide;
pub mod observe;

/// The operator.
pub struct StorageProtectionOperator;

/// The operator, for the catalog.
pub fn operator() -> Arc<dyn Operator> {
    Arc::new(StorageProtectionOperator)
}

static DEFINITION: LazyLock<Definition> = LazyLock::new(|| {
    let text = "Keeps volumes and the claims on them until nobody uses them.";
    Definition::new("storageprotection", text).with_rules([
        rule(&[""], &["persistentvolumeclaims", "persistentvolumes"], &["get", "list", "watch", "patch"]),
        rule(&["storage.k8s.io"], &["volumeattributesclasses"], &["get", "list", "watch", "patch"]),
        rule(&[""], &["pods"], &["get", "list", "watch"]),
    ])
});

#[async_trait]
impl Operator for StorageProtectionOperator {
    fn definition(&self) -> &Definition {
        &DEFINITION
    }

    async fn run(&self, context: Context) -> Result<(), Error> {
        controller::run(context).await
    }
}
