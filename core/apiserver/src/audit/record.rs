//! The record of one request, from its coming to its end.
//!
//! It is an extension of the request. What runs on behalf of the request holds it; when nobody does any more, the
//! request has ended, also that of a client that has gone before its answer was there.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use jiff::Timestamp;
use keelson_api::audit::{AuthenticationMetadata, Event, Level, ResponseStatus, Stage, Verdict, content};
use keelson_api::protobuf;
use parking_lot::Mutex;
use serde_json::Value;

use super::Audit;
use crate::admission::Remarks;
use crate::authentication::Acting;
use crate::authorization::{Authorizer, Decision, Opinion};
use crate::flow_control::Waited;
use crate::http::body;
use crate::identity::Identity;
use crate::insight::is_long_running;
use crate::request_info::RequestInfo;

mod bodies;

use bodies::{Heard, Held};

/// The record of a request.
pub struct Record {
    audit: Arc<Audit>,
    verdict: Verdict,
    is_long_running: bool,
    /// Whether its objects may be recorded: not those of proxies and streams.
    has_objects: bool,
    writes: bool,
    is_patch: bool,
    remarks: Option<Arc<Remarks>>,
    draft: Mutex<Draft>,
    ended: AtomicBool,
}

/// What is known so far.
struct Draft {
    event: Event,
    heard: Option<(HeaderMap, Arc<Mutex<Heard>>)>,
    has_answer: bool,
    waited: Duration,
    authorization: Duration,
}

impl Record {
    pub(super) fn new(
        audit: Arc<Audit>,
        verdict: Verdict,
        info: &RequestInfo,
        event: Event,
        remarks: Option<Arc<Remarks>>,
    ) -> Self {
        let is_stream =
            matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy");
        let draft = Draft {
            event,
            heard: None,
            has_answer: false,
            waited: Duration::ZERO,
            authorization: Duration::ZERO,
        };
        Record {
            audit,
            verdict,
            is_long_running: is_long_running(info),
            has_objects: info.is_resource && !is_stream,
            writes: !matches!(info.verb.as_str(), "get" | "list" | "watch"),
            is_patch: info.verb == "patch",
            remarks,
            draft: Mutex::new(draft),
            ended: AtomicBool::new(false),
        }
    }

    /// The record of a request, if there is one.
    pub fn of<B>(request: &Request<B>) -> Option<Arc<Self>> {
        request.extensions().get().cloned()
    }

    /// Records that the request has come; false if it must not be served.
    pub(super) async fn received(&self) -> bool {
        if self.verdict.omitted.contains(Stage::RequestReceived) {
            return true;
        }
        let event = self.draft.lock().event.clone();
        let taken = self.audit.emit(event).await;
        if !taken {
            self.ended.store(true, Ordering::Relaxed);
        }
        taken
    }

    /// Notes in whose place the caller acts, and by which right.
    pub fn acts(&self, acting: &Acting) {
        let Some(verb) = &acting.by else { return };
        let event = &mut self.draft.lock().event;
        event.impersonated_user = Some(super::user(&acting.identity));
        let is_limited = verb != "impersonate";
        event.authentication_metadata =
            is_limited.then(|| AuthenticationMetadata { impersonation_constraint: verb.clone() });
    }

    /// Asks an authorizer, and notes what it says and why.
    pub async fn authorize(
        &self,
        authorizer: &dyn Authorizer,
        who: &Identity,
        info: &RequestInfo,
    ) -> Opinion {
        let began = Instant::now();
        let opinion = authorizer.explain(who, info).await;
        let word = if opinion.decision == Decision::Allow { "allow" } else { "forbid" };
        let mut draft = self.draft.lock();
        draft.authorization = began.elapsed();
        draft.event.annotate("authorization.k8s.io/decision", word);
        draft.event.annotate("authorization.k8s.io/reason", opinion.reason.as_str());
        opinion
    }

    /// Lets the request's body be heard while it is read.
    pub fn listen(&self, request: Request<Body>) -> Request<Body> {
        // A patch says nothing of its object that its path does not.
        let is_of_use = !self.is_patch || self.verdict.level >= Level::Request;
        if !self.has_objects || !self.writes || !is_of_use {
            return request;
        }
        let heard = Arc::new(Mutex::new(Heard::default()));
        let mut headers = HeaderMap::new();
        if let Some(kind) = request.headers().get(header::CONTENT_TYPE) {
            headers.insert(header::CONTENT_TYPE, kind.clone());
        }
        self.draft.lock().heard = Some((headers, Arc::clone(&heard)));
        request.map(|inner| Body::new(bodies::Listener::new(inner, heard)))
    }

