//! The verbs on stored resources.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use jiff::Timestamp;
use keelson_api::{Object, ResourceInfo, Status, convert, protobuf, validation};
use serde_json::{Value, json as document};

use super::field_validation::{self, Text};
use super::negotiation::{Endpoint, Form, Media, Wanted, wanted};
use super::sent::{Sent, check_name};
use super::{
    ApiState, authorize, body, delete_options, encoding, json, method_not_allowed, patch, table, target,
    watch, write_options,
};
use crate::admission::Remarks;
use crate::admission::remarks::warn;
use crate::cache::{self, Cached};
use crate::custom_resources::creations;
use crate::identity::Identity;
use crate::registry::delete::{DeleteOptions, Deleted};
use crate::registry::list::{Page, options};
use crate::registry::{Target, WriteOptions, Written, replace};
use crate::request_info::RequestInfo;

/// Serves a verb.
pub(super) async fn serve(
    state: &Arc<ApiState>,
    identity: Identity,
    info: RequestInfo,
    resource: Arc<ResourceInfo>,
    request: Request<Body>,
) -> Result<Response, Status> {
    let has_message = message(&resource).is_some();
    let endpoint = match info.verb.as_str() {
        "watch" => Endpoint::Watch { has_message },
        _ if has_message => Endpoint::Objects,
        _ => Endpoint::Custom,
    };
    let wanted = wanted(request.headers(), &info, endpoint)?;
    let has_verb = match resource.subresource(&info.subresource) {
        Some(subresource) => subresource.verbs.contains(&info.verb),
        None => resource.has_verb(&info.verb),
    };
    // Of built-in kinds a body is always sent.
    let is_bare = request.method() == Method::HEAD && resource.custom.is_none();
    let is_collection = info.name.is_none() && matches!(info.verb.as_str(), "update" | "patch");
    if !has_verb || is_bare || is_collection {
        return Err(method_not_allowed(&resource, &info));
    }
    let Some(custom) = resource.custom.clone() else {
        let deprecated = keelson_api::warnings::deprecated(&resource);
        let mut response = answer(state, identity, info, resource, request, wanted).await?;
        if let Some(text) = deprecated {
            warn(response.headers_mut(), &[text.to_owned()]);
        }
        return Ok(response);
    };
    if custom.terminating && info.verb == "create" {
        let mut status = method_not_allowed(&resource, &info);
        status.message = creations::terminating().message;
        return Err(status);
    }
    let mut response = answer(state, identity, info, resource, request, wanted).await?;
    warn(response.headers_mut(), custom.deprecation.as_slice());
    Ok(response)
}

async fn answer(
    state: &Arc<ApiState>,
    identity: Identity,
    info: RequestInfo,
    resource: Arc<ResourceInfo>,
    request: Request<Body>,
    wanted: Wanted,
) -> Result<Response, Status> {
    if info.verb == "watch" {
        return watch::serve(&state.registry, &info, &resource, wanted).await;
    }
    let response = whole(state, identity, info, resource, request, wanted).await?;
    Ok(encoding::finish(response, wanted).await)
}

/// The answers that are no streams. What is not in the encoding that is wanted is JSON.
async fn whole(
    state: &Arc<ApiState>,
    identity: Identity,
    info: RequestInfo,
    resource: Arc<ResourceInfo>,
    request: Request<Body>,
    wanted: Wanted,
) -> Result<Response, Status> {
    match info.verb.as_str() {
        "list" => {
            let mut page = state.registry.list(&info, &resource).await?;
            page.objects = state.registry.served_objects(&resource, page.objects).await?;
            listed(&info, &resource, &page, wanted)
        }
        "get" => {
            let target = target(&info, state.registry.stored(&resource)?);
            // Another server may have written it.
            if let Some(revision) = options::revision(&info, &resource.group_resource())? {
                state.registry.reach(revision).await?;
            }
            if info.subresource == "scale" {
                let scale = state.registry.scale(&target).await?;
                let scale = if wanted.form == Form::Table { table::of_scale(scale) } else { scale };
                return Ok(json(StatusCode::OK, &scale));
            }
            let found = state.registry.get(&target)?;
            if let Some(kind) = shared_message(&resource, &found, wanted) {
                let parts = &[found.message(kind)?];
                let version = resource.group_version().to_string();
                let document = protobuf::envelope(&version, &resource.kind, parts);
                return Ok(encoding::protobuf(StatusCode::OK, document));
            }
            let bytes = state.registry.served_bytes(&resource, found.bytes.clone()).await?;
            one(&info, &resource, StatusCode::OK, bytes, wanted.form)
        }
        "create" | "update" | "patch" | "delete" | "deletecollection" => {
            write(state, identity, info, resource, request, wanted.form).await
        }
        _ => Err(method_not_allowed(&resource, &info)),
    }
}

