//! Schemas of the built-in kinds, from generated data that is read when it is first asked for.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

use super::{ListType, Schema, SchemaType, quantities};
use crate::kinds::GroupVersionKind;

/// `{"kinds": {"GROUP/VERSION/KIND": DEFINITION}, "definitions": {NAME: SCHEMA}, "pointers": {NAME: [FIELD]}}`, gzip.
/// Pointers are optional fields whose zero is kept.
static SCHEMAS: &[u8] = include_bytes!("../../data/schemas.json.gz");
/// `{NAME: {"": TEXT, FIELD: TEXT}}`, gzip.
static DESCRIPTIONS: &[u8] = include_bytes!("../../data/descriptions.json.gz");

fn read(bytes: &[u8]) -> Map<String, Value> {
    let mut text = Vec::with_capacity(bytes.len() * 12);
    if flate2::read::GzDecoder::new(bytes).read_to_end(&mut text).is_err() {
        return Map::new();
    }
    serde_json::from_slice(&text).unwrap_or_default()
}

/// The generated definitions with their descriptions, read anew (about 10 MB while held): the raw data
/// of OpenAPI. The first map is kinds to definitions' names, the second the definitions.
pub fn definitions() -> (Map<String, Value>, Map<String, Value>) {
    let mut data = read(SCHEMAS);
    let mut take = |name: &str| match data.remove(name) {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let (kinds, mut definitions) = (take("kinds"), take("definitions"));
    for (name, texts) in read(DESCRIPTIONS) {
        let (Some(Value::Object(definition)), Value::Object(texts)) = (definitions.get_mut(&name), texts)
        else {
            continue;
        };
        for (field, text) in texts {
            if field.is_empty() {
                definition.insert("description".into(), text);
            } else if let Some(Value::Object(property)) =
                definition.get_mut("properties").and_then(|properties| properties.get_mut(&field))
            {
                property.insert("description".into(), text);
            }
        }
    }
    (kinds, definitions)
}

pub(super) fn find(gvk: &GroupVersionKind) -> Option<Arc<Schema>> {
    static ALL: OnceLock<HashMap<GroupVersionKind, Arc<Schema>>> = OnceLock::new();
    ALL.get_or_init(load).get(gvk).cloned()
}

fn load() -> HashMap<GroupVersionKind, Arc<Schema>> {
    let data = read(SCHEMAS);
    let empty = Map::new();
    let part = |name: &str| data.get(name).and_then(Value::as_object).unwrap_or(&empty);
    let mut reader =
        Reader { definitions: part("definitions"), pointers: part("pointers"), done: BTreeMap::new() };
    let mut all = HashMap::new();
    for (key, name) in part("kinds") {
        let mut parts = key.split('/');
        let (Some(group), Some(version), Some(kind), Some(name)) =
            (parts.next(), parts.next(), parts.next(), name.as_str())
        else {
            continue;
        };
        all.insert(GroupVersionKind::new(group, version, kind), reader.definition(name));
    }
    all
}

struct Reader<'a> {
    definitions: &'a Map<String, Value>,
    pointers: &'a Map<String, Value>,
    done: BTreeMap<String, Arc<Schema>>,
}

