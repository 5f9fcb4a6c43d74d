//! Priority and fairness: which of the requests are served first when there are more than the server can serve.
//!
//! A FlowSchema says which requests it is about, which priority level they belong to, and what tells its flows apart. Each
//! level has seats of its own, lends and borrows, and queues what finds no seat so that no flow is starved by another.
//! What is decided is pure: [`schema`] matches, [`dealer`] and [`queue_set`] queue, [`allocation`] shares seats out.
//! This module holds the clock, the locks (one for each level, held for some hundred instructions) and who waits.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName};
use keelson_api::Status;
use keelson_metrics::RegistryError;
use tokio::time::Instant;

use crate::http::Failure;
use crate::identity::{Identity, MASTERS};
use crate::insight::is_long_running;
use crate::registry::Registry;
use crate::request_info::RequestInfo;
use crate::server::Limits;

pub mod allocation;
pub mod controller;
pub mod dealer;
pub mod estimate;
pub mod level;
pub mod metrics;
pub mod queue_set;
pub mod schema;
mod turn;

use level::{Level, Waiting};
use metrics::{FlowMetrics, Metrics};
use queue_set::{Place, Refusal, Width};
use schema::FlowSchema;
pub use turn::{Turn, Waited};

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
/// Where the state of all levels can be read.
pub const DUMP: &str = "/debug/api_priority_and_fairness/dump_priority_levels";
const REFUSED: &str = "Too many requests, please try again later.";
/// How often seats are shared out anew while there are requests.
const PERIOD: Duration = Duration::from_secs(10);

/// Time since the server was started.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    fn now(self) -> Duration {
        self.0.elapsed()
    }
}

/// A schema with its level.
struct Flow {
    schema: FlowSchema,
    level: Arc<Level>,
    metrics: FlowMetrics,
    /// Begins the hash of its flows.
    seed: u64,
}

/// What is in force.
#[derive(Default)]
struct InForce {
    /// By precedence.
    flows: Vec<Arc<Flow>>,
    levels: Vec<Arc<Level>>,
}

/// Requests that are served, where there is no fairness but a limit.
#[derive(Default)]
struct Counts {
    reading: AtomicU32,
    writing: AtomicU32,
}

/// Decides when requests are served.
pub struct FlowControl {
    limits: Limits,
    clock: Clock,
    in_force: ArcSwap<InForce>,
    metrics: Metrics,
    counts: Counts,
    /// When seats are to be shared out anew, in milliseconds of the clock.
    next_sharing: AtomicU64,
    shared_at: AtomicU64,
}

impl FlowControl {
    /// Serves everything until schemas and levels are there.
    pub fn new(limits: &Limits, registry: &keelson_metrics::Registry) -> Result<Self, RegistryError> {
        Ok(FlowControl {
            limits: limits.clone(),
            clock: Clock(Instant::now()),
            in_force: ArcSwap::default(),
            metrics: Metrics::new(registry)?,
            counts: Counts::default(),
            next_sharing: AtomicU64::new(0),
            shared_at: AtomicU64::new(0),
        })
    }

    /// Whether requests are queued.
    pub fn is_fair(&self) -> bool {
        self.limits.enable_priority_and_fairness
    }

    /// Waits until it is the request's turn, or refuses it.
    pub async fn enter(
        self: &Arc<Self>,
        registry: &Registry,
        who: &Identity,
        info: &RequestInfo,
    ) -> Result<Turn, Box<Response>> {
        // What lasts takes no seat; a watch takes one until it has begun.
        if is_long_running(info) && info.verb != "watch" {
            return Ok(Turn::free());
        }
        if !self.is_fair() {
            return self.count(who, info);
        }
        let in_force = self.in_force.load();
        let Some(flow) = in_force.flows.iter().find(|flow| flow.schema.matches(who, info)) else {
            // Before the mandatory ones are there, nobody else is.
            return Ok(Turn::free());
        };
        let flow = Arc::clone(flow);
        drop(in_force);
        let width = if flow.level.is_exempt() {
            Width::ONE
        } else {
            estimate::width(registry, info, flow.level.limit())
        };
        let hash = flow.hash(who, info);
        let now = self.clock.now();
        self.share(now);
        match flow.level.arrive(now, hash, width) {
            level::Turn::Now(place) => Ok(Turn::of(self, flow, place, width, now, Duration::ZERO)),
            level::Turn::Refused(refusal) => Err(flow.refuse(match refusal {
                Refusal::ConcurrencyLimit => "concurrency-limit",
                Refusal::QueueFull => "queue-full",
            })),
            level::Turn::Later(place, started, length) => {
                #[allow(clippy::cast_precision_loss)]
                flow.metrics.length.observe(length as f64);
                let level = Arc::clone(&flow.level);
                let waiting = Waiting { level, place, started, clock: self.clock, is_over: false };
                self.wait(flow, waiting, width, now).await
            }
        }
    }