async fn write(
    state: &Arc<ApiState>,
    identity: Identity,
    info: RequestInfo,
    resource: Arc<ResourceInfo>,
    request: Request<Body>,
    form: Form,
) -> Result<Response, Status> {
    let (parts, content) = request.into_parts();
    let raw = body::read(content).await?;
    let mut options = write_options(&info, &resource, identity, &parts.headers)?;
    if let Some(remarks) = parts.extensions.get() {
        options.remarks = Arc::clone(remarks);
    }
    let target = target(&info, state.registry.stored(&resource)?);
    let sent = Sent { headers: &parts.headers, raw: &raw };
    let written = match info.verb.as_str() {
        "create" => create(state, &info, &resource, target, sent, &options).await?,
        "update" => {
            if let Some(subresource) = resource.subresource("scale").filter(|it| it.name == info.subresource)
            {
                let scale = sent.document(&info, &subresource.kind, &options.remarks)?;
                check_name(&scale, &target)?;
                let scale = state.registry.set_scale(&target, &scale, &options).await?;
                return Ok(json(StatusCode::OK, &scale));
            }
            let mut object = body::object(body::value(&parts.headers, &raw)?, &resource.gvk())?;
            let text = Text::of(&parts.headers, &raw);
            field_validation::check(&info, &mut object, text, &resource, &options.remarks)?;
            convert::convert(&mut object, &convert::storage_kind(&target.resource));
            check_name(&object, &target)?;
            if info.subresource == "finalize" {
                state.registry.finalize(&target, &object, &options).await?
            } else if replace::creates(&target) && state.registry.find(&target).is_none() {
                // Who may replace may not therefore create.
                let creation = RequestInfo { verb: "create".to_owned(), ..info.clone() };
                authorize(state, &options.identity, &creation).await?;
                state.registry.create(target, object, &options).await?
            } else {
                let replaced = |_: &Object| {
                    replace::check_revision(&target, &object)?;
                    Ok(object.clone())
                };
                state.registry.update(&target, &options, replaced).await?
            }
        }
        "patch" => {
            let outcome =
                patch::serve(state, &info, &resource, &target, &parts.headers, &raw, &options).await?;
            match outcome {
                patch::Patched::Object(written) => written,
                patch::Patched::Scale(scale) => return Ok(json(StatusCode::OK, &scale)),
            }
        }
        _ => {
            let delete = delete_options::read(&info, &parts.headers, &raw)?;
            options.dry_run |= !delete.dry_run.is_empty();
            if info.verb == "deletecollection" {
                return delete_collection(state, &info, &resource, &target, &delete, &options).await;
            }
            if !info.subresource.is_empty() {
                return Err(method_not_allowed(&resource, &info));
            }
            let deleted = state.registry.delete(&target, &delete, &options).await?;
            let ends = matches!(deleted, Deleted::Ending(_));
            let deleted = match deleted {
                Deleted::Ending(bytes) => {
                    Deleted::Ending(state.registry.served_bytes(&resource, bytes).await?)
                }
                gone @ Deleted::Gone { .. } => gone,
            };
            let mut response = gone(&info, &resource, &target, deleted, form)?;
            if ends && delete.orphan_dependents == Some(false) {
                *response.status_mut() = StatusCode::ACCEPTED;
            }
            return Ok(response);
        }
    };
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let bytes = state.registry.served_bytes(&resource, written.bytes).await?;
    one(&info, &resource, code, bytes, form)
}

async fn create(
    state: &ApiState,
    info: &RequestInfo,
    resource: &ResourceInfo,
    target: Target,
    sent: Sent<'_>,
    options: &WriteOptions,
) -> Result<Written, Status> {
    let subresource = resource.subresource(&info.subresource);
    if let Some(subresource) = subresource.filter(|it| matches!(it.name.as_str(), "binding" | "eviction")) {
        let object = sent.document(info, &subresource.kind, &options.remarks)?;
        if info.subresource == "binding" {
            state.registry.bind(&target, object, options).await?;
        } else {
            state.registry.evict(&target, object, options).await?;
        }
        let status = document!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
        return Ok(Written { bytes: status.to_string().into(), created: true });
    }
    if !info.subresource.is_empty() || info.name.is_some() {
        return Err(method_not_allowed(&target.resource, info));
    }
    let mut object = body::object(body::value(sent.headers, sent.raw)?, &resource.gvk())?;
    let text = Text::of(sent.headers, sent.raw);
    field_validation::check(info, &mut object, text, resource, &options.remarks)?;
    let errors = validation::validate_served(&resource.gvk(), &object);
    if !errors.is_empty() {
        return Err(Status::invalid(&resource.gvk(), object.name().unwrap_or_default(), &errors));
    }
    convert::convert(&mut object, &convert::storage_kind(&target.resource));
    state.registry.create(target, object, options).await
}

