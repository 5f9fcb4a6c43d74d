//! OpenAPI documents, by which clients learn fields and operations: version 3 by group and version, version 2 in one
//! piece. They are made when they are asked for, and named by a hash, so that clients ask once.

use std::sync::{Arc, OnceLock};

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, header};
use keelson_api::custom_resource::{CustomKind, GROUP, PLURAL, definition};
use keelson_api::openapi::{Definitions, Served, gnostic, merge, path, v2, v3};
use keelson_api::{Catalog, GroupResource, GroupVersion, ResourceInfo, Status};
use ring::digest;
use serde_json::{Value, json};

use super::ApiState;
use crate::cache;
use crate::registry::Registry;
use crate::request_info::RequestInfo;

/// What clients in Go ask for, in its two spellings.
const BINARY: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];
const JSON: &str = "application/json";

/// Serves `/openapi/...`.
pub(super) async fn serve(
    state: &Arc<ApiState>,
    info: &RequestInfo,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Status> {
    if method != Method::GET && method != Method::HEAD {
        return Err(Status::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ));
    }
    let (state, info, headers) = (Arc::clone(state), info.clone(), headers.clone());
    // Documents are large: making one must not hold up others' requests.
    let made = tokio::task::spawn_blocking(move || document(&state, &info, &headers));
    made.await.map_err(Status::internal)?
}

fn document(state: &ApiState, info: &RequestInfo, headers: &HeaderMap) -> Result<Response, Status> {
    let catalog = state.registry.catalog();
    let parts: Vec<&str> = info.path.split('/').filter(|part| !part.is_empty()).collect();
    let own = || index(&state.registry, &catalog, &state.openapi_index);
    let index = || {
        let mut index = own();
        for extension in state.aggregation.extensions() {
            if let Some(url) = &extension.seen.load().openapi {
                let path = format!("apis/{}/{}", extension.group, extension.version);
                index["paths"][path] = json!({"serverRelativeURL": url});
            }
        }
        index
    };
    let group_version = match parts.as_slice() {
        ["openapi", "v2"] => return swagger(state, &catalog, headers, &own()),
        ["openapi", "v3"] => {
            media(headers, &[JSON])?;
            return Ok(super::json(StatusCode::OK, &index()));
        }
        ["openapi", "v3", "api", version] => GroupVersion::parse(version),
        ["openapi", "v3", "apis", group, version] => GroupVersion::parse(&format!("{group}/{version}")),
        _ => return Err(Status::path_not_found()),
    };
    let index = index();
    let url = index["paths"][path(&group_version)]["serverRelativeURL"].as_str();
    let url = url.ok_or_else(Status::path_not_found)?;
    let hash = url.rsplit_once("hash=").map_or(url, |(_, hash)| hash);
    let asked = info.parameter("hash").filter(|asked| !asked.is_empty());
    if asked.is_some_and(|asked| asked != hash) {
        return Ok((StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, url.to_owned())]).into_response());
    }
    media(headers, &[JSON])?;
    let tag = format!("\"{hash}\"");
    let mut response = if is_known(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let of = |it: &&Arc<ResourceInfo>| it.group_version() == group_version;
        let resources: Vec<&Arc<ResourceInfo>> = catalog.resources().iter().filter(of).collect();
        super::json(StatusCode::OK, &build(&state.registry, &resources, &Definitions::read(), v3))
    };
    tell(&mut response, &tag)?;
    if asked.is_some() {
        // Under this name there will never be another one.
        let value = http::HeaderValue::from_static("public, immutable, max-age=31536000");
        response.headers_mut().insert(header::CACHE_CONTROL, value);
    }
    Ok(response)
}

fn swagger(
    state: &ApiState,
    catalog: &Catalog,
    headers: &HeaderMap,
    index: &Value,
) -> Result<Response, Status> {
    let media = media(headers, &[JSON, BINARY[0], BINARY[1]])?;
    let elsewhere: Vec<_> =
        state.aggregation.extensions().iter().filter_map(|it| it.swagger.load_full()).collect();
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(index.to_string().as_bytes());
    elsewhere.iter().for_each(|it| context.update(&it.hash));
    let hash = hex::encode_upper(context.finish());
    let tag = format!("\"{hash}\"");
    let mut response = if is_known(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let resources: Vec<&Arc<ResourceInfo>> = catalog.resources().iter().collect();
        let mut document = build(&state.registry, &resources, &Definitions::read(), v2::v2);
        elsewhere.iter().for_each(|it| merge::merge(&mut document, &it.part));
        let bytes = if media == JSON { document.to_string().into() } else { gnostic::encode(&document) };
        // The old spelling is no media type to who checks.
        let media = if media == JSON { JSON } else { BINARY[0] };
        ([(header::CONTENT_TYPE, media)], bytes).into_response()
    };
    tell(&mut response, &tag)?;
    Ok(response)
}

fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag)
}

fn tell(response: &mut Response, tag: &str) -> Result<(), Status> {
    let headers = response.headers_mut();
    headers.insert(header::ETAG, tag.parse().map_err(Status::internal)?);
    headers.insert(header::VARY, http::HeaderValue::from_static("Accept"));
    Ok(())
}

/// The first of the media types that the client takes.
fn media<'a>(headers: &HeaderMap, offered: &[&'a str]) -> Result<&'a str, Status> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    for item in accept.split(',') {
        let item = item.split(';').next().unwrap_or_default().trim();
        let matching = |it: &&&str| **it == item || matches!(item, "*/*" | "application/*");
        if let Some(found) = offered.iter().find(matching) {
            return Ok(found);
        }
    }
    Err(Status::not_acceptable(offered))
}

type Make = fn(&[Served<'_>], &Definitions) -> Value;

fn build(
    registry: &Registry,
    resources: &[&Arc<ResourceInfo>],
    definitions: &Definitions,
    make: Make,
) -> Value {
    let schemas: Vec<Option<Value>> = resources.iter().map(|resource| schema(registry, resource)).collect();
    let served: Vec<Served<'_>> = resources
        .iter()
        .zip(&schemas)
        .filter(|(resource, schema)| resource.custom.is_none() || schema.is_some())
        .map(|(info, schema)| Served { info, schema: schema.as_ref() })
        .collect();
    make(&served, definitions)
}

/// The schema of a custom resource, as the stored definition has it.
fn schema(registry: &Registry, resource: &ResourceInfo) -> Option<Value> {
    let custom = resource.custom.as_ref()?;
    let stored = registry.resource(&GroupResource::new(GROUP, PLURAL)).get(&custom.definition)?;
    let stored = cache::decode(&stored.bytes).ok()?;
    let version =
        definition::versions(&stored).find(|version| version["name"] == resource.version.as_str())?;
    Some(version["schema"]["openAPIV3Schema"].clone())
}

/// A hash that is another one when one of the definitions is.
fn hash<'a>(kinds: impl Iterator<Item = &'a CustomKind>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for kind in kinds {
        context.update(kind.uid.as_bytes());
        context.update(&kind.fingerprint.to_be_bytes());
    }
    hex::encode_upper(context.finish())
}

/// The index: a document for each group and version, named by the hash of its content, or of what a custom resource's
/// content is made from. The entries of built-in resources are made once, and kept in `builtin`.
fn index(registry: &Registry, catalog: &Catalog, builtin: &OnceLock<Value>) -> Value {
    let mut index = builtin.get_or_init(|| builtin_index(registry, catalog)).clone();
    let resources = catalog.resources();
    let is_custom = |group_version: &GroupVersion| {
        resources.iter().any(|it| it.custom.is_some() && it.group_version() == *group_version)
    };
    for group_version in catalog.group_versions().iter().filter(|it| is_custom(it)) {
        let own = resources.iter().filter(|it| it.group_version() == *group_version);
        let hash = hash(own.filter_map(|it| it.custom.as_deref()));
        add_entry(&mut index, group_version, &hash);
    }
    index
}

fn builtin_index(registry: &Registry, catalog: &Catalog) -> Value {
    let builtin: Vec<&Arc<ResourceInfo>> =
        catalog.resources().iter().filter(|it| it.custom.is_none()).collect();
    let definitions = Definitions::read();
    let mut index = json!({"paths": {}});
    for group_version in catalog.group_versions() {
        let own: Vec<&Arc<ResourceInfo>> =
            builtin.iter().copied().filter(|it| it.group_version() == group_version).collect();
        if !own.is_empty() {
            let text = build(registry, &own, &definitions, v3).to_string();
            let hash = hex::encode_upper(digest::digest(&digest::SHA256, text.as_bytes()));
            add_entry(&mut index, &group_version, &hash);
        }
    }
    index
}

fn add_entry(index: &mut Value, group_version: &GroupVersion, hash: &str) {
    let path = path(group_version);
    let url = format!("/openapi/v3/{path}?hash={hash}");
    index["paths"][path] = json!({"serverRelativeURL": url});
}
