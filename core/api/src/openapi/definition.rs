//! The fields of kinds.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Served;
use crate::kinds::{GroupVersionKind, ResourceInfo};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
/// A kind from which the texts of the fields that every object has are taken.
const MODEL: &str = "io.k8s.api.core.v1.ConfigMap";
const METADATA_TEXT: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// The generated definitions: kinds to names, and the definitions by name. They are large, and dropped after use.
#[derive(Debug)]
pub struct Definitions {
    kinds: Map<String, Value>,
    all: Map<String, Value>,
}

/// Which OpenAPI a definition is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Version 2, which has neither alternatives nor null.
    V2,
    /// Version 3.
    V3,
}

impl Definitions {
    /// Reads them.
    pub fn read() -> Self {
        let (kinds, mut all) = crate::schema::definitions();
        all.insert(
            format!("{META}.WatchEvent"),
            json!({
                "type": "object", "required": ["type", "object"],
                "description": "Event represents a single event to a watched resource.",
                "properties": {
                    "type": {"type": "string"},
                    "object": {"$ref": "io.k8s.apimachinery.pkg.runtime.RawExtension"},
                },
            }),
        );
        Definitions { kinds, all }
    }

    /// The name of a kind's definition.
    pub fn name(&self, kind: &GroupVersionKind) -> Option<&str> {
        self.kinds.get(&format!("{}/{}/{}", kind.group, kind.version, kind.kind))?.as_str()
    }

    /// The name of the definition of a resource's kind.
    pub(super) fn of(&self, resource: &Served<'_>) -> Option<String> {
        match resource.info.custom {
            Some(_) => Some(custom_name(resource.info)),
            None => self.name(&resource.info.gvk()).map(str::to_owned),
        }
    }

    /// The definitions of some kinds, of their lists and of all that they refer to.
    pub(super) fn components(&self, resources: &[Served<'_>], form: Form) -> Map<String, Value> {
        let mut found = Found { definitions: self, seen: BTreeSet::new(), wanted: Vec::new() };
        let mut components = Map::new();
        for name in ["DeleteOptions", "Patch", "Status", "WatchEvent", "ObjectMeta", "ListMeta"] {
            found.want(&format!("{META}.{name}"));
        }
        for resource in resources {
            let info = resource.info;
            for kind in info.subresources.iter().filter_map(|it| self.name(&it.kind)) {
                found.want(kind);
            }
            let Some(name) = self.of(resource) else { continue };
            match resource.schema {
                None => found.want(&name),
                Some(schema) => {
                    let fields = self.all.get(MODEL).and_then(|model| model.get("properties"));
                    let schema = custom(info, schema, fields.unwrap_or(&Value::Null), form);
                    components.insert(name.clone(), schema);
                }
            }
            if info.has_verb("list") {
                components.insert(format!("{name}List"), self.list(info, &name));
            }
        }
        while let Some(name) = found.wanted.pop() {
            let Some(mut definition) = self.all.get(&name).cloned() else { continue };
            found.link(&mut definition);
            settle(&name, &mut definition, form);
            components.insert(name, definition);
        }
        for (kind, name) in &self.kinds {
            let mut parts = kind.split('/');
            let (Some(group), Some(version), Some(kind)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let definition = name.as_str().and_then(|name| components.get_mut(name));
            if let Some(Value::Object(definition)) = definition {
                mark(definition, &GroupVersionKind::new(group, version, kind));
            }
        }
        components
    }

    fn list(&self, info: &ResourceInfo, item: &str) -> Value {
        let fields = self.all.get(MODEL).and_then(|model| model.get("properties")).unwrap_or(&Value::Null);
        let mut list = json!({
            "type": "object", "required": ["items"],
            "description": format!("{} is a list of {}", info.list_kind, info.kind),
            "properties": {
                "apiVersion": fields["apiVersion"], "kind": fields["kind"],
                "metadata": {
                    "allOf": [reference(&format!("{META}.ListMeta"))],
                    "description": "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
                },
                "items": {
                    "type": "array", "items": {"allOf": [reference(item)]},
                    "description": format!("List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", info.plural),
                },
            },
        });
        if let Some(list) = list.as_object_mut() {
            mark(list, &GroupVersionKind::new(&info.group, &info.version, &info.list_kind));
        }
        list
    }
}

/// A reference within a document.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn mark(definition: &mut Map<String, Value>, kind: &GroupVersionKind) {
    let kind = json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}]);
    definition.insert("x-kubernetes-group-version-kind".into(), kind);
}

/// The name of a custom kind's definition: the group's parts turned round, as a package's name.
fn custom_name(resource: &ResourceInfo) -> String {
    let mut parts: Vec<&str> = resource.group.split('.').rev().collect();
    parts.extend([resource.version.as_str(), resource.kind.as_str()]);
    parts.join(".")
}

/// A walk along references.
struct Found<'a> {
    definitions: &'a Definitions,
    seen: BTreeSet<String>,
    wanted: Vec<String>,
}

