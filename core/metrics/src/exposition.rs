//! Metrics as text: Prometheus' format 0.0.4 and OpenMetrics 1.0.

use std::fmt::Write as _;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0 (RFC draft, `application/openmetrics-text`).
    OpenMetrics,
}

impl Format {
    /// The format that an `Accept` header asks for: OpenMetrics where it is named with at least the weight of text.
    pub fn accepted(accept: &str) -> Self {
        let (mut open, mut text) = (0.0_f32, 0.0_f32);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse().ok());
            let weight: f32 = weight.unwrap_or(0.0);
            match kind {
                "application/openmetrics-text" => open = open.max(weight),
                "text/plain" | "text/*" => text = text.max(weight),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Format::OpenMetrics } else { Format::Text }
    }

    /// The media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
            Format::OpenMetrics => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
            }
        }
    }

    /// Writes families of metrics.
    pub fn encode(self, families: &[MetricFamily]) -> String {
        let mut out = String::with_capacity(64 << 10);
        for family in families {
            let name = match self {
                Format::OpenMetrics if family.get_field_type() == MetricType::COUNTER => {
                    family.name().strip_suffix("_total").unwrap_or(family.name())
                }
                Format::Text | Format::OpenMetrics => family.name(),
            };
            let kind = match family.get_field_type() {
                MetricType::COUNTER => "counter",
                MetricType::GAUGE => "gauge",
                MetricType::SUMMARY => "summary",
                MetricType::HISTOGRAM => "histogram",
                MetricType::UNTYPED if self == Format::Text => "untyped",
                MetricType::UNTYPED => "unknown",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(out, "# HELP {name} {}", escaped(family.help(), self == Format::OpenMetrics));
            let _ = writeln!(out, "# TYPE {name} {kind}");
            for metric in family.get_metric() {
                self.metric(&mut out, name, family.get_field_type(), metric);
            }
        }
        if self == Format::OpenMetrics {
            out.push_str("# EOF\n");
        }
        out
    }

    fn metric(self, out: &mut String, name: &str, kind: MetricType, metric: &Metric) {
        let labels = metric.get_label();
        // None of what registries gather has a time.
        let at = Some(metric.timestamp_ms()).filter(|at| *at != 0).map(|at| self.time(at));
        let at = at.as_deref().unwrap_or_default();
        match kind {
            MetricType::COUNTER => {
                let suffix = if self == Format::OpenMetrics { "_total" } else { "" };
                line(out, name, suffix, labels, None, metric.get_counter().get_value(), at);
            }
            MetricType::HISTOGRAM => {
                let histogram = metric.get_histogram();
                let count = count(histogram.get_sample_count());
                for bucket in histogram.get_bucket().iter().filter(|it| it.upper_bound().is_finite()) {
                    let bound = self.bound(bucket.upper_bound());
                    let below = self::count(bucket.cumulative_count());
                    line(out, name, "_bucket", labels, Some(("le", &bound)), below, at);
                }
                line(out, name, "_bucket", labels, Some(("le", "+Inf")), count, at);
                line(out, name, "_sum", labels, None, histogram.get_sample_sum(), at);
                line(out, name, "_count", labels, None, count, at);
            }
            MetricType::SUMMARY => {
                let summary = metric.get_summary();
                for quantile in summary.get_quantile() {
                    let part = quantile.quantile().to_string();
                    line(out, name, "", labels, Some(("quantile", &part)), quantile.value(), at);
                }
                line(out, name, "_sum", labels, None, summary.sample_sum(), at);
                line(out, name, "_count", labels, None, count(summary.sample_count()), at);
            }
            MetricType::GAUGE | MetricType::UNTYPED => {
                line(out, name, "", labels, None, metric.get_gauge().get_value(), at);
            }
        }
    }

    /// What follows a value: milliseconds, or seconds in OpenMetrics.
    #[allow(clippy::cast_precision_loss, reason = "53 bits of milliseconds last for many years")]
    fn time(self, milliseconds: i64) -> String {
        match self {
            Format::Text => format!(" {milliseconds}"),
            Format::OpenMetrics => format!(" {:?}", milliseconds as f64 / 1000.0),
        }
    }

    /// OpenMetrics wants bounds to look like floating-point numbers.
    fn bound(self, value: f64) -> String {
        match self {
            Format::Text => value.to_string(),
            Format::OpenMetrics => format!("{value:?}"),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "the formats know no other numbers")]
fn count(value: u64) -> f64 {
    value as f64
}

fn escaped(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

fn line(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &[LabelPair],
    last: Option<(&str, &str)>,
    value: f64,
    at: &str,
) {
    let _ = write!(out, "{name}{suffix}");
    let labels = labels.iter().map(|pair| (pair.name(), pair.value())).chain(last);
    let mut separator = '{';
    for (key, value) in labels {
        let _ = write!(out, "{separator}{key}=\"{}\"", escaped(value, true));
        separator = ',';
    }
    if separator == ',' {
        out.push('}');
    }
    let value = match value {
        value if value == f64::INFINITY => "+Inf".to_owned(),
        value if value == f64::NEG_INFINITY => "-Inf".to_owned(),
        value => value.to_string(),
    };
    let _ = writeln!(out, " {value}{at}");
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;
    use crate::Registry;

    fn registry() -> Registry {
        let registry = Registry::default();
        registry.counters("a_total", "Counts.", &["of"]).unwrap().with_label_values(&["x\"y"]).inc_by(3);
        let times = registry.histograms("b_seconds", "Takes.", &[], &[0.5, 1.0]).unwrap();
        times.with_label_values::<&str>(&[]).observe(0.7);
        registry
    }

    #[test]
    fn the_text_format_has_a_line_for_each_value() {
        let expected = "# HELP a_total Counts.\n# TYPE a_total counter\na_total{of=\"x\\\"y\"} 3\n\
            # HELP b_seconds Takes.\n# TYPE b_seconds histogram\nb_seconds_bucket{le=\"0.5\"} 0\n\
            b_seconds_bucket{le=\"1\"} 1\nb_seconds_bucket{le=\"+Inf\"} 1\nb_seconds_sum 0.7\nb_seconds_count 1\n";
        assert_eq!(registry().expose(Format::Text), expected);
    }

    #[test]
    fn open_metrics_names_counters_without_their_suffix_and_ends_with_a_mark() {
        let text = registry().expose(Format::OpenMetrics);
        assert!(text.contains("# TYPE a counter\na_total{of=\"x\\\"y\"} 3\n"), "{text}");
        assert!(text.contains("b_seconds_bucket{le=\"1.0\"} 1\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn the_format_is_the_one_that_is_asked_for() {
        assert_eq!(Format::accepted("*/*"), Format::Text);
        assert_eq!(Format::accepted(""), Format::Text);
        let scraper =
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(scraper), Format::OpenMetrics);
        assert_eq!(Format::accepted("text/plain, application/openmetrics-text;q=0.1"), Format::Text);
    }

    #[test]
    fn this_process_is_measured() {
        let registry = Registry::default();
        crate::process::register(&registry).unwrap();
        let names: Vec<String> = registry.gather().iter().map(|family| family.name().to_owned()).collect();
        assert!(names.iter().any(|name| name == "process_resident_memory_bytes"), "{names:?}");
        assert!(names.iter().any(|name| name == "process_cpu_seconds_total"), "{names:?}");
    }
}
