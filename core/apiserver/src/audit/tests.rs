use std::io;

use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use http::Method;
use keelson_metrics::Format;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::delivery::{Entry, Output, OutputError};
use super::options::{DeliveryOptions, LogOptions, Mode, Truncate};
use super::*;

/// An event of no interest.
pub(super) fn event() -> Event {
    let request = Request::get("/api/v1/pods").body(()).unwrap();
    let info = RequestInfo::parse(&Method::GET, "/api/v1/pods", None);
    super::event(&info, None, &request, &HeaderValue::from_static("id"), Level::Metadata)
}

/// Keeps what it is given, or fails.
#[derive(Clone, Default)]
struct Kept {
    events: Arc<Mutex<Vec<Value>>>,
    fails: bool,
}

#[async_trait]
impl Output for Kept {
    fn name(&self) -> &'static str {
        "kept"
    }

    fn is_concurrent(&self) -> bool {
        false
    }

    async fn write(&self, entries: &[Entry]) -> Result<(), OutputError> {
        if self.fails {
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        let decoded = entries.iter().map(|entry| serde_json::from_slice(&entry.json).unwrap());
        self.events.lock().extend(decoded);
        Ok(())
    }
}

struct Started {
    audit: Arc<Audit>,
    kept: Kept,
    registry: keelson_metrics::Registry,
}

impl Started {
    fn new(mode: Mode, fails: bool, truncate: Option<Truncate>, policy: &str) -> Self {
        let registry = keelson_metrics::Registry::default();
        let metrics = Metrics::new(&registry).unwrap();
        let kept = Kept { fails, ..Kept::default() };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let options = DeliveryOptions { mode, truncate, ..LogOptions::default().delivery };
        let sink = Sink::new(Box::new(kept.clone()), &options, &metrics, &tasks, stop.clone());
        let policy =
            Policy::parse(&format!("{{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{policy}]}}"));
        let lost = metrics.failures("afterwards");
        let audit = Audit { policy: policy.unwrap(), sinks: vec![sink], metrics, lost, tasks, stop };
        Started { audit: Arc::new(audit), kept, registry }
    }

    async fn begin(&self, method: Method, path: &str, body: &str) -> Result<Begun, Status> {
        let mut request =
            Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        let info = RequestInfo::parse(request.method(), request.uri().path(), request.uri().query());
        let (catalog, id) = (Catalog::default(), HeaderValue::from_static("id"));
        let who = Identity::user("ann", &[]);
        let record = self.audit.begin(&catalog, &info, &who, &mut request, &id, None).await?;
        Ok(Begun { record: record.unwrap(), request })
    }

    fn stages(&self) -> Vec<String> {
        self.kept.events.lock().iter().map(|event| event["stage"].as_str().unwrap().to_owned()).collect()
    }

    fn last(&self) -> Value {
        self.kept.events.lock().last().cloned().unwrap()
    }

    fn metrics(&self) -> String {
        self.registry.expose(Format::accepted(""))
    }
}

struct Begun {
    record: Arc<Record>,
    request: Request<Body>,
}

const ALL: &str = "{level: RequestResponse}";
const PODS: &str = "/api/v1/namespaces/a/pods";

#[tokio::test]
async fn a_panic_is_a_stage_and_goes_on() {
    let started = Started::new(Mode::Blocking, false, None, ALL);
    let Begun { record, request } = started.begin(Method::GET, PODS, "").await.unwrap();
    let caught = tokio::spawn(async move {
        drop(request);
        record.watch_over(async { panic!("lost") }).await
    });
    assert!(caught.await.unwrap_err().is_panic());
    assert_eq!(started.stages(), ["RequestReceived", "Panic"]);
    let status = &started.last()["responseStatus"];
    assert_eq!((&status["code"], &status["message"]), (&json!(500), &json!("APIServer panic'd: lost")));
}

