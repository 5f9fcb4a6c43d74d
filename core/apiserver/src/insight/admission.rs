//! Metrics of admission: each plugin, and all together.

use std::sync::OnceLock;
use std::time::Instant;

use keelson_metrics::{Histogram, HistogramVec, RegistryError};

use crate::admission::Operation;

const PLUGIN: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
/// The two halves of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Plugins may change the object.
    Admit,
    /// Plugins may refuse it.
    Validate,
}

/// One distribution for each operation, step and outcome, resolved when it is first needed.
#[derive(Default)]
struct Handles([OnceLock<Histogram>; 16]);

/// Metrics of admission.
pub struct Admissions {
    plugins: HistogramVec,
    steps: HistogramVec,
    by_plugin: Vec<(&'static str, Handles)>,
    whole: Handles,
}

/// One pass through admission.
pub struct Pass<'a> {
    metrics: &'a Admissions,
    step: Step,
    operation: Operation,
    began: Instant,
    last: Instant,
}

impl Handles {
    fn get(
        &self,
        name: Option<&str>,
        of: &HistogramVec,
        step: Step,
        operation: Operation,
        rejected: Rejected,
    ) -> &Histogram {
        let at = match operation {
            Operation::Create => 0,
            Operation::Update => 1,
            Operation::Delete => 2,
            Operation::Connect => 3,
        };
        let operation = operation.as_str();
        let (half, step) = if step == Step::Admit { (0, "admit") } else { (1, "validate") };
        let (last, rejected) = if rejected == Rejected::Yes { (1, "true") } else { (0, "false") };
        self.0[at * 4 + half * 2 + last].get_or_init(|| match name {
            Some(name) => of.with_label_values(&[name, step, operation, rejected]),
            None => of.with_label_values(&[step, operation, rejected]),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rejected {
    Yes,
    No,
}

impl Admissions {
    /// Makes the metrics for plugins of the given names, in their order.
    pub fn new(
        registry: &keelson_metrics::Registry,
        plugins: impl IntoIterator<Item = &'static str>,
    ) -> Result<Self, RegistryError> {
        Ok(Admissions {
            plugins: registry.histograms(
                "apiserver_admission_controller_admission_duration_seconds",
                "Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
                &["name", "type", "operation", "rejected"],
                &PLUGIN,
            )?,
            steps: registry.histograms(
                "apiserver_admission_step_admission_duration_seconds",
                "Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
                &["type", "operation", "rejected"],
                &PLUGIN,
            )?,
            by_plugin: plugins.into_iter().map(|name| (name, Handles::default())).collect(),
            whole: Handles::default(),
        })
    }

    /// Begins a pass through all plugins.
    pub fn begin(&self, step: Step, operation: Operation) -> Pass<'_> {
        let now = Instant::now();
        Pass { metrics: self, step, operation, began: now, last: now }
    }
}

impl Pass<'_> {
    fn observe(&self, plugin: Option<usize>, since: Instant, now: Instant, rejected: Rejected) {
        let all = self.metrics;
        let (name, of, handles) = match plugin {
            None => (None, &all.steps, &all.whole),
            Some(at) => match all.by_plugin.get(at) {
                Some((name, handles)) => (Some(*name), &all.plugins, handles),
                None => return,
            },
        };
        handles.get(name, of, self.step, self.operation, rejected).observe((now - since).as_secs_f64());
    }

    /// The plugin of that place has had its say.
    pub fn passed<T, E>(&mut self, plugin: usize, outcome: &Result<T, E>) {
        let now = Instant::now();
        let rejected = if outcome.is_err() { Rejected::Yes } else { Rejected::No };
        self.observe(Some(plugin), self.last, now, rejected);
        self.last = now;
        if rejected == Rejected::Yes {
            self.observe(None, self.began, now, rejected);
        }
    }

    /// No plugin had anything against it.
    pub fn admitted(self) {
        self.observe(None, self.began, Instant::now(), Rejected::No);
    }
}
