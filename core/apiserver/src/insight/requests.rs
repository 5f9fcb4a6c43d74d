//! Requests by what they ask for: how many, how long, how large, with upstream's names, labels and buckets.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, Method};
use keelson_metrics::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, RegistryError,
};
use parking_lot::Mutex;

use crate::registry::Registry;
use crate::request_info::RequestInfo;

const DURATIONS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
const SLI_DURATIONS: [f64; 21] = [
    0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
const SIZES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const EVENT_SIZES: [f64; 8] = [1024.0, 2048.0, 4096.0, 8192.0, 16_384.0, 32_768.0, 65_536.0, 131_072.0];
/// Requests whose bodies are measured, and their names there.
const BODIES: [(&str, &str); 4] =
    [("POST", "create"), ("PUT", "update"), ("PATCH", "patch"), ("APPLY", "patch")];
/// Further kinds of requests are not counted: the number of custom resources is their authors' choice.
const MOST: usize = 16 << 10;
/// Answers that have a counter of their own ready; others are looked up.
const CODES: [u16; 16] = [200, 201, 400, 401, 403, 404, 405, 406, 409, 410, 413, 415, 422, 429, 500, 504];

const WITHOUT_DRY_RUN: [&str; 7] =
    ["verb", "group", "version", "resource", "subresource", "scope", "component"];
const WITH_DRY_RUN: [&str; 8] =
    ["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"];
const WITH_CODE: [&str; 9] =
    ["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component", "code"];

/// What makes requests alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Route<'a> {
    verb: &'static str,
    dry_run: &'static str,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    scope: &'static str,
}

/// The metrics of requests that are alike.
pub struct Series {
    verb: &'static str,
    dry_run: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    counters: IntCounterVec,
    codes: [OnceLock<IntCounter>; CODES.len()],
    duration: Histogram,
    sli: Option<Histogram>,
    sizes: Option<Histogram>,
    running: OnceLock<IntGauge>,
    /// Of what has a body: its size.
    bodies: Option<Histogram>,
    /// Of a watch: the events that were sent, and their sizes.
    events: Option<(IntCounter, Histogram)>,
    long_running: IntGaugeVec,
}

/// The metrics of all requests.
pub struct Requests {
    series: ArcSwap<HashMap<u64, Vec<Arc<Series>>>>,
    growing: Mutex<()>,
    counters: IntCounterVec,
    durations: HistogramVec,
    sli: HistogramVec,
    sizes: HistogramVec,
    long_running: IntGaugeVec,
    terminations: IntCounterVec,
    events: IntCounterVec,
    event_sizes: HistogramVec,
    bodies: HistogramVec,
}

