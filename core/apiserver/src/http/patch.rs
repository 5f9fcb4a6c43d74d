//! The four patch formats.

use http::HeaderMap;
use jiff::Timestamp;
use keelson_api::{Object, Schema, Status, apply, patch};
use serde_json::Value;

use super::{ApiState, body};
use crate::registry::{Target, WriteOptions, Written};
use crate::request_info::RequestInfo;

const ACCEPTED: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// What a patch gave.
pub(super) enum Patched {
    Object(Written),
    Scale(Value),
}

/// Patches an object, or its scale.
pub(super) async fn serve(
    state: &ApiState,
    info: &RequestInfo,
    target: &Target,
    headers: &HeaderMap,
    raw: &[u8],
    options: &WriteOptions,
) -> Result<Patched, Status> {
    let format = body::media_type(headers);
    if !ACCEPTED.contains(&format.as_str()) {
        return Err(Status::unsupported_media_type(&ACCEPTED));
    }
    if format == "application/apply-patch+yaml" {
        return server_side_apply(state, info, target, raw, options).await.map(Patched::Object);
    }
    let document: Value = serde_json::from_slice(raw)
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    if info.subresource == "scale" {
        let mut scale = state.registry.scale(target)?;
        change(&format, &mut scale, &document, None)?;
        let scale = Object::from_value(scale).map_err(|error| Status::bad_request(error.to_string()))?;
        return state.registry.set_scale(target, &scale, options).await.map(Patched::Scale);
    }
    let schema = Schema::builtin(&target.resource.gvk());
    let names_revision = document.pointer("/metadata/resourceVersion").is_some();
    let written = state
        .registry
        .update(target, options, |live| {
            let mut value = live.clone().into_value();
            change(&format, &mut value, &document, schema.as_deref())?;
            let mut object = body::object(value, &target.resource.gvk())?;
            body::check_fields(info, &mut object, b"{}", schema.as_deref())?;
            if !names_revision {
                object.set_resource_version(None);
            }
            Ok(object)
        })
        .await?;
    Ok(Patched::Object(written))
}

fn change(format: &str, value: &mut Value, document: &Value, schema: Option<&Schema>) -> Result<(), Status> {
    let outcome = match (format, schema) {
        ("application/json-patch+json", _) => patch::json::apply(value, document),
        ("application/strategic-merge-patch+json", Some(schema)) => {
            patch::strategic::apply(value, document, schema)
        }
        // A Scale has neither lists nor maps that would merge in another way.
        ("application/strategic-merge-patch+json", None) | ("application/merge-patch+json", _) => {
            patch::merge::apply(value, document);
            Ok(())
        }
        _ => Err(patch::PatchError::UnsupportedMediaType),
    };
    outcome.map_err(|error| error.to_status())
}

async fn server_side_apply(
    state: &ApiState,
    info: &RequestInfo,
    target: &Target,
    raw: &[u8],
    options: &WriteOptions,
) -> Result<Written, Status> {
    if info.parameter("fieldManager").is_none_or(str::is_empty) {
        return Err(Status::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let gvk = target.resource.gvk();
    let schema = Schema::builtin(&gvk);
    let applied = body::object(body::yaml(raw)?, &gvk)?;
    let manager = apply::Manager { name: &options.manager, subresource: &target.subresource };
    let force = info.flag("force");
    let merged = |live: Option<&Object>| {
        apply::apply(live, &applied, manager, force, schema.as_deref(), Timestamp::now())
            .map_err(|error| error.to_status())
    };
    if state.registry.find(target).is_none() && target.subresource.is_empty() {
        return state.registry.create(target.clone(), merged(None)?, options).await;
    }
    state.registry.update(target, options, |live| merged(Some(live))).await
}
