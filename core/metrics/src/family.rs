//! A metric whose values are put together for one answer.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// A metric with its values, of which each has labels of its own and perhaps the time at which it was true.
#[derive(Clone, Debug)]
pub struct Family(MetricFamily);

impl Family {
    /// Values that grow and shrink.
    pub fn gauge(name: &str, help: &str) -> Self {
        Self::new(MetricType::GAUGE, name, help)
    }

    /// Values that only grow.
    pub fn counter(name: &str, help: &str) -> Self {
        Self::new(MetricType::COUNTER, name, help)
    }

    fn new(kind: MetricType, name: &str, help: &str) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Family(family)
    }

    /// Adds a value; `at` in milliseconds since 1970.
    pub fn push<'a>(
        &mut self,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: f64,
        at: Option<i64>,
    ) {
        let pair = |(name, value): (&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        };
        let mut metric = Metric::default();
        metric.set_label(labels.into_iter().map(pair).collect());
        if self.0.get_field_type() == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        if let Some(at) = at {
            metric.set_timestamp_ms(at);
        }
        self.0.mut_metric().push(metric);
    }

    /// What a registry gathers; `None` without a value.
    pub fn into_proto(self) -> Option<MetricFamily> {
        (!self.0.get_metric().is_empty()).then_some(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;

    #[test]
    fn a_value_may_say_when_it_was_true() {
        let mut family = Family::counter("a_total", "Counts.");
        family.push([("of", "x")], 2.5, Some(1500));
        family.push([("of", "y")], 1.0, None);
        assert!(Family::gauge("b", "None.").into_proto().is_none());
        let families = [family.into_proto().unwrap()];
        let text = Format::Text.encode(&families);
        assert_eq!(
            text,
            "# HELP a_total Counts.\n# TYPE a_total counter\na_total{of=\"x\"} 2.5 1500\na_total{of=\"y\"} 1\n"
        );
        assert!(Format::OpenMetrics.encode(&families).contains("a_total{of=\"x\"} 2.5 1.5\n"));
    }
}
