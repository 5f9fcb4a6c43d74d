//! What a server counts, and how that is told: a registry of metrics and its two text formats.
//!
//! A crate that has something to count takes a [`Registry`] in its configuration, makes its metrics once and keeps the
//! handles: counting is then an atomic addition.
//!
//! ```
//! let registry = keelson_metrics::Registry::default();
//! let writes = registry.counters("keelson_store_writes_total", "Writes by outcome.", &["outcome"])?;
//! let made = writes.with_label_values(&["made"]);
//! made.inc();
//! // What is known only when somebody asks is a `Source`: it is called for each scrape.
//! registry.add(keelson_metrics::Source::gauge("keelson_store_bytes", "The size of the log.", &[], || {
//!     vec![(Vec::new(), 4096.0)]
//! })?)?;
//! # Ok::<(), keelson_metrics::RegistryError>(())
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | [`registry`] | holds the metrics |
//! | [`source`] | metrics that are computed when they are asked for |
//! | [`family`] | metrics that are put together for one answer |
//! | [`exposition`] | the Prometheus text format 0.0.4 and OpenMetrics 1.0 |
//! | [`process`] | processor time, memory and files of this process |

pub mod exposition;
pub mod family;
pub mod process;
pub mod registry;
pub mod source;

pub use exposition::Format;
pub use family::Family;
pub use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};
pub use registry::{Registry, RegistryError};
pub use source::Source;
