//! Paths, verbs and parameters.

use serde_json::{Map, Value, json};

use super::definition::reference;
use super::{Definitions, Served, path};
use crate::kinds::{ResourceInfo, SubresourceInfo};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const CONNECT: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];

/// A parameter of requests: name, type, text.
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "If 'true', then the output is pretty printed.");
const DRY_RUN: Parameter = (
    "dryRun",
    "string",
    "When present, indicates that modifications should not be persisted. Valid values are: All.",
);
const MANAGER: Parameter = (
    "fieldManager",
    "string",
    "The name of the actor or entity that makes these changes, at most 128 printable characters.",
);
const VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "How the server handles unknown or duplicate fields: Ignore, Warn or Strict.",
);
const FORCE: Parameter =
    ("force", "boolean", "Apply takes over fields that others own. Unset for other patches.");
const LIST: [Parameter; 10] = [
    ("allowWatchBookmarks", "boolean", "Asks for events of type BOOKMARK."),
    ("continue", "string", "Where the next page begins, as a list has told."),
    ("fieldSelector", "string", "Restricts the objects by their fields. Defaults to everything."),
    ("labelSelector", "string", "Restricts the objects by their labels. Defaults to everything."),
    ("limit", "integer", "The most objects of one answer; a list that has more carries `continue`."),
    ("resourceVersion", "string", "Which state the answer may be from; unset for the newest."),
    ("resourceVersionMatch", "string", "How resourceVersion is applied to lists: Exact or NotOlderThan."),
    (
        "sendInitialEvents",
        "boolean",
        "Begins a watch with the objects that there are, and a bookmark after them.",
    ),
    ("timeoutSeconds", "integer", "How long the call lasts, whether or not anything happens."),
    ("watch", "boolean", "Sends changes as they happen, as events."),
];
const DELETE: [Parameter; 4] = [
    ("gracePeriodSeconds", "integer", "How long the object has to end; zero for at once."),
    (
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "boolean",
        "Deletes an object that cannot be read. Does nothing otherwise.",
    ),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
];

/// What an operation is made from.
struct Operation<'a> {
    resource: &'a Served<'a>,
    definitions: &'a Definitions,
    verb: &'a str,
    /// The path is of one namespace.
    in_namespace: bool,
    subresource: Option<&'a SubresourceInfo>,
    /// What is added to the operation's name.
    suffix: &'a str,
}

/// Adds the paths of a resource.
pub(super) fn paths(resource: &Served<'_>, definitions: &Definitions, paths: &mut Map<String, Value>) {
    let info = resource.info;
    let base = format!("/{}", path(&info.group_version()));
    let (root, all) = match info.namespaced {
        true => (
            format!("{base}/namespaces/{{namespace}}/{}", info.plural),
            Some(format!("{base}/{}", info.plural)),
        ),
        false => (format!("{base}/{}", info.plural), None),
    };
    let operation = |verb, in_namespace, suffix| {
        Operation { resource, definitions, verb, in_namespace, subresource: None, suffix }.build()
    };
    let mut add = |path: String, method: &str, operation: Value| {
        let item = paths.entry(path.clone()).or_insert_with(|| json!({"parameters": in_path(&path)}));
        item[method] = operation;
    };
    if let Some(all) = all {
        for verb in info.verbs.iter().filter(|verb| *verb == "list") {
            add(all.clone(), "get", operation(verb.as_str(), false, "ForAllNamespaces"));
        }
        if info.has_verb("watch") {
            let path = format!("{base}/watch/{}", info.plural);
            add(path, "get", operation("watchlist", false, "ListForAllNamespaces"));
        }
    }
    for verb in &info.verbs {
        let Some(method) = method(verb) else { continue };
        let place = match verb.as_str() {
            "list" | "create" | "deletecollection" => root.clone(),
            _ => format!("{root}/{{name}}"),
        };
        add(place, method, operation(verb.as_str(), info.namespaced, ""));
    }
    if info.has_verb("watch") {
        let watched = root.replacen(&base, &format!("{base}/watch"), 1);
        add(watched.clone(), "get", operation("watchlist", info.namespaced, "List"));
        add(format!("{watched}/{{name}}"), "get", operation("watch", info.namespaced, ""));
    }
    for subresource in &info.subresources {
        let place = format!("{root}/{{name}}/{}", subresource.name);
        for verb in &subresource.verbs {
            let Some(method) = method(verb) else { continue };
            let operation = |suffix| {
                let subresource = Some(subresource);
                let in_namespace = info.namespaced;
                Operation { resource, definitions, verb, in_namespace, subresource, suffix }.build()
            };
            add(place.clone(), method, operation(""));
            if subresource.name == "proxy" {
                add(format!("{place}/{{path}}"), method, operation("WithPath"));
            }
        }
    }
}