impl<'a> Route<'a> {
    fn of(info: &'a RequestInfo, headers: &HeaderMap) -> Option<Self> {
        if !info.is_resource {
            let path = ["/healthz", "/livez", "/readyz"].into_iter().find(|path| info.path == *path)?;
            let verb = if info.verb == "get" { "GET" } else { return None };
            let (group, version, resource) = ("", "", "");
            return Some(Route { verb, dry_run: "", group, version, resource, subresource: path, scope: "" });
        }
        let connects = matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy");
        let verb = match info.verb.as_str() {
            _ if connects => "CONNECT",
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" => "POST",
            "update" => "PUT",
            "patch" if super::is_apply(&Method::PATCH, headers) => "APPLY",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            _ => return None,
        };
        let scope = match (&info.name, &info.namespace) {
            (Some(_), _) => "resource",
            _ if info.verb == "create" => "resource",
            (None, Some(_)) => "namespace",
            (None, None) => "cluster",
        };
        let dry_run = if info.parameter("dryRun") == Some("All") { "All" } else { "" };
        let RequestInfo { group, version, resource, subresource, .. } = info;
        Some(Route { verb, dry_run, group, version, resource, subresource, scope })
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

impl Series {
    fn is(&self, route: &Route<'_>) -> bool {
        self.route() == *route
    }

    fn route(&self) -> Route<'_> {
        Route {
            verb: self.verb,
            dry_run: self.dry_run,
            group: &self.group,
            version: &self.version,
            resource: &self.resource,
            subresource: &self.subresource,
            scope: self.scope,
        }
    }

    fn counter(&self, code: u16) -> IntCounter {
        let text = code.to_string();
        let route = self.route();
        let [verb, dry_run, group, version, resource, subresource, scope, component] = route.labels();
        self.counters.with_label_values(&[
            verb,
            dry_run,
            group,
            version,
            resource,
            subresource,
            scope,
            component,
            &text,
        ])
    }

    fn count(&self, code: u16) {
        match CODES.iter().position(|known| *known == code) {
            Some(at) => self.codes[at].get_or_init(|| self.counter(code)).inc(),
            None => self.counter(code).inc(),
        }
    }

    /// Counts an answer. `own` is its time without waiting for others' requests; `size` is in bytes.
    pub fn answered(&self, code: u16, elapsed: Duration, own: Duration, size: Option<u64>) {
        self.count(code);
        self.duration.observe(elapsed.as_secs_f64());
        if let Some(sli) = &self.sli {
            sli.observe(own.as_secs_f64());
        }
        if let (Some(sizes), Some(size)) = (&self.sizes, size) {
            #[allow(clippy::cast_precision_loss)]
            sizes.observe(size as f64);
        }
    }

    /// Counts a body, in bytes, whose size is known before it is read.
    pub fn asked(&self, size: Option<u64>) {
        if let (Some(bodies), Some(size)) = (&self.bodies, size) {
            #[allow(clippy::cast_precision_loss)]
            bodies.observe(size as f64);
        }
    }

    /// Counts what a watch has sent: lines, or frames that begin with their length.
    pub fn sent(&self, data: &[u8]) {
        let Some((events, sizes)) = &self.events else { return };
        #[allow(clippy::cast_precision_loss)]
        let event = |size: usize| sizes.observe(size as f64);
        let mut count = 0;
        if data.first() == Some(&b'{') {
            let mut last = 0;
            for end in memchr::memchr_iter(b'\n', data) {
                event(end + 1 - last);
                (last, count) = (end + 1, count + 1);
            }
        } else {
            let mut rest = data;
            while let Some((length, after)) = rest.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                event(length);
                count += 1;
                rest = after.get(length..).unwrap_or_default();
            }
        }
        events.inc_by(count);
    }

    /// The number of those that are under way.
    pub fn running(&self) -> &IntGauge {
        self.running.get_or_init(|| {
            let [verb, _, group, version, resource, subresource, scope, component] = self.route().labels();
            self.long_running.with_label_values(&[
                verb,
                group,
                version,
                resource,
                subresource,
                scope,
                component,
            ])
        })
    }
}

impl<'a> Route<'a> {
    fn labels(&self) -> [&'a str; 8] {
        [
            self.verb,
            self.dry_run,
            self.group,
            self.version,
            self.resource,
            self.subresource,
            self.scope,
            "apiserver",
        ]
    }
}

impl Requests {
    /// Makes the metrics.
    pub fn new(registry: &keelson_metrics::Registry) -> Result<Self, RegistryError> {
        Ok(Requests {
            series: ArcSwap::default(),
            growing: Mutex::default(),
            counters: registry.counters(
                "apiserver_request_total",
                "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
                &WITH_CODE,
            )?,
            durations: registry.histograms(
                "apiserver_request_duration_seconds",
                "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
                &WITH_DRY_RUN,
                &DURATIONS,
            )?,
            sli: registry.histograms(
                "apiserver_request_sli_duration_seconds",
                "Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
                &WITHOUT_DRY_RUN,
                &SLI_DURATIONS,
            )?,
            sizes: registry.histograms(
                "apiserver_response_sizes",
                "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
                &WITHOUT_DRY_RUN,
                &SIZES,
            )?,
            long_running: registry.gauges(
                "apiserver_longrunning_requests",
                "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
                &WITHOUT_DRY_RUN,
            )?,
            events: registry.counters(
                "apiserver_watch_events_total",
                "Number of events sent in watch clients",
                &["group", "version", "resource"],
            )?,
            event_sizes: registry.histograms(
                "apiserver_watch_events_sizes",
                "Watch event size distribution in bytes",
                &["group", "version", "resource"],
                &EVENT_SIZES,
            )?,
            bodies: registry.histograms(
                "apiserver_request_body_size_bytes",
                "Apiserver request body size in bytes broken out by resource and verb.",
                &["resource", "verb"],
                &body_sizes(),
            )?,
            terminations: registry.counters(
                "apiserver_request_terminations_total",
                "Number of requests which apiserver terminated in self-defense.",
                &["component", "code", "group", "resource", "scope", "subresource", "verb", "version"],
            )?,
        })
    }

