//! Metrics of PodSecurity, under upstream's names.

use keelson_api::pod_security::LevelVersion;
use keelson_metrics::{IntCounterVec, RegistryError};

use crate::admission::{Attributes, Operation};

/// What a policy says of a pod, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is refused.
    Enforce,
    /// It is noted.
    Audit,
    /// Its writer is told.
    Warn,
}

/// The metrics. Copies share them.
#[derive(Clone, Debug)]
pub struct Evaluations {
    evaluations: IntCounterVec,
    exemptions: IntCounterVec,
    errors: IntCounterVec,
}

impl Mode {
    fn label(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Audit => "audit",
            Mode::Warn => "warn",
        }
    }
}

/// What was asked for, with the three names that upstream tells apart.
fn request<'a>(attributes: &Attributes<'a>) -> [&'a str; 3] {
    let operation = if attributes.operation == Operation::Create { "create" } else { "update" };
    let resource = match attributes.resource.plural.as_str() {
        "pods" => "pod",
        "namespaces" => "namespace",
        _ => "controller",
    };
    [operation, resource, attributes.subresource]
}

impl Evaluations {
    /// Makes the metrics.
    pub fn new(registry: &keelson_metrics::Registry) -> Result<Self, RegistryError> {
        Ok(Evaluations {
            evaluations: registry.counters(
                "pod_security_evaluations_total",
                "Number of policy evaluations that occurred, not counting ignored or exempt requests.",
                &[
                    "decision",
                    "policy_level",
                    "policy_version",
                    "mode",
                    "request_operation",
                    "resource",
                    "subresource",
                ],
            )?,
            exemptions: registry.counters(
                "pod_security_exemptions_total",
                "Number of exempt requests, not counting ignored or out of scope requests.",
                &["request_operation", "resource", "subresource"],
            )?,
            errors: registry.counters(
                "pod_security_errors_total",
                "Number of errors preventing normal evaluation. Non-fatal errors may result in the latest restricted profile being used for evaluation.",
                &["fatal", "request_operation", "resource", "subresource"],
            )?,
        })
    }

    /// Counts what a policy says.
    pub fn evaluated(&self, attributes: &Attributes<'_>, mode: Mode, policy: LevelVersion, allowed: bool) {
        let text = policy.to_string();
        let (level, version) = text.split_once(':').unwrap_or((text.as_str(), "latest"));
        let decision = if allowed { "allow" } else { "deny" };
        let [operation, resource, subresource] = request(attributes);
        let labels = [decision, level, version, mode.label(), operation, resource, subresource];
        self.evaluations.with_label_values(&labels).inc();
    }

    /// Counts a request that no policy is for.
    pub fn exempt(&self, attributes: &Attributes<'_>) {
        self.exemptions.with_label_values(&request(attributes)).inc();
    }

    /// Counts a policy that cannot be read, so that the strictest holds.
    pub fn unreadable(&self, attributes: &Attributes<'_>) {
        let [operation, resource, subresource] = request(attributes);
        self.errors.with_label_values(&["false", operation, resource, subresource]).inc();
    }
}