#[tokio::test]
async fn a_client_that_has_gone_ends_its_record() {
    let started = Started::new(Mode::Blocking, false, None, ALL);
    drop(started.begin(Method::GET, PODS, "").await.unwrap());
    started.audit.close().await;
    assert_eq!(started.stages(), ["RequestReceived", "ResponseComplete"]);
    assert_eq!(started.last()["responseStatus"]["message"], "Connection closed early");
}

#[tokio::test]
async fn a_request_is_refused_when_its_coming_must_be_recorded_and_cannot() {
    let strict = Started::new(Mode::BlockingStrict, true, None, ALL);
    let refused = strict.begin(Method::GET, PODS, "").await.map(|_| ()).unwrap_err();
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (500, "Internal error occurred: failed to store audit event")
    );
    let text = strict.metrics();
    assert!(text.contains("apiserver_audit_requests_rejected_total 1\n"), "{text}");
    assert!(text.contains("apiserver_audit_error_total{plugin=\"kept\"} 1\n"), "{text}");
    let lenient = Started::new(Mode::Blocking, true, None, ALL);
    assert!(lenient.begin(Method::GET, PODS, "").await.is_ok());
    assert!(lenient.metrics().contains("apiserver_audit_requests_rejected_total 0\n"));
}

#[tokio::test]
async fn an_answer_that_lasts_ends_its_record_with_its_body() {
    let started = Started::new(Mode::Blocking, false, None, ALL);
    let Begun { record, request } = started.begin(Method::GET, &format!("{PODS}?watch=1"), "").await.unwrap();
    drop(request);
    let frames = futures::stream::iter([Ok::<_, io::Error>("{}\n")]);
    let response = record.finish(Response::new(Body::from_stream(frames))).await;
    assert_eq!(started.stages(), ["RequestReceived", "ResponseStarted"]);
    axum::body::to_bytes(response.into_body(), 100).await.unwrap();
    started.audit.close().await;
    assert_eq!(started.stages(), ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
    assert!(started.last().get("responseObject").is_none());
}

#[tokio::test]
async fn an_event_that_is_too_large_loses_its_objects_and_then_itself() {
    let truncate = Some(Truncate { max_event_size: 1000, max_batch_size: 1000 });
    let started =
        Started::new(Mode::Blocking, false, truncate, "{level: Request, omitStages: [RequestReceived]}");
    let body = json!({"metadata": {"name": "p", "labels": {"a": "x".repeat(2000)}}}).to_string();
    let Begun { record, request } = started.begin(Method::POST, PODS, &body).await.unwrap();
    let read = axum::body::to_bytes(record.listen(request).into_body(), 1 << 20).await.unwrap();
    assert_eq!(read, body);
    record.finish(Response::new(Body::empty())).await;
    let last = started.last();
    assert_eq!(last["annotations"]["audit.k8s.io/truncated"], "true");
    assert_eq!((last.get("requestObject"), &last["objectRef"]["name"]), (None, &json!("p")));
    let long = format!("{PODS}?{}", "x".repeat(2000));
    let Begun { record, request } = started.begin(Method::GET, &long, "").await.unwrap();
    drop(request);
    record.finish(Response::new(Body::empty())).await;
    assert_eq!(started.stages().len(), 1);
    assert!(started.metrics().contains("apiserver_audit_error_total{plugin=\"truncate\"} 1\n"));
}

#[tokio::test]
async fn what_the_policy_does_not_want_is_not_recorded() {
    let started = Started::new(Mode::Blocking, false, None, "{level: None, users: [ann]}");
    let mut request = Request::get(PODS).body(Body::empty()).unwrap();
    let info = RequestInfo::parse(&Method::GET, PODS, None);
    let (catalog, id) = (Catalog::default(), HeaderValue::from_static("id"));
    let who = Identity::user("ann", &[]);
    let record = started.audit.begin(&catalog, &info, &who, &mut request, &id, None).await.unwrap();
    assert!(record.is_none() && request.extensions().is_empty());
    assert!(started.metrics().contains("apiserver_audit_level_total{level=\"None\"} 1\n"));
}
