//! From an HTTP request of a known caller to an answer: authorization, decoding, the registry, encoding.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, Request, StatusCode, header};
use keelson_api::validation::{ErrorKind, FieldError};
use keelson_api::{GroupResource, GroupVersionKind, ResourceInfo, Status};

use crate::admission::Remarks;
use crate::aggregation::Aggregation;
use crate::audit::{Audit, Record};
use crate::authentication::Authenticator;
use crate::authentication::impersonate;
use crate::authorization::rbac::Rbac;
use crate::authorization::{Authorizer, Decision};
use crate::control_plane::{self, ControlPlane};
use crate::custom_resources::{Settled, is_definitions};
use crate::flow_control::{self, FlowControl};
use crate::identity::Identity;
use crate::insight::{self, Insight};
use crate::kubelet_proxy::KubeletProxy;
use crate::proxy::Proxy;
use crate::registry::{self, Registry, Target, WriteOptions};
use crate::request_info::RequestInfo;
use crate::snapshots::{self, Snapshots};
use negotiation::Endpoint;
use sent::Sent;

mod apply;
pub mod body;
mod components;
pub mod compression;
mod connect;
mod delete_options;
pub mod discovery;
mod encoding;
mod field_validation;
pub mod negotiation;
pub mod objects;
pub mod openapi;
pub mod patch;
pub mod reviews;
mod sent;
mod streams;
pub mod table;
mod tokens;
pub mod watch;

/// What requests are served from.
pub struct ApiState {
    /// Metrics and health.
    pub insight: Insight,
    /// Records requests, if that is configured.
    pub audit: Option<Arc<Audit>>,
    /// Snapshots of the store.
    pub snapshots: Arc<Snapshots>,
    /// Whose turn it is.
    pub flow_control: Arc<FlowControl>,
    /// How long a request may take that is no watch or stream.
    pub request_timeout: std::time::Duration,
    /// The registry.
    pub registry: Arc<Registry>,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
    /// Whose certificate or token a request carries.
    pub authenticator: Arc<Authenticator>,
    /// The RBAC part of the authorizer.
    pub rbac: Arc<Rbac>,
    /// Whether definitions of custom resources have been taken up.
    pub definitions: Settled,
    /// The way to kubelets.
    pub kubelets: KubeletProxy,
    /// The way to pods, Services and nodes.
    pub proxy: Proxy,
    /// The groups that other servers serve.
    pub aggregation: Arc<Aggregation>,
    /// The authority's certificate, in PEM.
    pub authority: String,
    /// The version that `/version` tells, such as `v1.36.0`.
    pub git_version: String,
    /// The index of OpenAPI documents, made when it is first asked for.
    pub openapi_index: std::sync::OnceLock<serde_json::Value>,
    /// The servers of this cluster, where its store is theirs.
    pub control_plane: Option<ControlPlane>,
    /// Where clients elsewhere find this server, once it listens.
    pub advertised: std::sync::OnceLock<std::net::SocketAddr>,
}

/// A failed request as its answer.
pub struct Failure(pub Status);

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure(status)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(code, &self.0.to_value());
        let seconds = self.0.details.get("retryAfterSeconds").and_then(serde_json::Value::as_u64);
        if let Some(seconds) = seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A JSON answer.
pub(crate) fn json(code: StatusCode, value: &serde_json::Value) -> Response {
    bytes(code, value.to_string().into())
}

