//! OpenAPI v3, by group and version: which operations there are, which parameters they take, and the fields of
//! their kinds. kubectl reads it for `explain`, and to learn that fields are validated by the server.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use keelson_api::{Catalog, GroupVersion, ResourceInfo, Status};
use ring::digest;
use serde_json::{Map, Value, json};

use crate::registry::Registry;

mod custom;

fn path(group_version: &GroupVersion) -> String {
    if group_version.group.is_empty() {
        format!("api/{}", group_version.version)
    } else {
        format!("apis/{group_version}")
    }
}

/// The generated definitions: kinds to names, and the definitions by name. They are large, and dropped after use.
struct Definitions {
    kinds: Map<String, Value>,
    all: Map<String, Value>,
}

impl Definitions {
    fn read() -> Self {
        let (kinds, all) = keelson_api::schema::definitions();
        Definitions { kinds, all }
    }

    fn name(&self, resource: &ResourceInfo) -> Option<&str> {
        let key = format!("{}/{}/{}", resource.group, resource.version, resource.kind);
        self.kinds.get(&key)?.as_str()
    }

    /// The definitions of some kinds and of all that they refer to.
    fn components(&self, resources: &[&ResourceInfo], registry: &Registry) -> Map<String, Value> {
        let mut wanted: Vec<String> =
            resources.iter().filter_map(|it| self.name(it).map(str::to_owned)).collect();
        if resources.iter().any(|resource| resource.custom.is_some()) {
            wanted.push(custom::METADATA.to_owned());
        }
        let mut seen: BTreeSet<String> = wanted.iter().cloned().collect();
        let mut components = Map::new();
        while let Some(name) = wanted.pop() {
            let Some(definition) = self.all.get(&name) else { continue };
            let mut definition = definition.clone();
            link(&mut definition, &mut |child| {
                if seen.insert(child.to_owned()) {
                    wanted.push(child.to_owned());
                }
            });
            components.insert(name, definition);
        }
        for resource in resources {
            let kind = json!([{"group": resource.group, "version": resource.version, "kind": resource.kind}]);
            if let Some(Value::Object(definition)) =
                self.name(resource).and_then(|name| components.get_mut(name))
            {
                definition.insert("x-kubernetes-group-version-kind".into(), kind);
            }
        }
        let fields = self.all.get(custom::MODEL).and_then(|model| model.get("properties"));
        for resource in resources.iter().filter(|it| it.custom.is_some()) {
            if let Some(definition) = custom::definition(registry, resource, fields.unwrap_or(&Value::Null)) {
                components.insert(custom::name(resource), definition);
            }
        }
        components
    }
}

/// Turns references into those of a document, and tells of each. A reference with a text beside it is wrapped, as
/// the format wants it.
fn link(value: &mut Value, found: &mut impl FnMut(&str)) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(name)) = fields.get("$ref") {
                found(name);
                let reference = json!({"$ref": format!("#/components/schemas/{name}")});
                fields.remove("$ref");
                if fields.is_empty() {
                    *value = reference;
                } else {
                    fields.insert("allOf".into(), json!([reference]));
                }
                return;
            }
            fields.values_mut().for_each(|child| link(child, found));
        }
        Value::Array(items) => items.iter_mut().for_each(|child| link(child, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The index: a document for each group and version, named by the hash of its content, or of what a custom resource's
/// content is made from. The entries of built-in resources are made once, and kept in `builtin`.
pub(super) fn index(registry: &Registry, catalog: &Catalog, builtin: &OnceLock<Value>) -> Value {
    let mut index = builtin.get_or_init(|| builtin_index(registry, catalog)).clone();
    let resources = catalog.resources();
    let is_custom = |group_version: &GroupVersion| {
        resources.iter().any(|it| it.custom.is_some() && it.group_version() == *group_version)
    };
    for group_version in catalog.group_versions().iter().filter(|it| is_custom(it)) {
        let own = resources.iter().filter(|it| it.group_version() == *group_version);
        let hash = custom::hash(own.filter_map(|it| it.custom.as_deref()));
        add_entry(&mut index, group_version, &hash);
    }
    index
}

fn builtin_index(registry: &Registry, catalog: &Catalog) -> Value {
    let mut builtin = Catalog::default();
    for resource in catalog.resources().iter().filter(|it| it.custom.is_none()) {
        builtin.insert(Arc::clone(resource));
    }
    let definitions = Definitions::read();
    let mut index = json!({"paths": {}});
    for group_version in builtin.group_versions() {
        let text = build(registry, &builtin, &group_version, &definitions).to_string();
        let hash = hex::encode_upper(digest::digest(&digest::SHA256, text.as_bytes()));
        add_entry(&mut index, &group_version, &hash);
    }
    index
}

fn add_entry(index: &mut Value, group_version: &GroupVersion, hash: &str) {
    let path = path(group_version);
    let url = format!("/openapi/v3/{path}?hash={hash}");
    index["paths"][path] = json!({"serverRelativeURL": url});
}

/// The document of a group and version.
pub(super) fn document(
    registry: &Registry,
    catalog: &Catalog,
    group_version: &GroupVersion,
) -> Result<Value, Status> {
    if !catalog.group_versions().contains(group_version) {
        return Err(Status::path_not_found());
    }
    Ok(build(registry, catalog, group_version, &Definitions::read()))
}

fn build(
    registry: &Registry,
    catalog: &Catalog,
    group_version: &GroupVersion,
    definitions: &Definitions,
) -> Value {
    let mut paths = Map::new();
    let base = path(group_version);
    let resources: Vec<&ResourceInfo> = catalog
        .resources()
        .iter()
        .filter(|it| it.group_version() == *group_version)
        .map(AsRef::as_ref)
        .collect();
    for resource in &resources {
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
        "paths": paths, "components": {"schemas": definitions.components(&resources, registry)},
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
