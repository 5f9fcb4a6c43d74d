//! From what was observed to what can be decided upon (pure).

use std::collections::HashMap;
use std::sync::Arc;

use keelson_operator_kit::selection::Selection;
use keelson_operator_kit::{Fault, ObjectKey, Policy};

use crate::observe::Observed;
use crate::pod::PodView;
use crate::replica_set::ReplicaSetView;

/// A pod and where it is.
pub type Pod = (ObjectKey, Arc<PodView>);

/// A ReplicaSet that can be acted upon.
#[derive(Debug)]
pub struct ValidatedReplicaSet {
    /// Its name.
    pub key: ObjectKey,
    /// What is known of it.
    pub set: Arc<ReplicaSetView>,
    /// Which pods are its own.
    pub selection: Selection,
    /// The pods that it manages.
    pub own: Vec<Pod>,
    /// The pods of its namespace that nobody manages.
    pub orphans: Vec<Pod>,
    /// How many active pods of related ReplicaSets, this one included, are on a node.
    pub related_on_node: HashMap<String, usize>,
    /// Whether the watch has told of everything that was done before.
    pub settled: bool,
}

/// Why it cannot.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// Its selector selects everything, or cannot be read.
    #[error("spec.selector cannot be used: {0}")]
    Selector(String),
}

impl Fault for Invalid {
    fn policy(&self) -> Policy {
        Policy::AwaitChange
    }
}

/// Takes what was observed apart.
pub fn validate(observed: Observed) -> Result<ValidatedReplicaSet, Invalid> {
    let Observed { key, set, own, orphans, related, settled } = observed;
    let selection = set.selection.clone().map_err(Invalid::Selector)?;
    let mut related_on_node = HashMap::new();
    for pod in related.iter().filter(|pod| pod.is_active()) {
        if let Some(node) = &pod.node {
            *related_on_node.entry(node.clone()).or_default() += 1;
        }
    }
    Ok(ValidatedReplicaSet { key, set, selection, own, orphans, related_on_node, settled })
}
