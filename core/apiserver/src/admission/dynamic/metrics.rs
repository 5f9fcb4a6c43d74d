//! Metrics of mutating policies.

use std::time::Duration;

use keelson_metrics::{HistogramVec, IntCounterVec, Registry, RegistryError};

const BUCKETS: [f64; 5] = [0.000_000_5, 0.001, 0.01, 0.1, 1.0];
const LABELS: [&str; 3] = ["policy", "policy_binding", "error_type"];

/// How an expression failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It gave no value that could be used.
    Invalid,
    /// It cost too much.
    OutOfBudget,
}

/// How often and how long expressions of policies are evaluated.
#[derive(Clone)]
pub struct PolicyMetrics {
    checks: IntCounterVec,
    durations: HistogramVec,
}

impl PolicyMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Result<Self, RegistryError> {
        Ok(PolicyMetrics {
            checks: registry.counters(
                "apiserver_mutating_admission_policy_check_total",
                "Mutation admission policy check total, labeled by policy and further identified by binding.",
                &LABELS,
            )?,
            durations: registry.histograms(
                "apiserver_mutating_admission_policy_check_duration_seconds",
                "Mutation admission latency for individual mutation expressions in seconds, labeled by policy and binding.",
                &LABELS,
                &BUCKETS,
            )?,
        })
    }

    /// Counts the evaluation of one expression.
    pub fn count(&self, policy: &str, binding: &str, failure: Option<Failure>, took: Duration) {
        let kind = match failure {
            None => "no_error",
            Some(Failure::Invalid) => "invalid_error",
            Some(Failure::OutOfBudget) => "out_of_budget",
        };
        let labels = [policy, binding, kind];
        self.checks.with_label_values(&labels).inc();
        self.durations.with_label_values(&labels).observe(took.as_secs_f64());
    }
}
