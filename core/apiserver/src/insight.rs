//! What the server tells of itself: metrics, health, and the trace of a request.
//!
//! Everything that is counted per request is resolved once for each kind of request and kept: a request costs a lookup
//! without a lock and some atomic additions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, Method, Request};
use http_body::Body as _;
use keelson_metrics::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, RegistryError};

use keelson_api::{Status, duration};

use crate::authorization::Decision;
use crate::flow_control::Waited;
use crate::http::ApiState;
use crate::identity::Identity;
use crate::registry::Registry;
use crate::request_info::RequestInfo;

pub mod admission;
pub mod components;
pub mod health;
pub mod long_running;
pub mod objects;
pub mod paths;
pub mod pod_security;
pub mod requests;
pub mod store;
pub mod trace;
pub mod webhooks;

pub use health::Health;
use long_running::LongRunning;
use requests::{Requests, Series};
use trace::Trace;

/// The longest time that a short request may take unnoticed.
const SLOW: Duration = Duration::from_millis(500);
const DECISIONS: [f64; 15] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];
/// From nothing over half an hour to a year.
const LIFETIMES: [f64; 15] = [
    0.0,
    1800.0,
    3600.0,
    7200.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    345_600.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
    31_536_000.0,
];

/// Requests by the decision of a part of the server: how many, and how long it took.
#[derive(Debug)]
struct Outcome {
    count: IntCounter,
    duration: Histogram,
}

impl Outcome {
    fn new(label: &str, counts: &IntCounterVec, durations: &HistogramVec) -> Self {
        Outcome { count: counts.with_label_values(&[label]), duration: durations.with_label_values(&[label]) }
    }

    fn add(&self, elapsed: Duration) {
        self.count.inc();
        self.duration.observe(elapsed.as_secs_f64());
    }
}

/// Who asks is known, or not.
#[derive(Debug)]
struct Authentications {
    success: Outcome,
    failure: Outcome,
}

/// What the authorizers say.
#[derive(Debug)]
struct Authorizations {
    allowed: Outcome,
    denied: Outcome,
    no_opinion: Outcome,
}

/// Counts as one until it is dropped: also when a caller has gone before its answer was there.
struct InFlight(IntGauge);

