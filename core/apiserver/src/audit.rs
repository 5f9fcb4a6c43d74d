//! Auditing: a record of who has asked for what, and how it was answered.
//!
//! | module | what it does |
//! |---|---|
//! | [`options`] | what an administrator configures |
//! | [`record`] | follows one request through its stages |
//! | `delivery` | brings events to a log or a webhook; who waits for it |
//! | `queue` | lets events wait for others |
//! | `log`, `rotation` | a file, and the files that were put aside |
//! | `webhook` | a server |
//!
//! The policy decides alone (`keelson_api::audit`). Invariants: **without a policy a request pays one comparison**; of
//! credentials nothing is recorded unless a rule names their resource; in the mode `batch` nobody ever waits for a disk
//! or a server.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request};
use jiff::Timestamp;
use keelson_api::audit::event::user_agent;
use keelson_api::audit::{Event, Level, ObjectReference, Policy, ResponseStatus, Stage, Subject, User};
use keelson_api::{Catalog, Status, warnings};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Remarks;
use crate::identity::Identity;
use crate::remote::ServiceResolver;
use crate::request_info::RequestInfo;
use delivery::Sink;
use log::Log;
use metrics::{Failures, Metrics};
use options::OptionsError;
use webhook::Webhook;

mod delivery;
mod log;
mod metrics;
pub mod options;
mod queue;
pub mod record;
mod rotation;
mod source;
mod webhook;

pub use options::AuditOptions;
pub use record::Record;
pub use source::attempted;

/// Ends of requests that are written at once while nobody waits for them any more.
const AFTERWARDS: usize = 1024;
/// How long what waits may take to be written when the server ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// The other end of a connection: an extension of its requests, where they are audited.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub SocketAddr);

/// Records requests.
pub struct Audit {
    policy: Policy,
    sinks: Vec<Sink>,
    metrics: Metrics,
    /// What is lost of requests that nobody waits for any more.
    lost: Failures,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Audit {
    /// Opens what the options name; none if nothing is to be recorded. Must be called in a tokio runtime.
    pub fn open(
        options: &AuditOptions,
        resolver: &Arc<ServiceResolver>,
        registry: &keelson_metrics::Registry,
    ) -> Result<Option<Arc<Self>>, OptionsError> {
        let metrics = Metrics::new(registry)?;
        let (log, webhook) = (options.log.path.as_deref(), options.webhook.config_file.as_deref());
        let Some(path) = options.policy_file.as_deref() else {
            if log.is_some() || webhook.is_some() {
                tracing::warn!("no audit policy file is given: nothing is recorded");
            }
            return Ok(None);
        };
        let read = |source| OptionsError::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(read)?;
        let policy =
            Policy::parse(&text).map_err(|source| OptionsError::Policy { path: path.to_owned(), source })?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut sinks = Vec::new();
        if let Some(path) = log {
            let failed = |source| OptionsError::Log { path: path.to_owned(), source };
            let log = Log::open(path, &options.log).map_err(failed)?;
            sinks.push(Sink::new(Box::new(log), &options.log.delivery, &metrics, &tasks, stop.clone()));
        }
        if let Some(path) = webhook {
            let failed = |source| OptionsError::Webhook { path: path.to_owned(), source };
            let webhook = Webhook::open(path, options.webhook.initial_backoff, resolver).map_err(failed)?;
            sinks.push(Sink::new(
                Box::new(webhook),
                &options.webhook.delivery,
                &metrics,
                &tasks,
                stop.clone(),
            ));
        }
        if sinks.is_empty() {
            tracing::warn!("an audit policy is given, but neither a log nor a webhook: nothing is recorded");
            return Ok(None);
        }
        let lost = metrics.failures("afterwards");
        Ok(Some(Arc::new(Audit { policy, sinks, metrics, lost, tasks, stop })))
    }

    /// Begins to record a request, if the policy wants it; the record goes with the request from here on. An error
    /// refuses the request: it cannot be recorded that it has come.
    pub async fn begin<B>(
        self: &Arc<Self>,
        catalog: &Catalog,
        info: &RequestInfo,
        who: &Identity,
        request: &mut Request<B>,
        id: &HeaderValue,
        remarks: Option<&Arc<Remarks>>,
    ) -> Result<Option<Arc<Record>>, Status> {
        let verdict = self.policy.verdict(&subject(info, Some(who), info.object_name().as_deref()));
        self.metrics.level(verdict.level);
        if verdict.level == Level::None {
            return Ok(None);
        }
        let mut event = event(info, Some(who), request, id, verdict.level);
        if is_deprecated(catalog, info) {
            event.annotate("k8s.io/deprecated", "true");
        }
        let record = Arc::new(Record::new(Arc::clone(self), verdict, info, event, remarks.cloned()));
        if !record.received().await {
            self.metrics.rejected.inc();
            return Err(Status::internal("failed to store audit event"));
        }
        request.extensions_mut().insert(Arc::clone(&record));
        Ok(Some(record))
    }

    /// Records a request whose sender is not known, answered with a code; `attempted` says what it tried.
    pub async fn refused(&self, request: &Request<()>, id: &HeaderValue, attempted: &str, code: u16) {
        let uri = request.uri();
        let info = RequestInfo::parse(request.method(), uri.path(), uri.query());
        let verdict = self.policy.verdict(&subject(&info, None, info.object_name().as_deref()));
        self.metrics.level(verdict.level);
        if verdict.level == Level::None || verdict.omitted.contains(Stage::ResponseStarted) {
            return;
        }
        let mut event = event(&info, None, request, id, verdict.level);
        let mut status = ResponseStatus::of_code(code);
        status.status = "Failure".to_owned();
        status.message = attempted.to_owned();
        status.reason = "Unauthorized".to_owned();
        (event.stage, event.response_status) = (Stage::ResponseStarted, Some(status));
        self.emit(event).await;
    }

    /// Brings an event everywhere; whether its request may go on.
    async fn emit(&self, event: Event) -> bool {
        self.metrics.events.inc();
        let event = Arc::new(event);
        let mut is_well = true;
        for sink in &self.sinks {
            is_well &= sink.take(&event).await;
        }
        is_well
    }

    /// Brings an event everywhere after its request has ended: nobody is left to wait.
    fn emit_afterwards(self: &Arc<Self>, event: Event) {
        self.metrics.events.inc();
        let event = Arc::new(event);
        self.sinks.iter().filter_map(Sink::queue).for_each(|queue| queue.push(Arc::clone(&event)));
        if self.sinks.iter().all(|sink| sink.queue().is_some()) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return self.lost.add(1, &"the server has ended");
        };
        if self.tasks.len() > AFTERWARDS {
            return self.lost.add(1, &"too many events wait to be written");
        }
        let audit = Arc::clone(self);
        self.tasks.spawn_on(
            async move {
                for sink in audit.sinks.iter().filter(|sink| sink.queue().is_none()) {
                    sink.take(&event).await;
                }
            },
            &runtime,
        );
    }

