//! `/livez`, `/readyz`, `/healthz`: named checks, asked one by one, with upstream's words.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use http::{HeaderValue, StatusCode, header};
use keelson_api::Status;
use keelson_metrics::{IntCounterVec, IntGaugeVec, RegistryError};
use parking_lot::RwLock;

use crate::request_info::RequestInfo;

type Run = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Which endpoints ask a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concerns {
    /// All of them.
    Everything,
    /// Whether requests may come.
    Readiness,
    /// None of them for their answer: it is shown among the others, and asked by its name.
    Notice,
}

#[derive(Clone)]
struct Check {
    name: String,
    concerns: Concerns,
    run: Run,
}

/// Something that is done once after the server has started.
#[derive(Clone, Debug, Default)]
pub struct Hook(Arc<AtomicBool>);

impl Hook {
    /// It is done.
    pub fn done(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The checks of a server.
pub struct Health {
    checks: RwLock<Vec<Check>>,
    state: IntGaugeVec,
    total: IntCounterVec,
}

/// What the caller wants to know.
struct Asked {
    endpoint: &'static str,
    verbose: bool,
    excluded: Vec<String>,
}

impl Asked {
    fn of(info: &RequestInfo, query: Option<&str>) -> Self {
        let endpoint = ["livez", "readyz"].into_iter().find(|it| info.path[1..].starts_with(it));
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Asked {
            endpoint: endpoint.unwrap_or("healthz"),
            verbose: info.query.contains_key("verbose"),
            excluded: pairs
                .filter(|(key, _)| key == "exclude")
                .map(|(_, value)| value.into_owned())
                .collect(),
        }
    }
}

fn text(code: StatusCode, body: String) -> Response {
    let mut response = (code, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

impl Health {
    /// No checks but `ping`, which is there as long as anything answers.
    pub fn new(registry: &keelson_metrics::Registry) -> Result<Self, RegistryError> {
        let ping: Run = Arc::new(|| Box::pin(std::future::ready(Ok(()))));
        Ok(Health {
            checks: RwLock::new(vec![Check {
                name: "ping".to_owned(),
                concerns: Concerns::Everything,
                run: ping,
            }]),
            state: registry.gauges(
                "kubernetes_healthcheck",
                "This metric records the result of a single healthcheck.",
                &["name", "type"],
            )?,
            total: registry.counters(
                "kubernetes_healthchecks_total",
                "This metric records the results of all healthcheck.",
                &["name", "status", "type"],
            )?,
        })
    }

    /// Adds a check. What it fails with goes to the log; the caller only hears that it failed.
    pub fn add<F>(&self, name: &str, concerns: Concerns, run: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let run: Run = Arc::new(move || Box::pin(run()));
        self.checks.write().push(Check { name: name.to_owned(), concerns, run });
    }

    /// Adds `poststarthook/NAME`, which fails until it is done.
    pub fn hook(&self, name: &str) -> Hook {
        let hook = Hook::default();
        let state = hook.clone();
        self.add(&format!("poststarthook/{name}"), Concerns::Everything, move || {
            let done = state.0.load(Ordering::Acquire);
            std::future::ready(if done { Ok(()) } else { Err("not finished".to_owned()) })
        });
        hook
    }

    /// Serves one of the three endpoints, or one check below it.
    pub async fn serve(&self, info: &RequestInfo, query: Option<&str>) -> Result<Response, Status> {
        let mut asked = Asked::of(info, query);
        let below =
            info.path.trim_start_matches('/').split_once('/').map(|(_, name)| name.trim_end_matches('/'));
        let checks: Vec<Check> = {
            let all = self.checks.read();
            let concerned =
                |check: &&Check| check.concerns != Concerns::Readiness || asked.endpoint == "readyz";
            all.iter().filter(concerned).cloned().collect()
        };
        if let Some(name) = below.filter(|name| !name.is_empty()) {
            let check = checks.iter().find(|check| check.name == name).ok_or_else(Status::path_not_found)?;
            return Ok(match self.run(check, asked.endpoint).await {
                Ok(()) => text(StatusCode::OK, "ok".to_owned()),
                Err(error) => {
                    text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {error}\n"))
                }
            });
        }
        let (mut lines, mut failed) = (String::new(), Vec::new());
        for check in &checks {
            if let Some(at) = asked.excluded.iter().position(|name| *name == check.name) {
                asked.excluded.swap_remove(at);
                lines += &format!("[+]{} excluded: ok\n", check.name);
                continue;
            }
            if check.concerns == Concerns::Notice && !asked.verbose {
                continue;
            }
            match self.run(check, asked.endpoint).await {
                Ok(()) => lines += &format!("[+]{} ok\n", check.name),
                Err(_) if check.concerns == Concerns::Notice => {
                    lines += &format!("[!]{} raised: ask for it by its name\n", check.name);
                }
                Err(error) => {
                    lines += &format!("[-]{} failed: reason withheld\n", check.name);
                    failed.push(format!("{}: {error}", check.name));
                }
            }
        }
        if !asked.excluded.is_empty() {
            let names: Vec<String> = asked.excluded.iter().map(|name| format!("{name:?}")).collect();
            let names = names.join(",");
            lines += &format!("warn: some health checks cannot be excluded: no matches for {names}\n");
        }
        let endpoint = asked.endpoint;
        if !failed.is_empty() {
            tracing::info!(endpoint, failed = failed.join("; "), "a health check failed");
            return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{endpoint} check failed\n")));
        }
        let body = if asked.verbose { format!("{lines}{endpoint} check passed\n") } else { "ok".to_owned() };
        Ok(text(StatusCode::OK, body))
    }

    async fn run(&self, check: &Check, endpoint: &str) -> Result<(), String> {
        let outcome = (check.run)().await;
        let status = if outcome.is_ok() { "success" } else { "error" };
        self.state.with_label_values(&[&check.name, endpoint]).set(outcome.is_ok().into());
        self.total.with_label_values(&[&check.name, status, endpoint]).inc();
        outcome
    }
}

/// An answer without its body, for HEAD.
pub(super) fn without_body(response: Response) -> Response {
    response.map(|_| Body::empty())
}
