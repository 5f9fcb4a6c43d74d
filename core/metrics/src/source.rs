//! Metrics that are computed when they are asked for.

use std::fmt;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::RegistryError;

/// The values of a metric's labels, in their order, and its value.
pub type Sample = (Vec<String>, f64);

/// A metric whose values are asked for at each scrape.
pub struct Source {
    description: Desc,
    kind: MetricType,
    read: Box<dyn Fn() -> Vec<Sample> + Send + Sync>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.description.fq_name).finish()
    }
}

impl Source {
    /// Values that grow and shrink.
    pub fn gauge(
        name: &str,
        help: &str,
        labels: &[&str],
        read: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
    ) -> Result<Self, RegistryError> {
        Self::new(MetricType::GAUGE, name, help, labels, Box::new(read))
    }

    /// Values that only grow.
    pub fn counter(
        name: &str,
        help: &str,
        labels: &[&str],
        read: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
    ) -> Result<Self, RegistryError> {
        Self::new(MetricType::COUNTER, name, help, labels, Box::new(read))
    }

    fn new(
        kind: MetricType,
        name: &str,
        help: &str,
        labels: &[&str],
        read: Box<dyn Fn() -> Vec<Sample> + Send + Sync>,
    ) -> Result<Self, RegistryError> {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let description = Desc::new(name.to_owned(), help.to_owned(), labels, Default::default())?;
        Ok(Source { description, kind, read })
    }

    fn metric(&self, (values, value): Sample) -> Metric {
        let mut metric = Metric::default();
        let names = self.description.variable_labels.iter();
        let pairs = names.zip(values).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.clone());
            pair.set_value(value);
            pair
        });
        metric.set_label(pairs.collect());
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    }
}

impl Collector for Source {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics: Vec<Metric> = (self.read)().into_iter().map(|sample| self.metric(sample)).collect();
        if metrics.is_empty() {
            return Vec::new();
        }
        let mut family = MetricFamily::default();
        family.set_name(self.description.fq_name.clone());
        family.set_help(self.description.help.clone());
        family.set_field_type(self.kind);
        family.set_metric(metrics);
        vec![family]
    }
}
