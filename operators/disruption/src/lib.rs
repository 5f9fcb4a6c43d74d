//! Says, for each PodDisruptionBudget, how many of its pods may be evicted now.
//!
//! - [`controller`]: the driver.
//! - [`observe`]: what is watched and asked for, and what is kept of it.
//! - [`validate`], [`decide`]: how many pods there should be, are, and may go (pure).
//! - [`act`]: writes it.

use std::sync::{Arc, LazyLock};

use keelson_operator_kit::{Context, Definition, Error, Operator, async_trait, rule};

pub mod act;
pub mod controller;
pub mod decide;
pub mod observe;
pub mod validate;

/// The operator.
pub struct DisruptionOperator;

/// The operator, for the catalog.
pub fn operator() -> Arc<dyn Operator> {
    Arc::new(DisruptionOperator)
}

static DEFINITION: LazyLock<Definition> = LazyLock::new(|| {
    Definition::new("disruption", "Says how many pods of each PodDisruptionBudget may be evicted now.")
        .with_rules([
            rule(&["policy"], &["poddisruptionbudgets"], &["get", "list", "watch"]),
            rule(&["policy"], &["poddisruptionbudgets/status"], &["patch", "update"]),
            rule(&[""], &["pods"], &["get", "list", "watch"]),
            rule(&["apps"], &["replicasets"], &["get"]),
            rule(&["*"], &["*/scale"], &["get"]),
        ])
});

#[async_trait]
impl Operator for DisruptionOperator {
    fn definition(&self) -> &Definition {
        &DEFINITION
    }

    async fn run(&self, context: Context) -> Result<(), Error> {
        controller::run(context).await
    }
}