impl Reader<'_> {
    fn definition(&mut self, name: &str) -> Arc<Schema> {
        if let Some(schema) = self.done.get(name) {
            return schema.clone();
        }
        if name.ends_with(".resource.Quantity") {
            let schema = Arc::new(quantities::schema());
            self.done.insert(name.to_owned(), schema.clone());
            return schema;
        }
        // JSONSchemaProps contains itself: its inside is free.
        if name.ends_with(".JSONSchemaProps") {
            return Arc::new(Schema { preserve_unknown: true, ..Schema::default() });
        }
        let mut schema = match self.definitions.get(name) {
            Some(value) => self.schema(value),
            None => Schema { preserve_unknown: true, ..Schema::default() },
        };
        // The one default value that is part of a list's keys.
        if name.ends_with(".ContainerPort") || name.ends_with(".ServicePort") {
            let tcp = Schema { kind: SchemaType::String, default: Some("TCP".into()), ..Schema::default() };
            schema.properties.insert("protocol".to_owned(), Arc::new(tcp));
        }
        let pointers = self.pointers.get(name).and_then(Value::as_array).into_iter().flatten();
        schema.pointers = pointers.filter_map(Value::as_str).map(str::to_owned).collect();
        schema.go_name = go_name(name);
        let schema = Arc::new(schema);
        self.done.insert(name.to_owned(), schema.clone());
        schema
    }

    fn child(&mut self, value: &Value) -> Arc<Schema> {
        match value.get("$ref").and_then(Value::as_str) {
            Some(name) if value.as_object().is_none_or(|fields| fields.len() == 1) => self.definition(name),
            _ => Arc::new(self.schema(value)),
        }
    }

    fn schema(&mut self, value: &Value) -> Schema {
        let text = |field: &str| value.get(field).and_then(Value::as_str);
        let mut schema = match text("$ref") {
            Some(name) => Schema::clone(&self.definition(name)),
            None => Schema::default(),
        };
        if let Some(kind) = text("type") {
            schema.kind = schema_type(kind);
        }
        if value.get("x-kubernetes-int-or-string").is_some() {
            schema.kind = SchemaType::IntOrString;
        }
        schema.preserve_unknown |= value.get("x-kubernetes-preserve-unknown-fields").is_some();
        for (name, property) in value.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let child = self.child(property);
            schema.properties.insert(name.clone(), child);
        }
        if let Some(items) = value.get("items") {
            schema.items = Some(self.child(items));
        }
        if let Some(additional) = value.get("additionalProperties") {
            schema.additional = Some(self.child(additional));
        }
        if let Some(list) = text("x-kubernetes-list-type") {
            schema.list = list_type(list, value);
        }
        schema.atomic |= text("x-kubernetes-map-type") == Some("atomic");
        if let Some(strategy) = text("x-kubernetes-patch-strategy") {
            schema.retain_keys = strategy.contains("retainKeys");
            if strategy.contains("merge") && schema.kind == SchemaType::Array {
                schema.merge_key = Some(text("x-kubernetes-patch-merge-key").unwrap_or("").to_owned());
            }
        }
        if let Some(format) = text("format") {
            schema.format = Some(format.to_owned());
        }
        let required = value.get("required").and_then(Value::as_array).into_iter().flatten();
        schema.required.extend(required.filter_map(Value::as_str).map(str::to_owned));
        schema
    }
}

/// The last two parts of a definition's name: package and type.
fn go_name(definition: &str) -> Option<Arc<str>> {
    let (rest, _) = definition.rsplit_once('.')?;
    let package = rest.rfind('.').map_or(0, |at| at + 1);
    definition.get(package..).map(Arc::from)
}

pub(super) fn schema_type(name: &str) -> SchemaType {
    match name {
        "object" => SchemaType::Object,
        "array" => SchemaType::Array,
        "string" => SchemaType::String,
        "integer" => SchemaType::Integer,
        "number" => SchemaType::Number,
        "boolean" => SchemaType::Boolean,
        _ => SchemaType::Any,
    }
}

pub(super) fn list_type(name: &str, value: &Value) -> ListType {
    match name {
        "set" => ListType::Set,
        "map" => {
            let keys =
                value.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten();
            ListType::Map(keys.filter_map(Value::as_str).map(str::to_owned).collect())
        }
        _ => ListType::Atomic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_a_list_by_name_and_ports_by_port_and_protocol() {
        let pod = Schema::builtin(&GroupVersionKind::new("", "v1", "Pod")).unwrap();
        let containers = pod.field("spec").unwrap().field("containers").unwrap();
        assert_eq!(containers.list, ListType::Map(vec!["name".into()]));
        assert_eq!(containers.merge_key.as_deref(), Some("name"));
        let ports = containers.items.as_ref().unwrap().field("ports").unwrap();
        assert_eq!(ports.list, ListType::Map(vec!["containerPort".into(), "protocol".into()]));
        assert_eq!(ports.merge_key.as_deref(), Some("containerPort"));
        assert!(pod.field("spec").unwrap().field("volumes").unwrap().retain_keys);
    }

    #[test]
    fn every_resource_of_the_catalog_has_a_schema() {
        for resource in crate::Catalog::builtin().resources() {
            assert!(Schema::builtin(&resource.gvk()).is_some(), "{:?}", resource.gvk());
        }
    }
}
