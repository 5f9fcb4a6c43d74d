//! What is served: discovery.

use std::sync::Arc;

use axum::response::Response;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use keelson_api::{Catalog, GroupVersion, ResourceInfo, Status, convert};
use serde_json::{Value, json};

use super::negotiation::{Endpoint, Form, wanted};
use super::{ApiState, encoding, json as answer};
use crate::aggregation::Extension;
use crate::request_info::RequestInfo;

/// Serves the paths that are no resources.
pub(super) async fn serve(
    state: &ApiState,
    info: &RequestInfo,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Status> {
    if method != Method::GET && method != Method::HEAD {
        return Err(Status::method_not_allowed());
    }
    let parts: Vec<&str> = info.path.split('/').filter(|part| !part.is_empty()).collect();
    let catalog = state.registry.catalog();
    match parts.first() {
        None => return Ok(answer(StatusCode::OK, &json!({"paths": paths(&catalog, state)}))),
        Some(&("api" | "apis")) => {}
        Some(_) => return Err(Status::path_not_found()),
    }
    let endpoint = if parts.len() == 1 { Endpoint::Discovery } else { Endpoint::Document };
    let wanted = wanted(headers, info, endpoint)?;
    let is_aggregated = wanted.form == Form::AggregatedDiscovery;
    let extensions = state.aggregation.extensions();
    let document = match parts.as_slice() {
        ["api"] if is_aggregated => aggregated(&catalog, &[], Core::Only),
        ["apis"] if is_aggregated => aggregated(&catalog, &extensions, Core::Without),
        ["api"] => json!({
            "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses(state),
        }),
        ["apis"] => groups(&catalog, &extensions),
        ["api", "v1"] => resources(&catalog, &GroupVersion::parse("v1"))?,
        ["apis", group] => group_of(&catalog, &extensions, group).ok_or_else(Status::path_not_found)?,
        ["apis", group, version] => resources(&catalog, &GroupVersion::parse(&format!("{group}/{version}")))?,
        _ => return Err(Status::path_not_found()),
    };
    let mut response = encoding::finish(answer(StatusCode::OK, &document), wanted).await;
    if is_aggregated {
        let media = encoding::media_type(wanted.media, wanted.form);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    }
    Ok(response)
}

/// What the root shows beside groups and versions.
const PATHS: [&str; 12] = [
    "/.well-known/openid-configuration",
    "/api",
    "/apis",
    "/healthz",
    "/livez",
    "/metrics",
    "/metrics/slis",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/version",
];

/// What the root shows, sorted.
fn paths(catalog: &Catalog, state: &ApiState) -> Vec<String> {
    let mut all: Vec<String> = PATHS.iter().map(|path| (*path).to_owned()).collect();
    for it in group_versions(catalog, &state.aggregation.extensions()) {
        if it.group.is_empty() {
            all.push(format!("/api/{it}"));
        } else {
            all.extend([format!("/apis/{}", it.group), format!("/apis/{it}")]);
        }
    }
    all.sort();
    all.dedup();
    all
}

/// By which address clients reach this server, wherever they are.
fn addresses(state: &ApiState) -> Value {
    match state.advertised.get() {
        Some(address) => json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": address.to_string()}]),
        None => json!([]),
    }
}

/// A short name of the form in which a resource is stored: another one where that changes.
fn storage_version_hash(resource: &ResourceInfo) -> String {
    use base64::Engine as _;
    let stored = convert::storage_kind(resource);
    let version = if resource.custom.is_some() { &resource.storage_version } else { &stored.version };
    let name = format!("{}/{version}/{}", stored.group, stored.kind);
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(&digest.as_ref()[..8])
}

/// All groups and versions, those of other servers last; each once.
fn group_versions(catalog: &Catalog, extensions: &[Arc<Extension>]) -> Vec<GroupVersion> {
    let mut all = catalog.group_versions();
    for extension in extensions {
        let other = GroupVersion { group: extension.group.clone(), version: extension.version.clone() };
        if !all.contains(&other) {
            all.push(other);
        }
    }
    all
}

fn groups(catalog: &Catalog, extensions: &[Arc<Extension>]) -> Value {
    let mut names: Vec<String> = Vec::new();
    for group_version in group_versions(catalog, extensions) {
        if !group_version.group.is_empty() && !names.contains(&group_version.group) {
            names.push(group_version.group);
        }
    }
    let groups: Vec<Value> = names.iter().filter_map(|group| group_of(catalog, extensions, group)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group_of(catalog: &Catalog, extensions: &[Arc<Extension>], group: &str) -> Option<Value> {
    let versions: Vec<Value> = group_versions(catalog, extensions)
        .iter()
        .filter(|it| it.group == group)
        .map(|it| json!({"groupVersion": it.to_string(), "version": it.version}))
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": versions, "preferredVersion": preferred,
    }))
}

fn resources(catalog: &Catalog, group_version: &GroupVersion) -> Result<Value, Status> {
    let mut list = Vec::new();
    for resource in catalog.resources().iter().filter(|it| it.group_version() == *group_version) {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs,
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        if resource.is_stored() {
            entry["storageVersionHash"] = storage_version_hash(resource).into();
        }
        list.push(entry);
        for subresource in &resource.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, subresource.name), "singularName": "",
                "namespaced": resource.namespaced, "kind": subresource.kind.kind, "verbs": subresource.verbs,
            });
            if subresource.kind.group_version() != resource.group_version() {
                entry["group"] = subresource.kind.group.as_str().into();
                entry["version"] = subresource.kind.version.as_str().into();
            }
            list.push(entry);
        }
    }
    if list.is_empty() {
        return Err(Status::path_not_found());
    }
    Ok(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version.to_string(), "resources": list}),
    )
}

/// Which groups an aggregated document shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Core {
    Only,
    Without,
}

fn aggregated(catalog: &Catalog, extensions: &[Arc<Extension>], core: Core) -> Value {
    let mut items: Vec<(String, Vec<Value>)> = Vec::new();
    for group_version in group_versions(catalog, extensions) {
        if group_version.group.is_empty() != (core == Core::Only) {
            continue;
        }
        let elsewhere = extensions
            .iter()
            .find(|it| it.group == group_version.group && it.version == group_version.version);
        let resources: Vec<Value> = catalog
            .resources()
            .iter()
            .filter(|it| it.group_version() == group_version)
            .map(|it| aggregated_resource(it))
            .collect();
        let mut version =
            json!({"version": group_version.version, "resources": resources, "freshness": "Current"});
        if let Some(seen) = elsewhere.map(|it| it.seen.load()) {
            // What was read last is better than nothing, as long as it says so.
            version["resources"] = seen.resources.clone().unwrap_or_else(|| json!([]));
            version["freshness"] = if seen.is_fresh { "Current" } else { "Stale" }.into();
        }
        match items.iter_mut().find(|(group, _)| *group == group_version.group) {
            Some((_, versions)) => versions.push(version),
            None => items.push((group_version.group, vec![version])),
        }
    }
    let items: Vec<Value> = items
        .into_iter()
        .map(|(group, versions)| {
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    })
}

fn aggregated_resource(resource: &ResourceInfo) -> Value {
    let kind = |it: &keelson_api::GroupVersionKind| json!({"group": it.group, "version": it.version, "kind": it.kind});
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|it| json!({"subresource": it.name, "responseKind": kind(&it.kind), "verbs": it.verbs}))
        .collect();
    let mut entry = json!({
        "resource": resource.plural, "responseKind": kind(&resource.gvk()),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular, "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}