impl InFlight {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        InFlight(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What the server tells of itself.
pub struct Insight {
    /// All metrics.
    pub registry: keelson_metrics::Registry,
    /// What makes the server alive and ready.
    pub health: Health,
    /// What runs beside it.
    pub components: Arc<components::Components>,
    requests: Requests,
    reading: IntGauge,
    writing: IntGauge,
    authentication: Authentications,
    authorization: Authorizations,
    certificates: Histogram,
    users: IntCounterVec,
    handshakes: IntCounter,
    /// Tells streams to end.
    stop: tokio_util::sync::CancellationToken,
}

/// One request, from its beginning to its answer.
pub struct Call {
    series: Option<Arc<Series>>,
    began: Instant,
    is_long_running: bool,
    _in_flight: Option<InFlight>,
    /// What it is known by.
    pub trace: Trace,
}

impl Insight {
    /// Makes the metrics.
    pub fn new(
        registry: keelson_metrics::Registry,
        git_version: &str,
        stop: tokio_util::sync::CancellationToken,
    ) -> Result<Self, RegistryError> {
        keelson_metrics::process::register(&registry)?;
        trace::register_build(&registry, git_version)?;
        let inflight = registry.gauges(
            "apiserver_current_inflight_requests",
            "Number of currently used inflight request limit of this apiserver per request kind.",
            &["request_kind"],
        )?;
        let attempts = registry.counters(
            "authentication_attempts",
            "Counter of authenticated attempts.",
            &["result"],
        )?;
        let authenticating = registry.histograms(
            "authentication_duration_seconds",
            "Authentication duration in seconds broken out by result.",
            &["result"],
            &DECISIONS,
        )?;
        let decisions = registry.counters(
            "authorization_attempts_total",
            "Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.",
            &["result"],
        )?;
        let authorizing = registry.histograms(
            "authorization_duration_seconds",
            "Authorization duration in seconds broken out by result.",
            &["result"],
            &DECISIONS,
        )?;
        let certificates = registry.histograms(
            "apiserver_client_certificate_expiration_seconds",
            "Distribution of the remaining lifetime on the certificate used to authenticate a request.",
            &[],
            &LIFETIMES,
        )?;
        let handshakes = registry.counters(
            "apiserver_tls_handshake_errors_total",
            "Number of requests dropped with 'TLS handshake error from' error",
            &[],
        )?;
        Ok(Insight {
            health: Health::new(&registry)?,
            components: Arc::default(),
            requests: Requests::new(&registry)?,
            reading: inflight.with_label_values(&["readOnly"]),
            writing: inflight.with_label_values(&["mutating"]),
            authentication: Authentications {
                success: Outcome::new("success", &attempts, &authenticating),
                failure: Outcome::new("failure", &attempts, &authenticating),
            },
            authorization: Authorizations {
                allowed: Outcome::new("allowed", &decisions, &authorizing),
                denied: Outcome::new("denied", &decisions, &authorizing),
                no_opinion: Outcome::new("no-opinion", &decisions, &authorizing),
            },
            certificates: certificates.with_label_values::<&str>(&[]),
            users: registry.counters(
                "authenticated_user_requests",
                "Counter of authenticated requests broken out by username.",
                &["username"],
            )?,
            handshakes: handshakes.with_label_values::<&str>(&[]),
            registry,
            stop,
        })
    }

    /// Counts an attempt to say who one is.
    pub fn authenticated(&self, who: Result<&Identity, &Status>, elapsed: Duration) {
        match who {
            Ok(identity) => {
                self.authentication.success.add(elapsed);
                self.users.with_label_values(&[user_class(&identity.username)]).inc();
            }
            Err(_) => self.authentication.failure.add(elapsed),
        }
    }

    /// Counts a decision on a request.
    pub fn authorized(&self, decision: &Decision, elapsed: Duration) {
        let outcomes = &self.authorization;
        let outcome = match decision {
            Decision::Allow => &outcomes.allowed,
            Decision::Deny { .. } => &outcomes.denied,
            Decision::NoOpinion => &outcomes.no_opinion,
        };
        outcome.add(elapsed);
    }

    /// Counts a request under a client certificate that has so many seconds left.
    pub fn certificate(&self, left: i64) {
        #[allow(clippy::cast_precision_loss)]
        self.certificates.observe(left as f64);
    }

    /// Counts a TLS handshake that failed.
    pub fn handshake_failed(&self) {
        self.handshakes.inc();
    }

    /// Begins to count a request.
    pub fn begin(&self, registry: &Registry, info: &RequestInfo, request: &Request<Body>) -> Call {
        let is_long_running = is_long_running(info);
        let series = self.requests.series(registry, info, request.headers());
        if let Some(series) = &series {
            series.asked(request.body().size_hint().exact());
        }
        let is_read = matches!(info.verb.as_str(), "get" | "list" | "watch" | "head" | "options");
        let kind = if is_read { &self.reading } else { &self.writing };
        Call {
            _in_flight: (!is_long_running).then(|| InFlight::new(kind)),
            series,
            began: Instant::now(),
            is_long_running,
            trace: Trace::of(request),
        }
    }

    /// Counts an answer, and marks it with the request's id. `asking` is the time in which webhooks were asked.
    pub fn end(&self, call: Call, mut response: Response, asking: Duration) -> Response {
        let elapsed = call.began.elapsed();
        let waited = response.extensions().get::<Waited>().map_or(asking, |waited| waited.0 + asking);
        let code = response.status().as_u16();
        call.trace.mark(response.headers_mut());
        if !call.is_long_running && elapsed.saturating_sub(waited) > SLOW {
            call.trace.warn_slow(elapsed, waited, code);
        }
        let Some(series) = call.series else { return response };
        if call.is_long_running && code < 400 {
            return response.map(|body| {
                Body::new(LongRunning::new(
                    body,
                    series,
                    call.began,
                    code,
                    self.stop.clone().cancelled_owned(),
                ))
            });
        }
        let size = response.body().size_hint().exact();
        series.answered(code, elapsed, elapsed.saturating_sub(waited), size);
        response
    }

    /// Counts a request that the server gave up.
    pub fn terminated(&self, call: &Call, code: u16) {
        if let Some(series) = &call.series {
            self.requests.terminated(series, code);
        }
    }
}

impl Call {
    /// Serves the request: in its trace, and not longer than its [`time_limit`].
    pub async fn run(
        &self,
        state: &ApiState,
        limit: Result<Duration, Status>,
        serve: impl Future<Output = Result<Response, Status>>,
    ) -> Result<Response, Status> {
        let serve = self.trace.within(serve);
        if self.is_long_running {
            return serve.await;
        }
        // The time is looked at only when the answer is not there at once.
        match tokio::time::timeout(limit?, serve).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let status = Status::timeout("Timeout: request did not complete within the allotted timeout");
                state.insight.terminated(self, status.code);
                Err(status)
            }
        }
    }
}

/// How long a request may take: what its client asks for, if that is shorter than what the server allows. An error is
/// the refusal of what is no span of time.
pub fn time_limit(info: &RequestInfo, most: Duration) -> Result<Duration, Status> {
    let Some(text) = info.parameter("timeout").filter(|text| !text.is_empty()) else { return Ok(most) };
    let Some(asked) = duration::parse(text) else {
        let why = duration::fault(text);
        return Err(Status::bad_request(format!("invalid timeout specified in the request URL - {why}")));
    };
    let asked = u64::try_from(asked).ok().filter(|asked| *asked > 0).map(Duration::from_nanos);
    Ok(asked.map_or(most, |asked| asked.min(most)))
}

/// The classes of users that are told apart; anything finer would let callers choose the number of metrics.
fn user_class(name: &str) -> &'static str {
    match name {
        "admin" => "admin",
        "client" => "client",
        "kube_proxy" => "kube_proxy",
        name if name.contains('@') => "email_id",
        _ => "other",
    }
}

/// Whether a request lasts as long as its client wants: it has no time limit, and no place among those that have.
pub fn is_long_running(info: &RequestInfo) -> bool {
    if !info.is_resource {
        return [crate::snapshots::PATH, crate::snapshots::DEFRAGMENT].contains(&&*info.path);
    }
    matches!(info.verb.as_str(), "watch" | "proxy")
        || matches!(info.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
}

/// Whether a write is server-side apply, by its media type.
fn is_apply(method: &Method, headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    *method == Method::PATCH && kind.starts_with(b"application/apply-patch")
}
