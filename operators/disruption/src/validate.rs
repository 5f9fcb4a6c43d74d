//! From what was observed to what can be decided upon (pure).

use std::sync::Arc;

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keelson_operator_kit::int_or_percent::{self, Rounding, scaled};
use keelson_operator_kit::selection::{InvalidSelector, Selection};
use keelson_operator_kit::{Fault, ObjectKey, Policy};

use crate::observe::{Observed, PodView, UnknownScale};

/// A budget that can be calculated.
#[derive(Debug)]
pub struct ValidatedBudget {
    /// Its name.
    pub key: ObjectKey,
    /// The object.
    pub object: Arc<PodDisruptionBudget>,
    /// Which version of its spec this is.
    pub generation: i64,
    /// The pods that it is about.
    pub pods: Vec<(ObjectKey, Arc<PodView>)>,
    /// How many pods there should be.
    pub expected: i32,
    /// How many of them have to be healthy.
    pub desired: i32,
    /// Whether pods that nobody manages make the numbers wrong.
    pub has_unmanaged: bool,
    /// What it said before.
    pub status: PodDisruptionBudgetStatus,
}

/// Why it cannot.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// The API has not completed it.
    #[error("the PodDisruptionBudget has no spec")]
    NoSpec,
    /// Its selector cannot be read.
    #[error("spec.selector")]
    Selector(#[source] InvalidSelector),
    /// Its numbers cannot be read.
    #[error("spec.{0}")]
    Number(&'static str, #[source] int_or_percent::Invalid),
    /// It is not known how many pods there should be.
    #[error("find how many pods there should be")]
    Scale(#[source] UnknownScale),
}

impl Fault for Invalid {
    fn policy(&self) -> Policy {
        match self {
            Invalid::NoSpec | Invalid::Selector(_) | Invalid::Number(..) => Policy::AwaitChange,
            Invalid::Scale(_) => Policy::Retry,
        }
    }
}

/// Whether it matters how many pods what manages them asks for.
pub fn counts_managers(budget: &PodDisruptionBudget) -> bool {
    budget.spec.as_ref().is_some_and(|spec| {
        spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
    })
}

/// Takes what was observed apart.
pub fn validate(observed: Observed) -> Result<ValidatedBudget, Invalid> {
    let Observed { key, object, pods, managed } = observed;
    let spec = object.spec.as_ref().ok_or(Invalid::NoSpec)?;
    if let Some(selector) = &spec.selector {
        Selection::possibly_everything(selector).map_err(Invalid::Selector)?;
    }
    let (expected, desired) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(max), _) => {
            let expected = managed.map_err(Invalid::Scale)?;
            let max = scaled(max, expected, Rounding::Up);
            (expected, expected - max.map_err(|error| Invalid::Number("maxUnavailable", error))?)
        }
        (None, Some(IntOrString::Int(min))) => (i32::try_from(pods.len()).unwrap_or(i32::MAX), *min),
        (None, Some(min)) => {
            let expected = managed.map_err(Invalid::Scale)?;
            let min = scaled(min, expected, Rounding::Up);
            (expected, min.map_err(|error| Invalid::Number("minAvailable", error))?)
        }
        // One pod at least, as the API's documentation says of a budget without numbers.
        (None, None) => (i32::try_from(pods.len()).unwrap_or(i32::MAX), 1),
    };
    Ok(ValidatedBudget {
        key,
        generation: object.metadata.generation.unwrap_or(0),
        expected,
        desired: desired.max(0),
        has_unmanaged: counts_managers(&object) && pods.iter().any(|(_, pod)| pod.owner.is_none()),
        status: object.status.clone().unwrap_or_default(),
        pods,
        object,
    })
}
