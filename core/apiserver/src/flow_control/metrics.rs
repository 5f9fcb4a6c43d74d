//! What is told of priority and fairness, with upstream's names.

use keelson_metrics::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, RegistryError,
};

use super::allocation::Bounds;

const DURATIONS: [f64; 14] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0];
const LENGTHS: [f64; 8] = [0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
const SEATS: [f64; 4] = [1.0, 2.0, 4.0, 10.0];
const FLOW: [&str; 2] = ["priority_level", "flow_schema"];

/// All metrics.
pub struct Metrics {
    rejected: IntCounterVec,
    dispatched: IntCounterVec,
    waiting: IntGaugeVec,
    executing: IntGaugeVec,
    in_use: IntGaugeVec,
    wait: HistogramVec,
    execution: HistogramVec,
    length: HistogramVec,
    width: HistogramVec,
    nominal: IntGaugeVec,
    lower: IntGaugeVec,
    upper: IntGaugeVec,
    current: IntGaugeVec,
    high: GaugeVec,
    smoothed: GaugeVec,
}

/// Those of a level.
pub struct LevelMetrics {
    nominal: IntGauge,
    lower: IntGauge,
    upper: IntGauge,
    current: IntGauge,
    high: Gauge,
    smoothed: Gauge,
}

/// Those of a schema's requests at a level.
pub struct FlowMetrics {
    /// Requests that were started.
    pub dispatched: IntCounter,
    /// Requests that wait.
    pub waiting: IntGauge,
    /// Requests that are served.
    pub executing: IntGauge,
    /// Seats that they take.
    pub in_use: IntGauge,
    /// How long those that were started had waited.
    pub waited: Histogram,
    /// How long they took.
    pub execution: Histogram,
    /// How long the queue was for those that had to wait.
    pub length: Histogram,
    /// The seats that they take.
    pub width: Histogram,
    rejected: IntCounterVec,
    level: String,
    schema: String,
}

impl Metrics {
    /// Makes the metrics.
    pub fn new(registry: &keelson_metrics::Registry) -> Result<Self, RegistryError> {
        let name = |name: &str| format!("apiserver_flowcontrol_{name}");
        let level = |of: &str, help: &str| registry.gauges(&name(of), help, &["priority_level"]);
        let flow = |of: &str, help: &str| registry.gauges(&name(of), help, &FLOW);
        let float = |of: &str, help: &str| registry.floats(&name(of), help, &["priority_level"]);
        Ok(Metrics {
            rejected: registry.counters(
                &name("rejected_requests_total"),
                "Number of requests rejected by API Priority and Fairness subsystem",
                &["priority_level", "flow_schema", "reason"],
            )?,
            dispatched: registry.counters(
                &name("dispatched_requests_total"),
                "Number of requests executed by API Priority and Fairness subsystem",
                &FLOW,
            )?,
            waiting: flow(
                "current_inqueue_requests",
                "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
            )?,
            executing: flow(
                "current_executing_requests",
                "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
            )?,
            in_use: flow(
                "current_executing_seats",
                "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
            )?,
            wait: registry.histograms(
                &name("request_wait_duration_seconds"),
                "Length of time a request spent waiting in its queue",
                &["priority_level", "flow_schema", "execute"],
                &DURATIONS,
            )?,
            execution: registry.histograms(
                &name("request_execution_seconds"),
                "Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem",
                &FLOW,
                &DURATIONS,
            )?,
            length: registry.histograms(
                &name("request_queue_length_after_enqueue"),
                "Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued",
                &FLOW,
                &LENGTHS,
            )?,
            width: registry.histograms(
                &name("work_estimated_seats"),
                "Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness",
                &FLOW,
                &SEATS,
            )?,
            nominal: level("nominal_limit_seats", "Nominal number of execution seats configured for each priority level")?,
            lower: level("lower_limit_seats", "Configured lower bound on number of execution seats available to each priority level")?,
            upper: level("upper_limit_seats", "Configured upper bound on number of execution seats available to each priority level")?,
            current: level("current_limit_seats", "current derived number of execution seats available to each priority level")?,
            high: float("demand_seats_high_watermark", "High watermark, over last adjustment period, of demand_seats")?,
            smoothed: float("demand_seats_smoothed", "Smoothed seat demands")?,
        })
    }

    /// Those of a level.
    pub fn level(&self, name: &str) -> LevelMetrics {
        let of = |metrics: &IntGaugeVec| metrics.with_label_values(&[name]);
        LevelMetrics {
            nominal: of(&self.nominal),
            lower: of(&self.lower),
            upper: of(&self.upper),
            current: of(&self.current),
            high: self.high.with_label_values(&[name]),
            smoothed: self.smoothed.with_label_values(&[name]),
        }
    }

    /// Those of a schema at a level.
    pub fn flow(&self, level: &str, schema: &str) -> FlowMetrics {
        let labels = [level, schema];
        FlowMetrics {
            dispatched: self.dispatched.with_label_values(&labels),
            waiting: self.waiting.with_label_values(&labels),
            executing: self.executing.with_label_values(&labels),
            in_use: self.in_use.with_label_values(&labels),
            waited: self.wait.with_label_values(&[level, schema, "true"]),
            execution: self.execution.with_label_values(&labels),
            length: self.length.with_label_values(&labels),
            width: self.width.with_label_values(&labels),
            rejected: self.rejected.clone(),
            level: level.to_owned(),
            schema: schema.to_owned(),
        }
    }
}

impl LevelMetrics {
    /// The bounds of its seats.
    pub fn bounds(&self, bounds: Bounds) {
        self.nominal.set(bounds.nominal.into());
        self.lower.set(bounds.least.into());
        self.upper.set(bounds.most.into());
    }

    /// Its seats.
    pub fn limit(&self, limit: u32) {
        self.current.set(limit.into());
    }

    /// The seats that were wanted.
    pub fn demand(&self, high: f64, smoothed: f64) {
        self.high.set(high);
        self.smoothed.set(smoothed);
    }
}

impl FlowMetrics {
    /// A request was refused.
    pub fn rejected(&self, reason: &str) {
        self.rejected.with_label_values(&[&self.level, &self.schema, reason]).inc();
    }
}
