//! Server-side apply: a patch that creates its object where it is missing.

use jiff::Timestamp;
use keelson_api::apply::{self, Write};
use keelson_api::schema::yaml_faults;
use keelson_api::{GroupVersionKind, Object, ResourceInfo, Status, convert};

use super::field_validation::{self, Directive};
use super::patch::Patched;
use super::{ApiState, authorize};
use crate::registry::{self, Record, Target, WriteOptions};
use crate::request_info::RequestInfo;

/// How often an object that comes and goes between look and write is looked for again.
const ATTEMPTS: usize = 5;

/// Applies a configuration to an object, or to its scale.
pub(super) async fn serve(
    state: &ApiState,
    info: &RequestInfo,
    resource: &ResourceInfo,
    target: &Target,
    raw: &[u8],
    options: &WriteOptions,
) -> Result<Patched, Status> {
    let mut config = read(info, resource, target, raw)?;
    let directive = Directive::of(info)?;
    let twice = Some(raw).filter(|_| directive != Directive::Ignore).and_then(yaml_faults);
    let twice = twice.map(|lines| format!("error converting YAML to JSON: {lines}"));
    if let (Directive::Strict, Some(twice)) = (directive, &twice) {
        return Err(Status::bad_request(format!("error strict decoding YAML: {twice}")));
    }
    if let Some(schema) = registry::schema(&target.resource, &config.gvk()) {
        // Another way to write the same quantity is no other value.
        for (name, value) in &mut config.0 {
            schema.field(name).into_iter().for_each(|field| field.settle_quantities(value));
        }
    }
    let force = info.flag("force");
    if info.subresource == "scale" {
        let scale = state.registry.apply_scale(target, &config, force, options).await?;
        return Ok(Patched::Scale(scale));
    }
    let options = &WriteOptions { record: Record::Kept, ..options.clone() };
    let gvk = resource.gvk();
    let stored = convert::storage_kind(&target.resource);
    let find = |gvk: &GroupVersionKind| registry::schema(&target.resource, gvk);
    let is_custom = target.resource.custom.is_some();
    let merged = |live: Option<&Object>| {
        let mut live = live.cloned();
        if let Some(live) = &mut live {
            convert::convert(live, &gvk);
        }
        let write = Write {
            manager: &options.manager,
            subresource: &target.subresource,
            has_status: resource.subresource("status").is_some(),
            schemas: &find,
            schema_changes: resource.custom.as_ref().is_some_and(|custom| !custom.uniform),
            now: Timestamp::now(),
        };
        let mut object =
            apply::apply(live.as_ref(), &config, force, &write).map_err(|error| error.to_status())?;
        // Without a revision of its own an apply is tried again on the newest state.
        object.set_resource_version(config.resource_version());
        if let Some(why) =
            find(&gvk).and_then(|schema| field_validation::fields_error(&schema, &object, is_custom))
        {
            return Err(Status::bad_request(why));
        }
        convert::convert(&mut object, &stored);
        Ok(object)
    };
    let mut last = Status::modified(&target.group_resource(), &target.name);
    for _ in 0..ATTEMPTS {
        let outcome = if target.subresource.is_empty() && state.registry.find(target).is_none() {
            create(state, info, target, &config, || merged(None), options).await
        } else {
            state.registry.update(target, options, |live| merged(Some(live))).await
        };
        match outcome {
            Ok(written) => {
                if let Some(twice) = twice {
                    field_validation::warn(&options.remarks, &[twice]);
                }
                return Ok(Patched::Object(written));
            }
            Err(status) if target.subresource.is_empty() && is_gone_or_there(&status, target) => {
                last = status
            }
            Err(status) => return Err(status),
        }
    }
    Err(last)
}

/// Whether the object was created or deleted after it was looked for.
fn is_gone_or_there(status: &Status, target: &Target) -> bool {
    let about = status.details.get("kind").and_then(serde_json::Value::as_str);
    matches!(status.reason.as_str(), "AlreadyExists" | "NotFound")
        && about == Some(target.group_resource().resource.as_str())
}

async fn create(
    state: &ApiState,
    info: &RequestInfo,
    target: &Target,
    config: &Object,
    object: impl FnOnce() -> Result<Object, Status>,
    options: &WriteOptions,
) -> Result<registry::Written, Status> {
    // Who may patch may not therefore create.
    let creation = RequestInfo { verb: "create".to_owned(), ..info.clone() };
    authorize(state, &options.identity, &creation).await?;
    if let Some(uid) = config.uid().filter(|uid| !uid.is_empty()) {
        let detail = format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        );
        return Err(Status::conflict(&target.group_resource(), &target.name, &detail));
    }
    state.registry.create(target.clone(), object()?, options).await
}

/// Reads a configuration.
fn read(info: &RequestInfo, resource: &ResourceInfo, target: &Target, raw: &[u8]) -> Result<Object, Status> {
    let value = keelson_api::document::read(serde_yaml_ng::Deserializer::from_slice(raw))
        .map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?;
    let config = Object::from_value(value).map_err(|error| Status::bad_request(error.to_string()))?;
    let expected = match resource.subresource(&info.subresource) {
        Some(subresource) => subresource.kind.clone(),
        None => resource.gvk(),
    };
    let own = config.gvk();
    if own != expected {
        let text = format!("invalid object type: {}/{}, Kind={}", own.group, own.version, own.kind);
        return Err(Status::bad_request(text));
    }
    if let Some(name) = config.name().filter(|name| *name != target.name) {
        let text =
            format!("the name of the object ({name}) does not match the name on the URL ({})", target.name);
        return Err(Status::bad_request(text));
    }
    if let Some(namespace) = config.namespace()
        && target.namespace.as_deref() != Some(namespace)
    {
        let text = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(text));
    }
    Ok(config)
}