/// A Binding that is posted for itself names its pod.
pub(super) async fn bind(
    state: &ApiState,
    identity: Identity,
    info: RequestInfo,
    resource: &ResourceInfo,
    request: Request<Body>,
) -> Result<Response, Status> {
    if info.verb != "create" || info.name.is_some() || !info.subresource.is_empty() {
        return Err(method_not_allowed(resource, &info));
    }
    let (parts, content) = request.into_parts();
    let raw = body::read(content).await?;
    let remarks: Arc<Remarks> = parts.extensions.get().cloned().unwrap_or_default();
    let binding = Sent { headers: &parts.headers, raw: &raw }.document(&info, &resource.gvk(), &remarks)?;
    let catalog = state.registry.catalog();
    let pods = catalog.find("", "v1", "pods").cloned().ok_or_else(Status::path_not_found)?;
    let name = binding.name().unwrap_or_default().to_owned();
    let info = RequestInfo {
        resource: "pods".to_owned(),
        subresource: "binding".to_owned(),
        name: Some(name),
        ..info
    };
    let mut options = write_options(&info, &pods, identity, &parts.headers)?;
    options.remarks = remarks;
    state.registry.bind(&target(&info, pods), binding, &options).await?;
    let status = document!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    Ok(json(StatusCode::CREATED, &status))
}

async fn delete_collection(
    state: &ApiState,
    info: &RequestInfo,
    resource: &Arc<ResourceInfo>,
    collection: &Target,
    delete: &DeleteOptions,
    options: &WriteOptions,
) -> Result<Response, Status> {
    use futures::{FutureExt, StreamExt, TryStreamExt};
    let page = state.registry.list(info, resource).await?;
    let how = Arc::new((delete.clone(), options.clone()));
    let mut deletions = Vec::with_capacity(page.objects.len());
    for object in &page.objects {
        let target = Target {
            resource: Arc::clone(&collection.resource),
            namespace: object.namespace.as_deref().map(str::to_owned),
            name: object.name.to_string(),
            subresource: String::new(),
        };
        let (registry, how) = (Arc::clone(&state.registry), Arc::clone(&how));
        deletions.push(
            async move {
                match registry.delete(&target, &how.0, &how.1).await {
                    Err(status) if status.code == 404 => Ok(()),
                    outcome => outcome.map(drop),
                }
            }
            .boxed(),
        );
    }
    futures::stream::iter(deletions).buffer_unordered(64).try_collect::<()>().await?;
    listed(info, resource, &page, Wanted { form: Form::Object, media: Media::Json, pretty: false })
}

fn gone(
    info: &RequestInfo,
    resource: &ResourceInfo,
    target: &Target,
    deleted: Deleted,
    form: Form,
) -> Result<Response, Status> {
    match deleted {
        Deleted::Gone { uid } => {
            let status = Status::deleted(&target.group_resource(), &target.name, &uid);
            Ok(json(StatusCode::OK, &status.to_value()))
        }
        Deleted::Ending(bytes) => one(info, resource, StatusCode::OK, bytes, form),
    }
}

/// The message of a resource's kind, where every client may have it: those of custom resources are JSON alone.
pub(super) fn message(resource: &ResourceInfo) -> Option<protobuf::Message> {
    if resource.custom.is_some() {
        return None;
    }
    protobuf::Message::of(&resource.group_version().to_string(), &resource.kind)
}

/// The message that an object is kept as for all who ask, if it is one.
fn shared_message(resource: &ResourceInfo, found: &Cached, wanted: Wanted) -> Option<protobuf::Message> {
    let is_asked = wanted.media == Media::Protobuf && wanted.form == Form::Object;
    message(resource).filter(|_| is_asked && is_as_served(resource, &found.bytes))
}

/// A list in protobuf: its head, and the messages that its objects are kept as.
fn listed_messages(resource: &ResourceInfo, page: &Page, metadata: &Value) -> Result<Response, Status> {
    let version = resource.group_version().to_string();
    let lists = protobuf::Message::of(&version, &resource.list_kind);
    let (Some(kind), Some(list)) = (message(resource), lists) else {
        return Err(Status::internal(format!("{} has no message", resource.list_kind)));
    };
    let head = list.encode(document!({"metadata": metadata}).to_string().as_bytes());
    let head = head.map_err(Status::internal)?;
    let mut items = Vec::with_capacity(page.objects.iter().map(|object| object.bytes.len()).sum());
    for object in &page.objects {
        if is_as_served(resource, &object.bytes) {
            protobuf::item(object.message(kind)?, &mut items);
        } else {
            let bytes = served(resource, object.bytes.clone())?;
            protobuf::item(&kind.encode(&bytes).map_err(Status::internal)?, &mut items);
        }
    }
    let document = protobuf::envelope(&version, &resource.list_kind, &[&head, &items]);
    Ok(encoding::protobuf(StatusCode::OK, document))
}

