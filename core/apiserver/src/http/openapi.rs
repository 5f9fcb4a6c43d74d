//! OpenAPI v3: which operations there are and which parameters they take, by group and version. kubectl reads it
//! to learn that fields are validated by the server.

use keelson_api::{Catalog, GroupVersion, ResourceInfo, Status};
use ring::digest;
use serde_json::{Map, Value, json};

fn path(group_version: &GroupVersion) -> String {
    if group_version.group.is_empty() {
        format!("api/{}", group_version.version)
    } else {
        format!("apis/{group_version}")
    }
}

/// The index: a document for each group and version, named by the hash of its content.
pub(super) fn index(catalog: &Catalog) -> Value {
    let mut paths = Map::new();
    for group_version in catalog.group_versions() {
        let text = build(catalog, &group_version).to_string();
        let hash = hex::encode_upper(digest::digest(&digest::SHA256, text.as_bytes()));
        let path = path(&group_version);
        paths.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}));
    }
    json!({"paths": paths})
}

/// The document of a group and version.
pub(super) fn document(catalog: &Catalog, group_version: &GroupVersion) -> Result<Value, Status> {
    if !catalog.group_versions().contains(group_version) {
        return Err(Status::path_not_found());
    }
    Ok(build(catalog, group_version))
}

fn build(catalog: &Catalog, group_version: &GroupVersion) -> Value {
    let mut paths = Map::new();
    let base = path(group_version);
    for resource in catalog.resources().iter().filter(|it| it.group_version() == *group_version) {
        let root = match resource.namespaced {
            true => format!("/{base}/namespaces/{{namespace}}/{}", resource.plural),
            false => format!("/{base}/{}", resource.plural),
        };
        let mut collection = Map::new();
        let mut item = Map::new();
        for verb in &resource.verbs {
            let Some((method, action)) = method(verb) else { continue };
            let place = match verb.as_str() {
                "list" | "create" | "deletecollection" => &mut collection,
                _ => &mut item,
            };
            place.insert(method.to_owned(), operation(resource, verb, action));
        }
        if !collection.is_empty() {
            paths.insert(root.clone(), collection.into());
        }
        if !item.is_empty() {
            paths.insert(format!("{root}/{{name}}"), item.into());
        }
    }
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths, "components": {"schemas": {}},
    })
}

fn method(verb: &str) -> Option<(&'static str, &'static str)> {
    match verb {
        "get" => Some(("get", "get")),
        "list" => Some(("get", "list")),
        "create" => Some(("post", "post")),
        "update" => Some(("put", "put")),
        "patch" => Some(("patch", "patch")),
        "delete" => Some(("delete", "delete")),
        "deletecollection" => Some(("delete", "deletecollection")),
        _ => None,
    }
}

fn operation(resource: &ResourceInfo, verb: &str, action: &str) -> Value {
    let parameters: &[&str] = match verb {
        "create" | "update" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "delete" => &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
        "list" => &["continue", "fieldSelector", "labelSelector", "limit", "resourceVersion", "watch"],
        _ => &[],
    };
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|name| {
            let kind = match *name {
                "force" | "watch" => "boolean",
                "limit" | "gracePeriodSeconds" => "integer",
                _ => "string",
            };
            json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
        })
        .collect();
    json!({
        "operationId": format!("{verb}{}{}", resource.version, resource.kind),
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
    })
}