impl Found<'_> {
    fn want(&mut self, name: &str) {
        if self.definitions.all.contains_key(name) && self.seen.insert(name.to_owned()) {
            self.wanted.push(name.to_owned());
        }
    }

    /// Turns references into those of a document. One with a text beside it is wrapped, as the format wants it.
    fn link(&mut self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(name)) = fields.get("$ref") {
                    let link = reference(name);
                    self.want(&name.clone());
                    fields.remove("$ref");
                    if fields.is_empty() {
                        *value = link;
                    } else {
                        fields.insert("allOf".into(), json!([link]));
                    }
                    return;
                }
                fields.values_mut().for_each(|child| self.link(child));
            }
            Value::Array(items) => items.iter_mut().for_each(|child| self.link(child)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// Gives the types that JSON writes in more than one way the form that clients know.
fn settle(name: &str, definition: &mut Value, form: Form) {
    let text = definition.get("description").cloned();
    let replaced = match (name.rsplit('.').next().unwrap_or(name), form) {
        ("IntOrString", Form::V2) => json!({"type": "string", "format": "int-or-string"}),
        ("IntOrString", Form::V3) => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        ("Quantity", Form::V2) => json!({"type": "string"}),
        ("Quantity", Form::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        ("JSON" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray", _) => {
            json!({})
        }
        _ => return,
    };
    *definition = replaced;
    if let Some(text) = text {
        definition["description"] = text;
    }
}

/// A custom kind's fields, as its definition has them, with those that every object has.
fn custom(info: &ResourceInfo, schema: &Value, fields: &Value, form: Form) -> Value {
    let mut schema = schema.clone();
    if form == Form::V2 {
        if keeps_unknown(&schema) {
            // What clients of version 2 would take for unknown is none.
            schema = json!({"type": "object"});
            if let Some(schema) = schema.as_object_mut() {
                mark(schema, &info.gvk());
            }
            return schema;
        }
        plain(&mut schema);
    }
    if !schema.is_object() {
        schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    }
    complete(&mut schema, fields, METADATA_TEXT);
    embed(&mut schema, fields);
    if let Some(schema) = schema.as_object_mut() {
        mark(schema, &info.gvk());
    }
    schema
}

fn keeps_unknown(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == Value::Bool(true)
}

/// Adds the fields that an object has.
fn complete(schema: &mut Value, fields: &Value, text: &str) {
    let Some(schema) = schema.as_object_mut() else { return };
    let properties = schema.entry("properties").or_insert_with(|| Map::new().into());
    let Some(properties) = properties.as_object_mut() else { return };
    for field in ["apiVersion", "kind"] {
        properties.insert(field.to_owned(), fields[field].clone());
    }
    let metadata = json!({"allOf": [reference(&format!("{META}.ObjectMeta"))], "description": text});
    properties.insert("metadata".to_owned(), metadata);
}

/// Adds them to objects within the object.
fn embed(schema: &mut Value, fields: &Value) {
    children(schema, &mut |child| {
        if child["x-kubernetes-embedded-resource"] == Value::Bool(true) {
            complete(child, fields, METADATA_TEXT);
        }
        embed(child, fields);
    });
}

/// The schemas of a schema's fields, items and values.
fn children(schema: &mut Value, visit: &mut impl FnMut(&mut Value)) {
    let Some(schema) = schema.as_object_mut() else { return };
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(&mut *visit);
    }
    for field in ["items", "additionalProperties"] {
        if let Some(child) = schema.get_mut(field).filter(|child| child.is_object()) {
            visit(child);
        }
    }
}

/// Takes out what version 2 cannot say, so that its clients refuse nothing that the server takes.
fn plain(schema: &mut Value) {
    let nullable = |schema: &Value| schema["nullable"] == Value::Bool(true);
    if nullable(schema)
        && let Some(fields) = schema.as_object_mut()
    {
        fields.retain(|field, _| field == "description" || field.starts_with("x-kubernetes-"));
    }
    let keeps_unknown = keeps_unknown(schema);
    let nullables: Vec<String> = schema["properties"]
        .as_object()
        .map(|all| all.iter().filter(|(_, it)| nullable(it)).map(|(name, _)| name.clone()).collect())
        .unwrap_or_default();
    if let Some(fields) = schema.as_object_mut() {
        for field in ["allOf", "anyOf", "oneOf", "not", "nullable", "x-kubernetes-validations"] {
            fields.remove(field);
        }
        if keeps_unknown {
            fields.remove("items");
            fields.remove("properties");
        }
        if fields.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
            fields.insert("type".into(), "string".into());
            fields.insert("format".into(), "int-or-string".into());
        }
        if let Some(Value::Array(required)) = fields.get_mut("required") {
            required.retain(|name| name.as_str().is_none_or(|name| !nullables.iter().any(|it| it == name)));
        }
    }
    children(schema, &mut |child| plain(child));
}
