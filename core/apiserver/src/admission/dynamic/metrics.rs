//! Metrics of admission policies.

use std::time::Duration;

use keelson_metrics::{HistogramVec, IntCounterVec, Registry, RegistryError};

const BUCKETS: [f64; 5] = [0.000_000_5, 0.001, 0.01, 0.1, 1.0];

/// How an expression failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It gave no value that could be used.
    Invalid,
    /// It cost too much.
    OutOfBudget,
}

impl Failure {
    fn label(failure: Option<Failure>) -> &'static str {
        match failure {
            None => "no_error",
            Some(Failure::Invalid) => "invalid_error",
            Some(Failure::OutOfBudget) => "out_of_budget",
        }
    }
}

/// How often and how long expressions of policies of one kind are evaluated.
#[derive(Clone)]
pub struct PolicyMetrics {
    checks: IntCounterVec,
    durations: HistogramVec,
}

impl PolicyMetrics {
    /// Registers those of policies that change objects.
    pub fn mutating(registry: &Registry) -> Result<Self, RegistryError> {
        let labels = ["policy", "policy_binding", "error_type"];
        Ok(PolicyMetrics {
            checks: registry.counters(
                "apiserver_mutating_admission_policy_check_total",
                "Mutation admission policy check total, labeled by policy and further identified by binding.",
                &labels,
            )?,
            durations: registry.histograms(
                "apiserver_mutating_admission_policy_check_duration_seconds",
                "Mutation admission latency for individual mutation expressions in seconds, labeled by policy and binding.",
                &labels,
                &BUCKETS,
            )?,
        })
    }

    /// Registers those of policies that refuse.
    pub fn validating(registry: &Registry) -> Result<Self, RegistryError> {
        let labels = ["policy", "policy_binding", "error_type", "enforcement_action"];
        Ok(PolicyMetrics {
            checks: registry.counters(
                "apiserver_validating_admission_policy_check_total",
                "Validation admission policy check total, labeled by policy and further identified by binding and enforcement action taken.",
                &labels,
            )?,
            durations: registry.histograms(
                "apiserver_validating_admission_policy_check_duration_seconds",
                "Validation admission latency for individual validation expressions in seconds, labeled by policy and further including binding and enforcement action taken.",
                &labels,
                &BUCKETS,
            )?,
        })
    }

    /// Counts the evaluation of a mutation.
    pub fn mutated(&self, policy: &str, binding: &str, failure: Option<Failure>, took: Duration) {
        self.count(&[policy, binding, Failure::label(failure)], took);
    }

    /// Counts that a validation does not hold, and what follows: `deny`, `warn`, `audit`, or `allow` where its failure is
    /// ignored.
    pub fn enforced(
        &self,
        policy: &str,
        binding: &str,
        failure: Option<Failure>,
        action: &str,
        took: Duration,
    ) {
        self.count(&[policy, binding, Failure::label(failure), action], took);
    }

    fn count(&self, labels: &[&str], took: Duration) {
        self.checks.with_label_values(labels).inc();
        self.durations.with_label_values(labels).observe(took.as_secs_f64());
    }
}