/// An answer that is JSON already.
pub(crate) fn bytes(code: StatusCode, body: bytes::Bytes) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Serves one request.
pub fn handle(
    state: Arc<ApiState>,
    identity: Identity,
    request: Request<Body>,
) -> futures::future::BoxFuture<'static, Response> {
    Box::pin(async move {
        // What takes many steps inside others is boxed on its way: where nothing is optimized, each step would lie on the
        // stack once more, and the client of a component in this process has used some of it before.
        let info = RequestInfo::parse(request.method(), request.uri().path(), request.uri().query());
        let mut request = request;
        let call = state.insight.begin(&state.registry, &info, &request);
        let remarks = is_admitted(&info).then(|| {
            let remarks: &mut Arc<Remarks> = request.extensions_mut().get_or_insert_default();
            Arc::clone(remarks)
        });
        let failed = negotiation::failure(request.headers(), &info);
        let limit = insight::time_limit(&info, state.request_timeout);
        let audited = match &state.audit {
            Some(audit) => {
                let catalog = state.registry.catalog();
                let (id, remarks) = (call.trace.id(), remarks.as_ref());
                Box::pin(audit.begin(&catalog, &info, &identity, &mut request, id, remarks)).await
            }
            None => Ok(None),
        };
        let (record, outcome) = match audited {
            Ok(None) => {
                let serve = Box::pin(serve(&state, identity, info, request, failed));
                (None, call.run(&state, limit, serve).await)
            }
            Ok(Some(record)) => {
                let serve = Box::pin(serve(&state, identity, info, request, failed));
                let serve = call.run(&state, limit, serve);
                let outcome = Box::pin(record.watch_over(serve)).await;
                (Some(record), outcome)
            }
            Err(status) => (None, Err(status)),
        };
        let mut response = match outcome {
            Ok(response) => response,
            Err(status) => encoding::finish(Failure(status).into_response(), failed).await,
        };
        response.headers_mut().entry(header::CACHE_CONTROL).or_insert(NOT_KEPT);
        let mut asking = std::time::Duration::ZERO;
        if let Some(remarks) = remarks {
            remarks.write_to(response.headers_mut());
            asking = remarks.waiting();
        }
        if let Some(record) = record {
            response = Box::pin(record.finish(response)).await;
        }
        state.insight.end(call, response, asking)
    })
}

/// What was answered to one who may see it is kept for nobody else.
const NOT_KEPT: HeaderValue = HeaderValue::from_static("no-cache, private");

/// Whether a request goes through admission, so that there is a place for remarks about it.
fn is_admitted(info: &RequestInfo) -> bool {
    info.is_resource && (connect::opens(info) || !matches!(info.verb.as_str(), "get" | "list" | "watch"))
}

async fn serve(
    state: &Arc<ApiState>,
    identity: Identity,
    info: RequestInfo,
    mut request: Request<Body>,
    failed: negotiation::Wanted,
) -> Result<Response, Status> {
    let record = Record::of(&request);
    let headers = request.headers_mut();
    let acting = impersonate(state.authorizer.as_ref(), identity, headers, &info).await?;
    if let Some(record) = &record {
        record.acts(&acting);
    }
    let identity = acting.identity;
    Ok(match state.flow_control.enter(&state.registry, &identity, &info).await {
        Ok(turn) => {
            let response = match serve_in_turn(state, identity, info, request).await {
                Ok(response) => response,
                Err(status) => encoding::finish(Failure(status).into_response(), failed).await,
            };
            // A large answer holds its seats from here on: nobody looks into it any more.
            turn.hold(match record {
                Some(record) => record.answer(response).await,
                None => response,
            })
        }
        Err(refusal) => encoding::finish(*refusal, failed).await,
    })
}

