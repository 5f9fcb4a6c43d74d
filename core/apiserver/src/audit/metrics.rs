//! What is counted of auditing, under upstream's names.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use keelson_api::audit::Level;
use keelson_metrics::{IntCounter, IntCounterVec, RegistryError};

/// Failures are told this often, in seconds: a dead webhook would fill the server's own log.
const PAUSE: u64 = 10;

/// The counters. Copies share them.
#[derive(Clone)]
pub(super) struct Metrics {
    pub(super) events: IntCounter,
    pub(super) rejected: IntCounter,
    levels: [IntCounter; 4],
    errors: IntCounterVec,
}

/// Counts and tells the failures of one part of the way of events.
pub(super) struct Failures {
    plugin: &'static str,
    count: IntCounter,
    began: Instant,
    told: AtomicU64,
}

impl Metrics {
    pub(super) fn new(registry: &keelson_metrics::Registry) -> Result<Self, RegistryError> {
        let one = |name: &str, help: &str| {
            registry.counters(name, help, &[]).map(|made| made.with_label_values::<&str>(&[]))
        };
        let levels = registry.counters(
            "apiserver_audit_level_total",
            "Counter of policy levels for audit events (1 per request).",
            &["level"],
        )?;
        Ok(Metrics {
            events: one(
                "apiserver_audit_event_total",
                "Counter of audit events generated and sent to the audit backend.",
            )?,
            rejected: one(
                "apiserver_audit_requests_rejected_total",
                "Counter of apiserver requests rejected due to an error in audit logging backend.",
            )?,
            levels: [Level::None, Level::Metadata, Level::Request, Level::RequestResponse]
                .map(|level| levels.with_label_values(&[level.name()])),
            errors: registry.counters(
                "apiserver_audit_error_total",
                "Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.",
                &["plugin"],
            )?,
        })
    }

    /// Counts a request by what the policy says of it.
    pub(super) fn level(&self, level: Level) {
        self.levels[level as usize].inc();
    }

    /// What counts the failures of a part.
    pub(super) fn failures(&self, plugin: &'static str) -> Failures {
        let count = self.errors.with_label_values(&[plugin]);
        Failures { plugin, count, began: Instant::now(), told: AtomicU64::new(0) }
    }
}

impl Failures {
    /// Counts events that were not recorded, and says so from time to time. The events themselves are not told: they
    /// are not for everybody who reads the server's log.
    pub(super) fn add(&self, events: usize, why: &dyn std::fmt::Display) {
        self.count.inc_by(events as u64);
        let now = self.began.elapsed().as_secs() + 1;
        let told = self.told.load(Ordering::Relaxed);
        let is_due = told == 0 || now >= told + PAUSE;
        if is_due && self.told.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::error!(
                plugin = self.plugin,
                events,
                failed = self.count.get(),
                error = %why,
                "audit events were not recorded"
            );
        }
    }
}
