//! From what was observed to what can be decided upon (pure).

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keelson_operator_kit::int_or_percent::{self, Rounding, scaled};
use keelson_operator_kit::selection::{InvalidSelector, Selection};
use keelson_operator_kit::{Fault, ObjectKey, Policy};

use crate::observe::Observed;
use crate::replica_set::SetView;
use crate::template::Fingerprint;

/// A ReplicaSet and where it is.
pub type Set = (ObjectKey, Arc<SetView>);

/// How to come from one template to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// All old pods go before a new one comes.
    Recreate,
    /// New pods come while old ones go.
    RollingUpdate {
        /// How many pods there may be more than asked for.
        max_surge: i32,
        /// How many fewer may be available than asked for.
        max_unavailable: i32,
    },
}

/// A Deployment that can be acted upon.
#[derive(Clone, Debug)]
pub struct ValidatedDeployment {
    /// Its name.
    pub key: ObjectKey,
    /// The object.
    pub object: Arc<Deployment>,
    /// Which ReplicaSets are its own.
    pub selection: Selection,
    /// Whether its deletion has been asked for.
    pub terminating: bool,
    /// Which version of its spec this is.
    pub generation: i64,
    /// Whether a new template waits.
    pub paused: bool,
    /// How many pods it asks for.
    pub replicas: i32,
    /// How to come from one template to the next.
    pub strategy: Strategy,
    /// How long a pod has to be ready before it is available, in seconds.
    pub min_ready_seconds: i32,
    /// How long it may take until there is progress, in seconds; `None` where there is no limit.
    pub deadline: Option<i32>,
    /// How many old ReplicaSets are kept; `None` where there is no limit.
    pub history_limit: Option<usize>,
    /// What the pods are made from.
    pub template: PodTemplateSpec,
    /// The same, to compare.
    pub fingerprint: Fingerprint,
    /// The ReplicaSets that it manages.
    pub own: Vec<Set>,
    /// The ReplicaSets of its namespace that nobody manages.
    pub orphans: Vec<Set>,
    /// The UIDs of the ReplicaSets that have pods which have not ended.
    pub running: Vec<String>,
}

/// Why it cannot.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// The API has not completed it.
    #[error("the Deployment has no spec")]
    NoSpec,
    /// Its selector selects everything, or cannot be read.
    #[error("spec.selector")]
    Selector(#[source] InvalidSelector),
    /// How many pods may be more or fewer cannot be read.
    #[error("spec.strategy.rollingUpdate.{0}")]
    Strategy(&'static str, #[source] int_or_percent::Invalid),
    /// It is none of the known.
    #[error("spec.strategy.type {0:?} is neither RollingUpdate nor Recreate")]
    UnknownStrategy(String),
}

impl Fault for Invalid {
    fn policy(&self) -> Policy {
        Policy::AwaitChange
    }
}

/// Takes what was observed apart.
pub fn validate(observed: Observed) -> Result<ValidatedDeployment, Invalid> {
    let Observed { key, object, own, orphans, running } = observed;
    let spec = object.spec.as_ref().ok_or(Invalid::NoSpec)?;
    let template = spec.template.clone();
    let replicas = spec.replicas.unwrap_or(1);
    // The largest number stands for no limit.
    let limited = |limit: i32| Some(limit).filter(|limit| *limit != i32::MAX);
    Ok(ValidatedDeployment {
        key,
        selection: Selection::new(&spec.selector).map_err(Invalid::Selector)?,
        terminating: object.metadata.deletion_timestamp.is_some(),
        generation: object.metadata.generation.unwrap_or(0),
        paused: spec.paused.unwrap_or(false),
        replicas,
        strategy: strategy(spec, replicas)?,
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        deadline: spec.progress_deadline_seconds.and_then(limited),
        history_limit: spec
            .revision_history_limit
            .and_then(limited)
            .map(|limit| usize::try_from(limit).unwrap_or(0)),
        fingerprint: Fingerprint::of(&template),
        template,
        own,
        orphans,
        running,
        object,
    })
}

fn strategy(spec: &DeploymentSpec, replicas: i32) -> Result<Strategy, Invalid> {
    let strategy = spec.strategy.as_ref();
    match strategy.and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate") {
        "Recreate" => Ok(Strategy::Recreate),
        "RollingUpdate" => {
            let limits = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
            let none = IntOrString::Int(0);
            let surge = limits.and_then(|limits| limits.max_surge.as_ref()).unwrap_or(&none);
            let unavailable = limits.and_then(|limits| limits.max_unavailable.as_ref()).unwrap_or(&none);
            let max_surge = scaled(surge, replicas, Rounding::Up)
                .map_err(|invalid| Invalid::Strategy("maxSurge", invalid))?;
            let mut max_unavailable = scaled(unavailable, replicas, Rounding::Down)
                .map_err(|invalid| Invalid::Strategy("maxUnavailable", invalid))?;
            // Shares may both round to zero, and then nothing could ever move.
            if max_surge == 0 && max_unavailable == 0 {
                max_unavailable = 1;
            }
            Ok(Strategy::RollingUpdate { max_surge, max_unavailable: max_unavailable.min(replicas) })
        }
        other => Err(Invalid::UnknownStrategy(other.to_owned())),
    }
}

impl ValidatedDeployment {
    /// How many pods there may be more than asked for.
    pub fn max_surge(&self) -> i32 {
        match self.strategy {
            Strategy::Recreate => 0,
            Strategy::RollingUpdate { max_surge, .. } => max_surge,
        }
    }

    /// How many fewer may be available than asked for.
    pub fn max_unavailable(&self) -> i32 {
        match self.strategy {
            Strategy::Recreate => 0,
            Strategy::RollingUpdate { max_unavailable, .. } => max_unavailable,
        }
    }
}