async fn serve_in_turn(
    state: &Arc<ApiState>,
    identity: Identity,
    info: RequestInfo,
    mut request: Request<Body>,
) -> Result<Response, Status> {
    let record = Record::of(&request);
    if info.is_resource
        && !matches!(info.verb.as_str(), "list" | "watch")
        && info.parameter("resourceVersion").is_none()
        && state.aggregation.find(&info.path).is_none()
    {
        // What another server has acknowledged is what this one shows and decides by, also who may do what.
        Box::pin(state.registry.catch_up()).await?;
    }
    match &record {
        None => authorize(state, &identity, &info).await?,
        Some(record) => {
            let began = std::time::Instant::now();
            let opinion = record.authorize(state.authorizer.as_ref(), &identity, &info).await;
            state.insight.authorized(&opinion.decision, began.elapsed());
            if opinion.decision != Decision::Allow {
                return Err(forbidden(&identity, &info, &opinion.reason));
            }
        }
    }
    if let Some(extension) = state.aggregation.find(&info.path) {
        return Box::pin(extension.serve(&identity, request)).await;
    }
    if !info.is_resource {
        if info.path == flow_control::DUMP && request.method() == Method::GET {
            return Ok(state.flow_control.dump_levels().into_response());
        }
        if info.path == snapshots::PATH && request.method() == Method::GET {
            return Box::pin(state.snapshots.serve()).await;
        }
        if info.path == snapshots::DEFRAGMENT && request.method() == Method::POST {
            return state.snapshots.defragment().await;
        }
        if info.path.starts_with(control_plane::PREFIX) {
            return Box::pin(control_plane::serve(state, &info, request)).await;
        }
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        if let Some(answer) = state.insight.serve(&info, method, uri, headers, &state.git_version).await {
            return answer;
        }
        let known = match info.path.trim_end_matches('/') {
            "/.well-known/openid-configuration" => {
                Some((state.authenticator.signer().discovery(), "application/json"))
            }
            "/openid/v1/jwks" => Some((state.authenticator.signer().key_set(), "application/jwk-set+json")),
            _ => None,
        };
        if let Some((document, kind)) = known.filter(|_| request.method() == Method::GET) {
            let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "public, max-age=3600")];
            return Ok((headers, document.to_string()).into_response());
        }
        if info.path.starts_with("/openapi/") {
            return Box::pin(openapi::serve(state, &info, request.method(), request.headers())).await;
        }
        return discovery::serve(state, &info, request.method(), request.headers()).await;
    }
    if let Some(record) = &record {
        request = record.listen(request);
    }
    let catalog = state.registry.catalog();
    let resource = catalog
        .find(&info.group, &info.version, &info.resource)
        .cloned()
        .ok_or_else(Status::path_not_found)?;
    if resource.namespaced && info.namespace.is_none() && (info.name.is_some() || info.verb == "create") {
        return Err(Status::path_not_found());
    }
    if !resource.namespaced && info.namespace.is_some() {
        return Err(Status::path_not_found());
    }
    if resource.kind == "Binding" {
        return Box::pin(objects::bind(state, identity, info, &resource, request)).await;
    }
    if resource.kind == "ComponentStatus" && resource.group.is_empty() {
        return components::serve(state, &info, &resource, request.headers()).await;
    }
    if !resource.is_stored() {
        let wanted = negotiation::wanted(request.headers(), &info, Endpoint::Document)?;
        let response = Box::pin(reviews::serve(state, &identity, &info, &resource, request)).await?;
        return Ok(encoding::finish(response, wanted).await);
    }
    if !info.subresource.is_empty() && resource.subresource(&info.subresource).is_none() {
        return Err(Status::path_not_found());
    }
    if resource.kind == "ServiceAccount" && info.subresource == "token" {
        if info.verb != "create" {
            return Err(method_not_allowed(&resource, &info));
        }
        let kind =
            resource.subresource("token").map(|it| it.kind.clone()).ok_or_else(Status::path_not_found)?;
        let wanted = negotiation::wanted(request.headers(), &info, Endpoint::Document)?;
        let (parts, content) = request.into_parts();
        let raw = body::read(content).await?;
        let remarks: Arc<Remarks> = parts.extensions.get().cloned().unwrap_or_default();
        let asked = Sent { headers: &parts.headers, raw: &raw }.document(&info, &kind, &remarks)?;
        let (token, warnings) = Box::pin(tokens::create(state, &identity, &info, asked)).await?;
        let mut response = json(StatusCode::CREATED, &token);
        crate::admission::remarks::warn(response.headers_mut(), &warnings);
        return Ok(encoding::finish(response, wanted).await);
    }
    if streams::is_connect(&info) {
        return Box::pin(streams::serve(state, &identity, &info, &resource, request)).await;
    }
    let makes_namespace = resource.kind == "Namespace" && matches!(info.verb.as_str(), "create" | "patch");
    let defines = is_definitions(&resource) && !matches!(info.verb.as_str(), "get" | "list" | "watch");
    let response = objects::serve(state, identity, info, resource, request).await?;
    if defines {
        state.definitions.caught_up().await;
    }
    if makes_namespace && response.status() == StatusCode::CREATED {
        crate::server::bootstrap::fill_namespaces(&state.registry, &state.authority).await?;
    }
    Ok(response)
}

async fn authorize(state: &ApiState, identity: &Identity, info: &RequestInfo) -> Result<(), Status> {
    let began = std::time::Instant::now();
    let decision = state.authorizer.authorize(identity, info).await;
    state.insight.authorized(&decision, began.elapsed());
    match decision {
        Decision::Allow => Ok(()),
        Decision::Deny { reason } => Err(forbidden(identity, info, &reason)),
        Decision::NoOpinion => {
            let opinion = state.authorizer.explain(identity, info).await;
            Err(forbidden(identity, info, &opinion.reason))
        }
    }
}

