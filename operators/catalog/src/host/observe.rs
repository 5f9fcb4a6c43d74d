//! What is known of an Operator object (client of nothing but informers).

use std::sync::Arc;

use keelson_operator_kit::{Informer, ObjectKey};

use crate::kind::Operator;

/// An Operator object, and what stands beside it.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The object.
    pub operator: Arc<Operator>,
    /// The object that has the older claim to the same operator of the catalog, if there is one.
    pub older: Option<String>,
}

/// Looks at an object; `None` when it is gone.
pub fn observe(operators: &Informer<Operator>, key: &ObjectKey) -> Option<Observed> {
    let operator = operators.get(key)?;
    let mine = claim(&operator);
    let others = operators.all();
    let older = others
        .iter()
        .map(|(_, other)| other)
        .filter(|other| other.catalog_name() == operator.catalog_name() && claim(other) < mine)
        .filter_map(|other| other.metadata.name.clone())
        .min();
    Some(Observed { operator, older })
}

/// The smallest claim wins: the object that bears the operator's name, then the oldest.
fn claim(operator: &Operator) -> (bool, Option<k8s_openapi::jiff::Timestamp>, Option<&str>) {
    let name = operator.metadata.name.as_deref();
    let made = operator.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (name != Some(operator.catalog_name()), made, name)
}
