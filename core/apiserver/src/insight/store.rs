//! Times what is asked of the store.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use keelson_metrics::{Histogram, IntCounter, RegistryError};
use keelson_store::engine::HistoryError;
use keelson_store::{Alarm, Change, Entry, Precondition, Revision, Snapshot, Store, StoreError, Write};

const DURATIONS: [f64; 24] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0, 120.0,
];

/// A store whose work is timed. Its metric has upstream's name for requests to its own store, etcd.
pub struct Measured {
    inner: Arc<dyn Store>,
    create: Operation,
    update: Operation,
    delete: Operation,
    barrier: Operation,
}

/// What is counted of one kind of work.
struct Operation {
    duration: Histogram,
    requests: IntCounter,
    errors: IntCounter,
}

impl Operation {
    fn count<T>(&self, began: Instant, outcome: &Result<T, StoreError>) {
        self.duration.observe(began.elapsed().as_secs_f64());
        self.requests.inc();
        // To be refused is an answer.
        if !matches!(outcome, Ok(_) | Err(StoreError::Refused(_))) {
            self.errors.inc();
        }
    }
}

impl Measured {
    /// Times a store.
    pub fn new(inner: Arc<dyn Store>, registry: &keelson_metrics::Registry) -> Result<Self, RegistryError> {
        let durations = registry.histograms(
            "etcd_request_duration_seconds",
            "Etcd request latency in seconds for each operation and object type.",
            &["operation"],
            &DURATIONS,
        )?;
        let requests = registry.counters(
            "etcd_requests_total",
            "Etcd request counts for each operation and object type.",
            &["operation"],
        )?;
        let errors = registry.counters(
            "etcd_request_errors_total",
            "Etcd failed request counts for each operation and object type.",
            &["operation"],
        )?;
        let of = |operation: &str| Operation {
            duration: durations.with_label_values(&[operation]),
            requests: requests.with_label_values(&[operation]),
            errors: errors.with_label_values(&[operation]),
        };
        let (create, update, delete, barrier) = (of("create"), of("update"), of("delete"), of("barrier"));
        Ok(Measured { inner, create, update, delete, barrier })
    }
}

#[async_trait]
impl Store for Measured {
    async fn write(&self, write: Write) -> Result<Entry, StoreError> {
        let operation = match (&write.change, &write.precondition) {
            (Change::Put(_), Precondition::Absent | Precondition::AbsentBeside { .. }) => &self.create,
            (Change::Put(_), _) => &self.update,
            (Change::Delete(_), _) => &self.delete,
        };
        let began = Instant::now();
        let outcome = self.inner.write(write).await;
        operation.count(began, &outcome);
        outcome
    }

    async fn barrier(&self) -> Result<Revision, StoreError> {
        let began = Instant::now();
        let outcome = self.inner.barrier().await;
        self.barrier.count(began, &outcome);
        outcome
    }

    fn is_sole(&self) -> bool {
        self.inner.is_sole()
    }

    fn snapshot(&self) -> Snapshot {
        self.inner.snapshot()
    }

    fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, HistoryError> {
        self.inner.snapshot_at(revision)
    }

    async fn alarms(&self) -> Vec<Alarm> {
        self.inner.alarms().await
    }

    async fn defragment(&self) -> Result<(), StoreError> {
        self.inner.defragment().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
