//! `keelson demo-web`: a small web server that tells where it runs, whose health can be switched, and that can burn
//! processor time. The quickstart runs three of it.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` or any other path | host name, address, path and headers, and the greeting from the environment |
//! | `GET /healthz`, `GET /livez` | 200, or 503 after it was switched |
//! | `POST /healthz/fail`, `/healthz/pass`, `/livez/fail`, `/livez/pass` | switches it |
//! | `POST /burn?seconds=S&threads=T` | keeps T threads busy for S seconds |

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Path as UrlPath, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::progress::say;

/// Where the quickstart mounts its Secret.
const SECRET: &str = "/etc/demo-web/secret";
const LONGEST_BURN: u64 = 600;
const MOST_THREADS: usize = 16;

#[derive(Default)]
struct Health {
    ready_failing: AtomicBool,
    live_failing: AtomicBool,
    burning: AtomicUsize,
}

impl Health {
    fn switch(&self, which: &str) -> Option<&AtomicBool> {
        match which {
            "healthz" => Some(&self.ready_failing),
            "livez" => Some(&self.live_failing),
            _ => None,
        }
    }
}

/// The address that a connection came to.
#[derive(Clone, Copy)]
struct Here(Option<SocketAddr>);

impl Connected<IncomingStream<'_, TcpListener>> for Here {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Here(stream.io().local_addr().ok())
    }
}

fn router() -> Router {
    Router::new()
        .route("/healthz", get(|state| health(state, "healthz")))
        .route("/livez", get(|state| health(state, "livez")))
        .route("/{which}/{verdict}", post(switch).get(page))
        .route("/burn", post(burn))
        .fallback(get(page))
        .with_state(Arc::new(Health::default()))
}

/// Serves until it is asked to end; requests under way are answered.
pub(crate) async fn run(port: u16) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await;
    let listener = listener.with_context(|| format!("listen on port {port}"))?;
    say(format_args!("demo-web listens on port {port}"));
    axum::serve(listener, router().into_make_service_with_connect_info::<Here>())
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            }
            say("demo-web ends");
        })
        .await
        .context("serve")
}

async fn health(State(health): State<Arc<Health>>, which: &'static str) -> (StatusCode, &'static str) {
    match health.switch(which).is_some_and(|failing| failing.load(Ordering::Relaxed)) {
        false => (StatusCode::OK, "ok\n"),
        true => (StatusCode::SERVICE_UNAVAILABLE, "switched to fail\n"),
    }
}

async fn switch(
    State(health): State<Arc<Health>>,
    UrlPath((which, verdict)): UrlPath<(String, String)>,
) -> (StatusCode, String) {
    let failing = match verdict.as_str() {
        "fail" => true,
        "pass" => false,
        _ => return (StatusCode::NOT_FOUND, "say /fail or /pass\n".to_owned()),
    };
    let Some(switch) = health.switch(&which) else {
        return (StatusCode::NOT_FOUND, "say /healthz or /livez\n".to_owned());
    };
    switch.store(failing, Ordering::Relaxed);
    say(format_args!("demo-web switched {which} to {verdict}"));
    (StatusCode::OK, format!("{which} will {verdict}\n"))
}

#[derive(Deserialize)]
struct Burn {
    #[serde(default = "Burn::seconds")]
    seconds: u64,
    #[serde(default = "Burn::threads")]
    threads: usize,
}

impl Burn {
    fn seconds() -> u64 {
        10
    }

    fn threads() -> usize {
        1
    }
}

async fn burn(State(health): State<Arc<Health>>, Query(burn): Query<Burn>) -> (StatusCode, String) {
    if burn.seconds > LONGEST_BURN {
        return (StatusCode::BAD_REQUEST, format!("seconds: at most {LONGEST_BURN}\n"));
    }
    let taken = health.burning.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |burning| {
        burning.checked_add(burn.threads).filter(|sum| *sum <= MOST_THREADS)
    });
    if taken.is_err() {
        return (StatusCode::TOO_MANY_REQUESTS, format!("threads: at most {MOST_THREADS} at once\n"));
    }
    for _ in 0..burn.threads {
        let health = Arc::clone(&health);
        std::thread::spawn(move || {
            let until = Instant::now() + Duration::from_secs(burn.seconds);
            let mut number = 0_u64;
            while Instant::now() < until {
                for _ in 0..10_000 {
                    number =
                        std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                }
            }
            health.burning.fetch_sub(1, Ordering::Relaxed);
        });
    }
    (StatusCode::ACCEPTED, format!("burning with {} threads for {} s\n", burn.threads, burn.seconds))
}

async fn page(ConnectInfo(here): ConnectInfo<Here>, uri: Uri, headers: HeaderMap) -> String {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "host: {}", host.unwrap_or_default());
    if let Some(address) = here.0 {
        let _ = writeln!(text, "address: {address}");
    }
    let _ = writeln!(text, "path: {uri}");
    if let Ok(greeting) = std::env::var("GREETING") {
        let _ = writeln!(text, "greeting: {greeting}");
    }
    let _ = writeln!(text, "secret mounted: {}", Path::new(SECRET).is_dir());
    for (name, value) in &headers {
        // What proves who somebody is does not belong on a page.
        let shown = if name == "authorization" || name == "cookie" {
            "(not shown)"
        } else {
            value.to_str().unwrap_or("(not text)")
        };
        let _ = writeln!(text, "header {name}: {shown}");
    }
    text
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn ask(router: &Router, method: &str, path: &str) -> (StatusCode, String) {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("cookie", "secret")
            .body(Body::empty())
            .unwrap();
        request.extensions_mut().insert(ConnectInfo(Here(Some(([10, 42, 0, 7], 8080).into()))));
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn health_can_be_switched_and_one_switch_does_not_move_the_other() {
        let router = router();
        assert_eq!(ask(&router, "GET", "/healthz").await.0, StatusCode::OK);
        assert_eq!(ask(&router, "POST", "/healthz/fail").await.0, StatusCode::OK);
        assert_eq!(ask(&router, "GET", "/healthz").await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(ask(&router, "GET", "/livez").await.0, StatusCode::OK);
        ask(&router, "POST", "/healthz/pass").await;
        assert_eq!(ask(&router, "GET", "/healthz").await.0, StatusCode::OK);
        assert_eq!(ask(&router, "POST", "/healthz/maybe").await.0, StatusCode::NOT_FOUND);
        assert_eq!(ask(&router, "POST", "/elsewhere/fail").await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn the_page_tells_where_it_runs_and_keeps_credentials_to_itself() {
        let (status, text) = ask(&router(), "GET", "/some/where?x=1").await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("path: /some/where?x=1"), "{text}");
        assert!(text.contains("address: 10.42.0.7:8080"), "{text}");
        assert!(text.contains("header cookie: (not shown)"), "{text}");
    }

    #[tokio::test]
    async fn burning_has_limits() {
        let router = router();
        assert_eq!(ask(&router, "POST", "/burn?seconds=601").await.0, StatusCode::BAD_REQUEST);
        assert_eq!(ask(&router, "POST", "/burn?seconds=0&threads=17").await.0, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(ask(&router, "POST", "/burn?seconds=0").await.0, StatusCode::ACCEPTED);
    }
}