    /// The metrics of a request; none for a path that is not served.
    pub fn series(
        &self,
        registry: &Registry,
        info: &RequestInfo,
        headers: &HeaderMap,
    ) -> Option<Arc<Series>> {
        let route = Route::of(info, headers)?;
        let key = route.key();
        if let Some(found) = find(&self.series.load(), key, &route) {
            return Some(found);
        }
        if info.is_resource && !is_served(registry, info) {
            return None;
        }
        let _growing = self.growing.lock();
        let known = self.series.load();
        if let Some(found) = find(&known, key, &route) {
            return Some(found);
        }
        if known.len() >= MOST {
            return None;
        }
        let made = Arc::new(self.make(&route));
        let mut more = HashMap::clone(&known);
        more.entry(key).or_default().push(Arc::clone(&made));
        self.series.store(Arc::new(more));
        Some(made)
    }

    fn make(&self, route: &Route<'_>) -> Series {
        let labels = route.labels();
        let [verb, _, group, version, resource, subresource, scope, component] = labels;
        let plain = [verb, group, version, resource, subresource, scope, component];
        let is_watch = matches!(verb, "WATCH" | "CONNECT");
        Series {
            verb: route.verb,
            dry_run: route.dry_run,
            group: group.to_owned(),
            version: version.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            scope: route.scope,
            counters: self.counters.clone(),
            codes: Default::default(),
            duration: self.durations.with_label_values(&labels),
            sli: (!is_watch).then(|| self.sli.with_label_values(&plain)),
            sizes: matches!(verb, "GET" | "LIST").then(|| self.sizes.with_label_values(&plain)),
            running: OnceLock::new(),
            bodies: BODIES
                .iter()
                .find(|(known, _)| *known == verb)
                .map(|(_, verb)| self.bodies.with_label_values(&[&full_name(group, resource), *verb])),
            events: (verb == "WATCH").then(|| {
                let labels = [group, version, resource];
                (self.events.with_label_values(&labels), self.event_sizes.with_label_values(&labels))
            }),
            long_running: self.long_running.clone(),
        }
    }

    /// Counts a request that was given up.
    pub fn terminated(&self, series: &Series, code: u16) {
        let [verb, _, group, version, resource, subresource, scope, component] = series.route().labels();
        let code = code.to_string();
        self.terminations
            .with_label_values(&[component, &code, group, resource, scope, subresource, verb, version])
            .inc();
    }
}

/// Fifty kilobytes, and then every hundred up to the most that is read.
fn body_sizes() -> Vec<f64> {
    (0..31_u32).map(|step| 50_000.0 + 100_000.0 * f64::from(step)).collect()
}

fn full_name(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn find(known: &HashMap<u64, Vec<Arc<Series>>>, key: u64, route: &Route<'_>) -> Option<Arc<Series>> {
    known.get(&key)?.iter().find(|series| series.is(route)).cloned()
}

fn is_served(registry: &Registry, info: &RequestInfo) -> bool {
    let catalog = registry.catalog();
    catalog
        .find(&info.group, &info.version, &info.resource)
        .is_some_and(|found| info.subresource.is_empty() || found.subresource(&info.subresource).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(method: Method, path: &str, query: Option<&str>) -> Option<Vec<String>> {
        let info = RequestInfo::parse(&method, path, query);
        let route = Route::of(&info, &HeaderMap::new())?;
        Some(route.labels().iter().map(|label| (*label).to_owned()).collect())
    }

    #[test]
    fn a_request_has_upstreams_labels() {
        let of = |method, path, query| labels(method, path, query).unwrap().join(",");
        let pods = "/api/v1/namespaces/a/pods";
        assert_eq!(of(Method::GET, pods, None), "LIST,,,v1,pods,,namespace,apiserver");
        assert_eq!(of(Method::GET, "/api/v1/pods", Some("watch=1")), "WATCH,,,v1,pods,,cluster,apiserver");
        assert_eq!(of(Method::POST, pods, Some("dryRun=All")), "POST,All,,v1,pods,,resource,apiserver");
        let scale = "/apis/apps/v1/namespaces/a/deployments/web/scale";
        assert_eq!(of(Method::PUT, scale, None), "PUT,,apps,v1,deployments,scale,resource,apiserver");
        assert_eq!(of(Method::GET, "/livez", None), "GET,,,,,/livez,,apiserver");
        assert_eq!(labels(Method::GET, "/nowhere", None), None);
    }
}