    /// Serves the request, and records a panic that ends it.
    pub async fn watch_over<F: Future>(&self, serve: F) -> F::Output {
        match AssertUnwindSafe(serve).catch_unwind().await {
            Ok(output) => output,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
                self.note_panic(text);
                self.end(Stage::Panic).await;
                resume_unwind(panic)
            }
        }
    }

    fn note_panic(&self, text: &str) {
        let mut status = ResponseStatus::of_code(500);
        status.status = "Failure".to_owned();
        status.reason = "InternalError".to_owned();
        // What a panic says may be anything.
        status.message = if self.verdict.is_guarded {
            "APIServer panic'd".to_owned()
        } else {
            format!("APIServer panic'd: {text}")
        };
        self.draft.lock().event.response_status = Some(status);
    }

    /// Takes what is recorded of an answer from it, if that is there as a whole.
    pub async fn answer(&self, response: Response) -> Response {
        if std::mem::replace(&mut self.draft.lock().has_answer, true) {
            return response;
        }
        let wants_object = self.has_objects && self.verdict.level == Level::RequestResponse;
        let verb = self.draft.lock().event.verb.clone();
        let may_be_status = response.status().as_u16() >= 400
            || matches!(verb.as_str(), "create" | "delete" | "deletecollection");
        let is_whole = response.body().size_hint().exact().is_some();
        if !is_whole || !(wants_object || may_be_status) {
            return response;
        }
        let (parts, content) = response.into_parts();
        let Ok(collected) = content.collect().await else {
            // A body of known length is in memory: it cannot fail.
            return Response::from_parts(parts, Body::empty());
        };
        let bytes = collected.to_bytes();
        if let Some(json) = json(&parts.headers, &bytes) {
            self.take_answer(&json, wants_object);
        }
        Response::from_parts(parts, Body::from(bytes))
    }

    fn take_answer(&self, json: &[u8], wants_object: bool) {
        let is_status = memchr::memmem::find(json, b"\"Status\"").is_some();
        let mut status = if is_status { content::status(json) } else { None };
        if let Some(status) = status.as_mut().filter(|_| self.verdict.is_guarded) {
            status.guard();
        }
        let object = wants_object.then(|| {
            if !self.verdict.omit_managed_fields {
                return content::of_json(json);
            }
            let mut document: Value = serde_json::from_slice(json).ok()?;
            content::remove_managed_fields(&mut document);
            content::of_value(&document)
        });
        let mut draft = self.draft.lock();
        draft.event.response_status = status;
        draft.event.response_object = object.flatten();
    }

    /// Ends the record with the answer, or goes on with it as long as the answer lasts.
    pub async fn finish(self: Arc<Self>, response: Response) -> Response {
        let response = self.answer(response).await;
        {
            let mut draft = self.draft.lock();
            draft.waited = response.extensions().get::<Waited>().map_or(Duration::ZERO, |waited| waited.0);
            let status = draft.event.response_status.get_or_insert_default();
            status.code = response.status().as_u16();
        }
        if self.is_long_running && !self.verdict.omitted.contains(Stage::ResponseStarted) {
            let event = self.event(Stage::ResponseStarted);
            self.audit.emit(event).await;
        }
        if response.body().size_hint().exact().is_none() {
            return response.map(|inner| Body::new(Held::new(inner, self)));
        }
        self.end(Stage::ResponseComplete).await;
        response
    }

    async fn end(&self, stage: Stage) {
        if self.ended.swap(true, Ordering::Relaxed) || self.verdict.omitted.contains(stage) {
            return;
        }
        let event = self.event(stage);
        self.audit.emit(event).await;
    }

    /// The event of a stage after the first.
    fn event(&self, stage: Stage) -> Event {
        let mut draft = self.draft.lock();
        self.take_request(&mut draft);
        let mut event = draft.event.clone();
        (event.stage, event.stage_timestamp) = (stage, Timestamp::now());
        if let Some(remarks) = &self.remarks {
            for (key, value) in remarks.annotations() {
                event.annotate(&key, value);
            }
            if self.verdict.level >= Level::Request {
                for (key, value) in remarks.details() {
                    event.annotate(&key, value);
                }
            }
        }
        if stage == Stage::ResponseComplete {
            event.annotate_latency(&[
                ("apf-queue-wait", draft.waited),
                ("authorization", draft.authorization),
            ]);
        }
        event
    }

    /// Takes what is recorded of the request's body, once it has been read.
    fn take_request(&self, draft: &mut Draft) {
        let Some((headers, heard)) = draft.heard.take() else { return };
        let Some(bytes) = heard.lock().take() else { return };
        if bytes.is_empty() {
            return;
        }
        let read = if self.is_patch { patch(&headers, &bytes) } else { body::value(&headers, &bytes).ok() };
        let Some(mut document) = read else { return };
        if let Some(reference) = draft.event.object_ref.as_mut().filter(|_| !self.is_patch) {
            content::complete(reference, &document);
        }
        if self.verdict.level < Level::Request {
            return;
        }
        if self.verdict.omit_managed_fields && !self.is_patch {
            content::remove_managed_fields(&mut document);
        }
        draft.event.request_object = content::of_value(&document);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        {
            // The client has gone before anything was answered.
            let mut draft = self.draft.lock();
            let status = draft.event.response_status.get_or_insert_default();
            if status.code == 0 {
                status.code = 200;
                status.status = "Success".to_owned();
                status.message = "Connection closed early".to_owned();
            }
        }
        if !self.verdict.omitted.contains(Stage::ResponseComplete) {
            let event = self.event(Stage::ResponseComplete);
            self.audit.emit_afterwards(event);
        }
    }
}

/// A patch as JSON.
fn patch(headers: &HeaderMap, bytes: &Bytes) -> Option<Value> {
    if body::media_type(headers).ends_with("yaml") { body::yaml(bytes).ok() } else { body::json(bytes).ok() }
}

/// An answer's document as JSON.
fn json(headers: &HeaderMap, bytes: &Bytes) -> Option<Bytes> {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes)?;
    if kind.starts_with(b"application/json") {
        return Some(bytes.clone());
    }
    let document = if kind.starts_with(b"application/vnd.kubernetes.protobuf") {
        protobuf::decode(bytes).ok()?
    } else if kind.starts_with(b"application/yaml") {
        body::yaml(bytes).ok()?
    } else {
        return None;
    };
    Some(document.to_string().into())
}
