//! Label selectors (pure).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{ParseExpressionError, Selector, SelectorExt};

/// A selector that selects something: one that is absent or empty, which would select everything, is none.
#[derive(Clone, Debug)]
pub struct Selection(Selector);

/// Why a selector cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSelector {
    /// It has no requirement.
    #[error("the selector is empty and would select everything")]
    Empty,
    /// A requirement has an unknown operator.
    #[error("the selector cannot be read")]
    Unreadable(#[source] ParseExpressionError),
}

impl Selection {
    /// Reads a selector.
    pub fn new(selector: &LabelSelector) -> Result<Self, InvalidSelector> {
        let selector: Selector = selector.clone().try_into().map_err(InvalidSelector::Unreadable)?;
        if selector.selects_all() {
            return Err(InvalidSelector::Empty);
        }
        Ok(Selection(selector))
    }

    /// A selector that may select everything.
    pub fn possibly_everything(selector: &LabelSelector) -> Result<Self, InvalidSelector> {
        Ok(Selection(selector.clone().try_into().map_err(InvalidSelector::Unreadable)?))
    }

    /// Whether it selects an object with these labels.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.matches(labels)
    }
}

/// Whether each label of `wanted` is among `labels`.
pub fn is_subset(wanted: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}