    /// Writes what waits.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(PATIENCE, self.tasks.wait()).await.is_err() {
            tracing::warn!("audit events that could not be written in time are lost");
        }
    }
}

/// What the policy goes by.
fn subject<'a>(info: &'a RequestInfo, who: Option<&'a Identity>, name: Option<&'a str>) -> Subject<'a> {
    Subject {
        user: who.map(|who| (who.username.as_str(), who.groups.as_slice())),
        verb: &info.verb,
        is_resource: info.is_resource,
        path: &info.path,
        group: &info.group,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: namespace(info).unwrap_or_default(),
        name: name.unwrap_or_default(),
    }
}

/// The namespace of a request; a Namespace is in itself.
fn namespace(info: &RequestInfo) -> Option<&str> {
    let is_itself = info.group.is_empty() && info.resource == "namespaces";
    info.namespace.as_deref().or(info.name.as_deref().filter(|_| is_itself))
}

/// A caller as events tell it.
fn user(who: &Identity) -> User {
    User {
        username: who.username.clone(),
        uid: who.uid.clone().unwrap_or_default(),
        groups: who.groups.clone(),
        extra: who.extra.clone(),
    }
}

/// What is known of a request when it comes.
fn event<B>(
    info: &RequestInfo,
    who: Option<&Identity>,
    request: &Request<B>,
    id: &HeaderValue,
    level: Level,
) -> Event {
    let text = |value: Option<&HeaderValue>| {
        value.map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned()).unwrap_or_default()
    };
    let headers: &HeaderMap = request.headers();
    let remote: Option<IpAddr> = request.extensions().get::<PeerAddress>().map(|it| it.0.ip());
    let reference = || ObjectReference {
        resource: info.resource.clone(),
        namespace: namespace(info).unwrap_or_default().to_owned(),
        name: info.object_name().unwrap_or_default().into_owned(),
        api_group: info.group.clone(),
        api_version: info.version.clone(),
        subresource: info.subresource.clone(),
        ..ObjectReference::default()
    };
    let now = Timestamp::now();
    Event {
        level,
        audit_id: text(Some(id)),
        stage: Stage::RequestReceived,
        request_uri: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
        verb: info.verb.clone(),
        user: who.map(user).unwrap_or_default(),
        impersonated_user: None,
        authentication_metadata: None,
        source_ips: source::ips(headers, remote),
        user_agent: user_agent(&text(headers.get(http::header::USER_AGENT))),
        object_ref: info.is_resource.then(reference),
        response_status: None,
        request_object: None,
        response_object: None,
        request_received_timestamp: now,
        stage_timestamp: now,
        annotations: Default::default(),
    }
}

/// Whether the resource is deprecated in the version that is asked for.
fn is_deprecated(catalog: &Catalog, info: &RequestInfo) -> bool {
    let found = catalog.find(&info.group, &info.version, &info.resource).filter(|_| info.is_resource);
    found.is_some_and(|resource| match &resource.custom {
        Some(custom) => custom.deprecation.is_some(),
        None => warnings::deprecated(resource).is_some(),
    })
}

#[cfg(test)]
mod tests;