    async fn wait(
        self: &Arc<Self>,
        flow: Arc<Flow>,
        mut waiting: Waiting,
        width: Width,
        since: Duration,
    ) -> Result<Turn, Box<Response>> {
        let gauge = turn::Counted::new(&flow.metrics.waiting);
        let deadline = since + self.limits.request_timeout / 4;
        loop {
            let now = self.clock.now();
            if now >= deadline {
                drop((waiting, gauge));
                return Err(flow.refuse("time-out"));
            }
            let next = (deadline - now).min(PERIOD);
            match tokio::time::timeout(next, &mut waiting.started).await {
                Ok(Ok(place)) => {
                    waiting.is_over = true;
                    let now = self.clock.now();
                    let waited = now.saturating_sub(since);
                    return Ok(Turn::of(self, flow, Some(place), width, now, waited));
                }
                Ok(Err(_)) => {
                    waiting.is_over = true;
                    return Err(flow.refuse("cancelled"));
                }
                // Nobody may come or go meanwhile: then those who wait see to it that seats are lent.
                Err(_) => self.share(self.clock.now()),
            }
        }
    }

    /// Shares seats out anew, if it is time.
    fn share(&self, now: Duration) {
        let milliseconds = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let due = self.next_sharing.load(Ordering::Relaxed);
        if milliseconds < due {
            return;
        }
        let period = u64::try_from(PERIOD.as_millis()).unwrap_or(u64::MAX);
        let next = milliseconds + period;
        if self.next_sharing.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let passed = milliseconds - self.shared_at.swap(milliseconds, Ordering::Relaxed).min(milliseconds);
        let periods = i32::try_from((passed / period).clamp(1, 10_000)).unwrap_or(1);
        let in_force = self.in_force.load();
        let wanted: Vec<_> = in_force.levels.iter().map(|level| level.wanted(now, periods)).collect();
        for (level, limit) in in_force.levels.iter().zip(allocation::allocate(&wanted)) {
            if !level.is_exempt() {
                level.set_limit(now, limit);
            }
        }
    }

    /// Without fairness: refuses what is beyond the limits.
    fn count(self: &Arc<Self>, who: &Identity, info: &RequestInfo) -> Result<Turn, Box<Response>> {
        let reads = matches!(info.verb.as_str(), "get" | "list" | "watch" | "head" | "options");
        let limit = if reads {
            self.limits.max_requests_inflight
        } else {
            self.limits.max_mutating_requests_inflight
        };
        if limit == 0 || who.is_in(MASTERS) || is_long_running(info) {
            return Ok(Turn::free());
        }
        let count = self.counts.of(reads);
        if count.fetch_add(1, Ordering::Relaxed) >= limit {
            count.fetch_sub(1, Ordering::Relaxed);
            return Err(Box::new(Failure(Status::too_many_requests(REFUSED, 1)).into_response()));
        }
        Ok(Turn::counted(self, reads))
    }

    /// The lines of `/debug/api_priority_and_fairness/dump_priority_levels`.
    pub fn dump_levels(&self) -> String {
        let head = "PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing, WaitingRequests, ExecutingRequests, CurrentCL\n";
        let in_force = self.in_force.load();
        std::iter::once(head.to_owned()).chain(in_force.levels.iter().map(|level| level.line())).collect()
    }
}

/// Begins the hashes of a schema's flows.
fn seed(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Counts {
    fn of(&self, reads: bool) -> &AtomicU32 {
        if reads { &self.reading } else { &self.writing }
    }
}

impl Flow {
    fn hash(&self, who: &Identity, info: &RequestInfo) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        self.schema.distinguisher(who, info).hash(&mut hasher);
        hasher.finish()
    }

    fn mark(&self, headers: &mut HeaderMap) {
        headers.insert(SCHEMA_UID, self.schema.uid.clone());
        headers.insert(LEVEL_UID, self.level.uid.clone());
    }

    fn refuse(&self, reason: &str) -> Box<Response> {
        self.metrics.rejected(reason);
        let mut response = Failure(Status::too_many_requests(REFUSED, 1)).into_response();
        self.mark(response.headers_mut());
        Box::new(response)
    }
}