/// The 403 for a request that no authorizer allows.
pub(crate) fn forbidden(identity: &Identity, info: &RequestInfo, reason: &str) -> Status {
    let user = &identity.username;
    let tail = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if !info.is_resource {
        let detail = format!("User {user:?} cannot {} path {:?}{tail}", info.verb, info.path);
        return Status::forbidden(&GroupResource::new("", ""), "", &detail);
    }
    let resource = match info.subresource.as_str() {
        "" => info.resource.clone(),
        subresource => format!("{}/{subresource}", info.resource),
    };
    let scope = match &info.namespace {
        Some(namespace) => format!(" in the namespace {namespace:?}"),
        None => " at the cluster scope".to_owned(),
    };
    let detail = format!(
        "User {user:?} cannot {} resource {resource:?} in API group {:?}{scope}{tail}",
        info.verb, info.group
    );
    let about = GroupResource::new(&info.group, &info.resource);
    Status::forbidden(&about, info.name.as_deref().unwrap_or_default(), &detail)
}

/// The object that a request names.
fn target(info: &RequestInfo, resource: Arc<ResourceInfo>) -> Target {
    Target {
        resource,
        namespace: info.namespace.clone(),
        name: info.name.clone().unwrap_or_default(),
        subresource: info.subresource.clone(),
    }
}

/// How a request wants its write made.
fn write_options(
    info: &RequestInfo,
    resource: &ResourceInfo,
    identity: Identity,
    headers: &http::HeaderMap,
) -> Result<WriteOptions, Status> {
    let mut faults = Vec::new();
    // Those of a deletion may stand in its body, and are read with it.
    let is_delete = matches!(info.verb.as_str(), "delete" | "deletecollection");
    let dry_run = info.parameter("dryRun").filter(|_| !is_delete);
    if let Some(other) = dry_run.filter(|value| *value != "All") {
        faults.push(FieldError::not_supported("dryRun", vec![other], &["All"]));
    }
    let dry_run = dry_run.is_some();
    let manager = info.parameter("fieldManager").unwrap_or_default();
    if manager.len() > MAX_MANAGER_BYTES {
        let detail = format!("may not be more than {MAX_MANAGER_BYTES} bytes");
        faults.push(FieldError {
            kind: ErrorKind::TooLong,
            ..FieldError::invalid("fieldManager", manager, detail)
        });
    }
    for (at, letter) in manager.char_indices().filter(|(_, letter)| letter.is_control()) {
        let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(letter));
        faults.push(FieldError::invalid("fieldManager", manager, detail));
    }
    let is_apply = info.verb == "patch" && body::media_type(headers) == patch::APPLY;
    if is_apply && manager.is_empty() {
        faults.push(FieldError::required("fieldManager", "is required for apply patch"));
    }
    if info.verb == "patch" && !is_apply && info.parameter("force").is_some_and(|force| !force.is_empty()) {
        faults.push(FieldError::forbidden("force", "may not be specified for non-apply patch"));
    }
    if !is_delete {
        faults.extend(field_validation::Directive::parse(info).err());
    }
    if !faults.is_empty() {
        return Err(invalid_options(info, &faults));
    }
    let manager = if manager.is_empty() { program(headers) } else { manager.to_owned() };
    Ok(WriteOptions {
        identity,
        manager,
        served: Some(resource.gvk()),
        record: registry::Record::Track,
        dry_run,
        admitted: false,
        remarks: Arc::default(),
    })
}

/// The longest name of a field manager.
const MAX_MANAGER_BYTES: usize = 128;

/// The program that sends a request, by its user agent: the manager of what it writes, if it names none.
fn program(headers: &http::HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    let name = agent.and_then(|agent| agent.split('/').next()).filter(|name| !name.is_empty());
    let mut program = String::new();
    for letter in name.unwrap_or("unknown").chars().filter(|letter| !letter.is_control()) {
        if program.len() + letter.len_utf8() > MAX_MANAGER_BYTES {
            break;
        }
        program.push(letter);
    }
    program
}

/// 405 for a verb that a resource does not have.
fn method_not_allowed(resource: &ResourceInfo, info: &RequestInfo) -> Status {
    match resource.custom {
        Some(_) => Status::method_not_supported(&resource.group_resource(), &info.verb),
        None => Status::method_not_allowed(),
    }
}

/// 422 for the options of a request.
fn invalid_options(info: &RequestInfo, faults: &[FieldError]) -> Status {
    let kind = match info.verb.as_str() {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        _ => "DeleteOptions",
    };
    Status::invalid(&GroupVersionKind::new("meta.k8s.io", "v1", kind), "", faults)
}