fn method(verb: &str) -> Option<&'static str> {
    match verb {
        "get" | "list" => Some("get"),
        "create" => Some("post"),
        "update" => Some("put"),
        "patch" => Some("patch"),
        "delete" | "deletecollection" => Some("delete"),
        _ => None,
    }
}

/// The parameters that a path has in itself, and the one of every request.
fn in_path(path: &str) -> Vec<Value> {
    let named = |name: &str, text: &str| {
        json!({"name": name, "in": "path", "required": true, "description": text,
            "schema": {"type": "string", "uniqueItems": true}})
    };
    let mut parameters = Vec::new();
    for (name, text) in [
        ("name", "name of the object"),
        ("namespace", "object name and auth scope, such as for teams and projects"),
        ("path", "path to the resource"),
    ] {
        if path.contains(&format!("{{{name}}}")) {
            parameters.push(named(name, text));
        }
    }
    parameters.push(in_query(&PRETTY));
    parameters
}

fn in_query((name, kind, text): &Parameter) -> Value {
    json!({"name": name, "in": "query", "description": text, "schema": {"type": kind, "uniqueItems": true}})
}

impl Operation<'_> {
    fn build(&self) -> Value {
        let info = self.resource.info;
        let mut operation = json!({
            "operationId": self.id(),
            "tags": [tag(info)],
            "description": self.description(),
            "x-kubernetes-action": self.action(),
            "responses": self.responses(),
        });
        let kind = self.subresource.map_or_else(|| info.gvk(), |subresource| subresource.kind.clone());
        operation["x-kubernetes-group-version-kind"] =
            json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let parameters = self.parameters();
        if !parameters.is_empty() {
            operation["parameters"] = parameters.iter().map(in_query).collect();
        }
        if let Some(body) = self.body() {
            operation["requestBody"] = body;
        }
        operation
    }

    fn connects(&self) -> bool {
        self.subresource.is_some_and(|subresource| {
            CONNECT.contains(&subresource.name.as_str()) && subresource.name != "log"
        })
    }

    fn action(&self) -> &str {
        if self.connects() {
            return "connect";
        }
        match self.verb {
            "create" => "post",
            "update" => "put",
            other => other,
        }
    }

    /// A name such as `listAppsV1NamespacedDeployment`.
    fn id(&self) -> String {
        let info = self.resource.info;
        let verb = match self.verb {
            "get" => "read",
            "update" => "replace",
            "deletecollection" => "delete",
            "watchlist" => "watch",
            other => other,
        };
        let collection = if self.verb == "deletecollection" { "Collection" } else { "" };
        let scope = if self.in_namespace { "Namespaced" } else { "" };
        let (verb, method) = match (self.connects(), method(self.verb)) {
            (true, Some(method)) => ("connect", capital(method)),
            (true, None) | (false, _) => (verb, String::new()),
        };
        let below = self.subresource.map(|it| subresource(&it.name)).unwrap_or_default();
        let (group, version) = (group(info), capital(&info.version));
        let kind = &info.kind;
        let suffix = self.suffix;
        format!("{verb}{group}{version}{method}{collection}{scope}{kind}{below}{suffix}")
    }

    fn description(&self) -> String {
        let kind = &self.resource.info.kind;
        let what = match self.subresource {
            Some(subresource) => format!("{} of the specified {kind}", subresource.name),
            None => format!("the specified {kind}"),
        };
        match self.verb {
            _ if self.connects() => format!("connect to {what}"),
            "get" => format!("read {what}"),
            "list" => format!("list or watch objects of kind {kind}"),
            "watch" => format!(
                "watch changes to an object of kind {kind}. deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter."
            ),
            "watchlist" => format!(
                "watch individual changes to a list of {kind}. deprecated: use the 'watch' parameter with a list operation instead."
            ),
            "create" if self.subresource.is_none() => format!("create a {kind}"),
            "create" => format!("create {what}"),
            "update" => format!("replace {what}"),
            "patch" => format!("partially update {what}"),
            "deletecollection" => format!("delete collection of {kind}"),
            "delete" => format!("delete a {kind}"),
            other => format!("{other} {what}"),
        }
    }

    fn parameters(&self) -> Vec<Parameter> {
        if self.connects() {
            return Vec::new();
        }
        match self.verb {
            "create" | "update" => vec![DRY_RUN, MANAGER, VALIDATION],
            "patch" => vec![DRY_RUN, MANAGER, VALIDATION, FORCE],
            "delete" => [&[DRY_RUN][..], &DELETE].concat(),
            "deletecollection" => {
                let list = LIST.iter().filter(|(name, ..)| !matches!(*name, "watch" | "allowWatchBookmarks"));
                [DRY_RUN].into_iter().chain(DELETE).chain(list.copied()).collect()
            }
            "list" | "watch" | "watchlist" => LIST.to_vec(),
            _ => Vec::new(),
        }
    }

    /// The definition that is sent and answered.
    fn subject(&self) -> Option<String> {
        match self.subresource {
            None => self.definitions.of(self.resource),
            Some(subresource) if subresource.kind == self.resource.info.gvk() => {
                self.definitions.of(self.resource)
            }
            Some(subresource) => self.definitions.name(&subresource.kind).map(str::to_owned),
        }
    }

    fn body(&self) -> Option<Value> {
        if self.connects() {
            return None;
        }
        let content = |types: &[&str], name: &str| {
            let content: Map<String, Value> =
                types.iter().map(|media| ((*media).to_owned(), json!({"schema": reference(name)}))).collect();
            content
        };
        match self.verb {
            "create" | "update" => {
                Some(json!({"content": content(&["*/*"], &self.subject()?), "required": true}))
            }
            "patch" => {
                let mut types = vec![
                    "application/json-patch+json",
                    "application/merge-patch+json",
                    "application/apply-patch+yaml",
                ];
                if self.resource.info.custom.is_none() {
                    types.insert(2, "application/strategic-merge-patch+json");
                }
                Some(json!({"content": content(&types, &format!("{META}.Patch")), "required": true}))
            }
            "delete" | "deletecollection" => {
                Some(json!({"content": content(&["*/*"], &format!("{META}.DeleteOptions"))}))
            }
            _ => None,
        }
    }

    fn responses(&self) -> Value {
        let info = self.resource.info;
        let mut types = vec!["application/json", "application/yaml"];
        if info.custom.is_none() {
            types.push("application/vnd.kubernetes.protobuf");
        }
        if matches!(self.verb, "list" | "watch" | "watchlist") {
            types.push("application/json;stream=watch");
            if info.custom.is_none() {
                types.push("application/vnd.kubernetes.protobuf;stream=watch");
            }
        }
        let schema = match self.verb {
            _ if self.connects() || self.subresource.is_some_and(|it| it.name == "log") => None,
            "list" => self.subject().map(|name| format!("{name}List")),
            "watch" | "watchlist" => Some(format!("{META}.WatchEvent")),
            "delete" | "deletecollection" => Some(format!("{META}.Status")),
            _ => self.subject(),
        };
        let schema = schema.map_or_else(|| json!({"type": "string"}), |name| reference(&name));
        let plain = schema.get("$ref").is_none();
        let types: &[&str] = if plain { &["*/*"] } else { &types };
        let content: Map<String, Value> =
            types.iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect();
        let answer = |text: &str| json!({"description": text, "content": content});
        let mut responses = json!({"200": answer("OK"), "401": {"description": "Unauthorized"}});
        let further: &[(&str, &str)] = match self.verb {
            _ if plain => &[],
            "create" => &[("201", "Created"), ("202", "Accepted")],
            "update" | "patch" => &[("201", "Created")],
            "delete" => &[("202", "Accepted")],
            _ => &[],
        };
        for (code, text) in further {
            responses[*code] = answer(text);
        }
        responses
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// The words of a group: `RbacAuthorization` for `rbac.authorization.k8s.io`.
fn group(info: &ResourceInfo) -> String {
    if info.group.is_empty() {
        return "Core".to_owned();
    }
    let group = info.group.strip_suffix(".k8s.io").unwrap_or(&info.group);
    group.split(['.', '-']).map(capital).collect()
}

fn tag(info: &ResourceInfo) -> String {
    let group = group(info);
    let mut letters = group.chars();
    let group: String =
        letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default();
    format!("{group}_{}", info.version)
}

fn subresource(name: &str) -> String {
    match name {
        "ephemeralcontainers" => "Ephemeralcontainers".to_owned(),
        "portforward" => "Portforward".to_owned(),
        other => capital(other),
    }
}