/// Whether a stored document is served as the bytes that it is.
pub(super) fn is_as_served(resource: &ResourceInfo, stored: &[u8]) -> bool {
    match &resource.custom {
        Some(custom) => custom.is_as_served(stored),
        None => !convert::is_converted(resource),
    }
}

/// Brings a stored object into the version that is served.
pub(super) fn serve_as(resource: &ResourceInfo, object: &mut Object) {
    convert::convert(object, &resource.gvk());
    if let Some(custom) = &resource.custom {
        custom.complete(object);
    }
}

/// A stored document in the version that is served.
pub(super) fn served(resource: &ResourceInfo, bytes: Bytes) -> Result<Bytes, Status> {
    if is_as_served(resource, &bytes) {
        return Ok(bytes);
    }
    let mut object = cache::decode(&bytes)?;
    // An answer that is no object of this kind, such as a Status, goes as it is.
    let stored = convert::storage_kind(resource);
    if object.kind() != stored.kind || object.gvk().group != stored.group {
        return Ok(bytes);
    }
    serve_as(resource, &mut object);
    serde_json::to_vec(&object.into_value()).map(Bytes::from).map_err(Status::internal)
}

/// One object in the form that is asked for.
fn one(
    info: &RequestInfo,
    resource: &ResourceInfo,
    code: StatusCode,
    bytes: Bytes,
    form: Form,
) -> Result<Response, Status> {
    match form {
        Form::Object | Form::AggregatedDiscovery => Ok(super::bytes(code, served(resource, bytes)?)),
        Form::Metadata => Ok(json(code, &table::metadata_of(&cache::decode(&bytes)?))),
        Form::Table => {
            let object = cache::decode(&bytes)?;
            let version = object.resource_version().unwrap_or_default().to_owned();
            let rows = vec![table::row(info, resource, object, Timestamp::now())];
            let metadata = document!({"resourceVersion": version});
            Ok(json(code, &table::table(resource, metadata, rows, table::Columns::Shown)))
        }
    }
}

/// A list in the form that is asked for. Objects go out as the bytes that were committed.
fn listed(
    info: &RequestInfo,
    resource: &ResourceInfo,
    page: &Page,
    wanted: Wanted,
) -> Result<Response, Status> {
    let mut metadata = serde_json::Map::new();
    metadata.insert("resourceVersion".into(), page.revision.to_string().into());
    if !page.next.is_empty() {
        metadata.insert("continue".into(), page.next.as_str().into());
    }
    if let Some(remaining) = page.remaining {
        metadata.insert("remainingItemCount".into(), remaining.into());
    }
    let metadata = Value::Object(metadata);
    let decoded = || page.objects.iter().map(|object| cache::decode(&object.bytes));
    match wanted.form {
        Form::Table => {
            let now = Timestamp::now();
            let kind = resource.gvk();
            let ranked = |object: Object| {
                (keelson_api::table::rank(&kind, &object), table::row(info, resource, object, now))
            };
            let mut rows =
                decoded().map(|object| object.map(ranked)).collect::<Result<Vec<(i64, Value)>, Status>>()?;
            rows.sort_by_key(|(rank, _)| *rank);
            let rows = rows.into_iter().map(|(_, row)| row).collect();
            Ok(json(StatusCode::OK, &table::table(resource, metadata, rows, table::Columns::Shown)))
        }
        Form::Metadata => {
            let items = decoded()
                .map(|object| object.map(|object| table::metadata_of(&object)))
                .collect::<Result<Vec<Value>, Status>>()?;
            let list = document!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata, "items": items});
            Ok(json(StatusCode::OK, &list))
        }
        Form::Object | Form::AggregatedDiscovery if wanted.media == Media::Protobuf => {
            listed_messages(resource, page, &metadata)
        }
        Form::Object | Form::AggregatedDiscovery => {
            let size: usize = page.objects.iter().map(|object| object.bytes.len() + 1).sum();
            let mut out = BytesMut::with_capacity(size + 256);
            let head = document!({"kind": resource.list_kind, "apiVersion": resource.group_version().to_string(), "metadata": metadata});
            let head = head.to_string();
            out.put_slice(&head.as_bytes()[..head.len() - 1]);
            out.put_slice(b",\"items\":[");
            for (place, object) in page.objects.iter().enumerate() {
                if place > 0 {
                    out.put_u8(b',');
                }
                out.put_slice(&served(resource, object.bytes.clone())?);
            }
            out.put_slice(b"]}");
            Ok(super::bytes(StatusCode::OK, out.freeze()))
        }
    }
}
