//! The four patch formats.

use http::HeaderMap;
use keelson_api::{ResourceInfo, Schema, Status, convert, patch};
use serde_json::Value;

use super::field_validation::{self, PatchedKind};
use super::{ApiState, apply, body};
use crate::registry::{Target, WriteOptions, Written};
use crate::request_info::RequestInfo;

/// Server-side apply.
pub(super) const APPLY: &str = "application/apply-patch+yaml";

const ACCEPTED: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    APPLY,
];

const CUSTOM_ACCEPTED: [&str; 3] = ["application/json-patch+json", "application/merge-patch+json", APPLY];

/// What a patch gave.
pub(super) enum Patched {
    Object(Written),
    Scale(Value),
}

/// Patches an object, or its scale.
pub(super) async fn serve(
    state: &ApiState,
    info: &RequestInfo,
    resource: &ResourceInfo,
    target: &Target,
    headers: &HeaderMap,
    raw: &[u8],
    options: &WriteOptions,
) -> Result<Patched, Status> {
    let format = body::media_type(headers);
    // What a strategic merge would go by is not known of custom resources.
    let is_custom = resource.custom.is_some();
    let accepted = if is_custom { &CUSTOM_ACCEPTED[..] } else { &ACCEPTED[..] };
    if !accepted.contains(&format.as_str()) {
        return Err(Status::unsupported_media_type(accepted));
    }
    if format == APPLY {
        return apply::serve(state, info, resource, target, raw, options).await;
    }
    let document: Value =
        body::json(raw).map_err(|why| Status::bad_request(format!("error decoding patch: {why}")))?;
    let said = field_validation::patch_faults(info, &format, raw)?;
    // A strategic patch is decoded without a text in between: then it is the patch that a refusal shows.
    let shown = |patched: &Value| match format.as_str() {
        "application/strategic-merge-patch+json" => field_validation::go_text(&document),
        _ => patched.to_string(),
    };
    if let Some(subresource) = resource.subresource("scale").filter(|it| it.name == info.subresource) {
        let mut scale = state.registry.scale(target).await?;
        change(&format, &mut scale, &document, None)?;
        let mut scale = body::object(scale, &subresource.kind)?;
        let schema = Schema::builtin(&subresource.kind);
        let kind = PatchedKind { schema: schema.as_deref(), is_custom: false };
        field_validation::check_patched(info, &mut scale, &said, shown, kind, &options.remarks)?;
        return state.registry.set_scale(target, &scale, options).await.map(Patched::Scale);
    }
    let gvk = resource.gvk();
    let schema = resource.schema();
    let stored = convert::storage_kind(&target.resource);
    let names_revision = names_revision(&document);
    let kind = PatchedKind { schema: schema.as_deref(), is_custom };
    let written = state
        .registry
        .update(target, options, |live| {
            let mut object = live.clone();
            convert::convert(&mut object, &gvk);
            let mut value = object.into_value();
            change(&format, &mut value, &document, schema.as_deref())?;
            let mut object = body::object(value, &gvk)?;
            field_validation::check_patched(info, &mut object, &said, shown, kind, &options.remarks)?;
            convert::convert(&mut object, &stored);
            if !names_revision {
                object.set_resource_version(None);
            }
            Ok(object)
        })
        .await?;
    Ok(Patched::Object(written))
}

/// Whether a patch says at which revision it is to be applied.
fn names_revision(patch: &Value) -> bool {
    match patch {
        Value::Array(operations) => operations.iter().any(|operation| {
            let value = &operation["value"];
            match (operation["op"].as_str(), operation["path"].as_str()) {
                (Some("add" | "replace" | "copy" | "move"), Some("/metadata/resourceVersion")) => true,
                (Some("add" | "replace"), Some("/metadata")) => value.get("resourceVersion").is_some(),
                (Some("add" | "replace"), Some("")) => value.pointer("/metadata/resourceVersion").is_some(),
                _ => false,
            }
        }),
        other => other.pointer("/metadata/resourceVersion").is_some(),
    }
}

fn change(format: &str, value: &mut Value, document: &Value, schema: Option<&Schema>) -> Result<(), Status> {
    if format != "application/json-patch+json" {
        patch::check_map(document).map_err(|error| error.to_status())?;
    }
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
