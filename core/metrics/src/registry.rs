//! Holds the metrics of a server.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts};

use crate::Format;

/// Why a metric cannot be made: its name is taken or malformed.
#[derive(Debug, thiserror::Error)]
#[error("register a metric")]
pub struct RegistryError(#[from] prometheus::Error);

/// A set of metrics. Copies share it.
#[derive(Clone, Debug, Default)]
pub struct Registry(prometheus::Registry);

impl Registry {
    /// Adds metrics that were made elsewhere.
    pub fn add(&self, metrics: impl Collector + 'static) -> Result<(), RegistryError> {
        Ok(self.0.register(Box::new(metrics))?)
    }

    /// Counters that only grow. The name ends in `_total`.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, RegistryError> {
        let made = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.add(made.clone())?;
        Ok(made)
    }

    /// Values that grow and shrink.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, RegistryError> {
        let made = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.add(made.clone())?;
        Ok(made)
    }

    /// Values with fractions that grow and shrink.
    pub fn floats(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, RegistryError> {
        let made = GaugeVec::new(Opts::new(name, help), labels)?;
        self.add(made.clone())?;
        Ok(made)
    }

    /// Distributions. `buckets` are their upper bounds, growing.
    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, RegistryError> {
        let made = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
        self.add(made.clone())?;
        Ok(made)
    }

    /// What there is now, by name.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.0.gather()
    }

    /// What there is now, as text.
    pub fn expose(&self, format: Format) -> String {
        format.encode(&self.gather())
    }
}
