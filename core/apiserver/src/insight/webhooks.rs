//! Metrics of admission webhooks, under upstream's names.

use std::time::Duration;

use keelson_metrics::{HistogramVec, IntCounterVec, RegistryError};

use crate::admission::Operation;

const DURATIONS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
/// Larger codes are counted as this one: the answer is the webhook's choice, the number of metrics is not.
const LARGEST_CODE: u16 = 600;

/// The two kinds of webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// They may change the object.
    Mutating,
    /// They may refuse it.
    Validating,
}

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It lets the write pass.
    Allowed,
    /// It says no, with this code.
    Denied(u16),
    /// It could not be asked, which is no obstacle.
    FailedOpen,
    /// It could not be asked, and the write fails.
    Failed,
}

/// What is known of a webhook when it is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its kind.
    pub phase: Phase,
    /// What it is asked about.
    pub operation: Operation,
}

/// The metrics.
pub struct Webhooks {
    durations: HistogramVec,
    requests: IntCounterVec,
    rejections: IntCounterVec,
    failed_open: IntCounterVec,
}

impl Phase {
    fn label(self) -> &'static str {
        match self {
            Phase::Mutating => "admit",
            Phase::Validating => "validating",
        }
    }
}

impl Webhooks {
    /// Makes the metrics.
    pub fn new(registry: &keelson_metrics::Registry) -> Result<Self, RegistryError> {
        Ok(Webhooks {
            durations: registry.histograms(
                "apiserver_admission_webhook_admission_duration_seconds",
                "Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
                &["name", "type", "operation", "rejected"],
                &DURATIONS,
            )?,
            requests: registry.counters(
                "apiserver_admission_webhook_request_total",
                "Admission webhook request total, identified by name and broken out for each admission type (validating or mutating) and operation. Additional labels specify whether the request was rejected or not and an HTTP status code. Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
                &["name", "type", "operation", "code", "rejected"],
            )?,
            rejections: registry.counters(
                "apiserver_admission_webhook_rejection_count",
                "Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify an error type (calling_webhook_error or apiserver_internal_error if an error occurred; no_error otherwise) and optionally a non-zero rejection code if the webhook rejects the request with an HTTP status code (honored by the apiserver when the code is greater or equal to 400). Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
                &["name", "type", "operation", "error_type", "rejection_code"],
            )?,
            failed_open: registry.counters(
                "apiserver_admission_webhook_fail_open_count",
                "Admission webhook fail open count, identified by name and broken out for each admission type (validating or mutating).",
                &["name", "type"],
            )?,
        })
    }

    /// Counts a question that has ended.
    pub fn asked(&self, what: Asked<'_>, ending: Ending, elapsed: Duration) {
        let (name, phase, operation) = (what.name, what.phase.label(), what.operation.as_str());
        let (rejected, code) = match ending {
            Ending::Allowed => ("false", 200),
            Ending::Denied(code) => ("true", code.min(LARGEST_CODE)),
            Ending::FailedOpen => ("false", 0),
            Ending::Failed => ("true", 0),
        };
        let code = code.to_string();
        self.durations.with_label_values(&[name, phase, operation, rejected]).observe(elapsed.as_secs_f64());
        self.requests.with_label_values(&[name, phase, operation, &code, rejected]).inc();
        let error = match ending {
            Ending::Allowed => return,
            Ending::FailedOpen => return self.failed_open.with_label_values(&[name, phase]).inc(),
            Ending::Denied(_) => "no_error",
            Ending::Failed => "calling_webhook_error",
        };
        self.rejections.with_label_values(&[name, phase, operation, error, &code]).inc();
    }
}
