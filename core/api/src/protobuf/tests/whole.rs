//! Every kind with every field filled, there and back.

use serde_json::{Map, Value, json};

use crate::protobuf::{decode, document};
use crate::schema::definitions;

/// Fields that the published protocol does not have yet, all of features that 1.36 leaves off, so that the server stores
/// none of them: `MESSAGE FIELD`.
const NEWER: [&str; 10] = [
    "io.k8s.api.core.v1.PodSpec schedulingGroup",
    "io.k8s.api.core.v1.PodStatus nodeAllocatableResourceClaimStatuses",
    "io.k8s.api.resource.v1.Device nodeAllocatableResourceMappings",
    "io.k8s.api.resource.v1.DeviceAttribute bools",
    "io.k8s.api.resource.v1.DeviceAttribute ints",
    "io.k8s.api.resource.v1.DeviceAttribute strings",
    "io.k8s.api.resource.v1.DeviceAttribute versions",
    "io.k8s.api.storage.v1.CSIDriverSpec preventPodSchedulingIfMissing",
    // Inside of a StatefulSet they are not sent: a claim's type is known there.
    "io.k8s.api.core.v1.PersistentVolumeClaim apiVersion",
    "io.k8s.api.core.v1.PersistentVolumeClaim kind",
];

struct Sampler<'a> {
    definitions: &'a Map<String, Value>,
    within: Vec<String>,
}

impl Sampler<'_> {
    fn definition(&mut self, name: &str) -> Option<Value> {
        let short = name.rsplit('.').next().unwrap();
        let sample = match short {
            "Time" => json!("2026-01-02T03:04:05Z"),
            "MicroTime" => json!("2026-01-02T03:04:05.000006Z"),
            "Quantity" => json!("100m"),
            "IntOrString" => json!("25%"),
            "RawExtension" | "FieldsV1" | "JSON" => json!({"f:a": {"b": [1, null, "c"]}}),
            "JSONSchemaPropsOrBool" => json!(false),
            "JSONSchemaPropsOrStringArray" => json!(["a", "b"]),
            "JSONSchemaPropsOrArray" => json!([{"type": "string"}, {"format": "date"}]),
            _ => {
                // A schema of a schema ends at the second.
                if self.within.iter().filter(|known| *known == name).count() > 1 {
                    return None;
                }
                self.within.push(name.to_owned());
                let definition = self.definitions[name].clone();
                let sample = self.value(name, &definition);
                self.within.pop();
                return sample;
            }
        };
        Some(sample)
    }

    fn value(&mut self, name: &str, schema: &Value) -> Option<Value> {
        if let Some(other) = schema["$ref"].as_str() {
            return self.definition(other);
        }
        Some(match schema["type"].as_str() {
            Some("boolean") => true.into(),
            Some("integer") => (-7).into(),
            Some("number") => 1.5.into(),
            Some("string") if schema["format"] == "byte" => "AQI=".into(),
            Some("string") => "text".into(),
            Some("array") => match self.value(name, &schema["items"]) {
                Some(item) => json!([item.clone(), item]),
                None => return None,
            },
            _ => {
                if schema["additionalProperties"].is_object() {
                    let value = self.value(name, &schema["additionalProperties"])?;
                    return Some(json!({"one": value.clone(), "two": value}));
                }
                let mut object = Map::new();
                for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
                    if NEWER.contains(&format!("{name} {field}").as_str()) {
                        continue;
                    }
                    if let Some(value) = self.value(name, schema) {
                        object.insert(field.clone(), value);
                    }
                }
                object.into()
            }
        })
    }
}

/// Where two documents differ.
fn differences(left: &Value, right: &Value, path: &str, found: &mut Vec<String>) {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            for name in left.keys().chain(right.keys().filter(|name| !left.contains_key(*name))) {
                let (left, right) = (left.get(name), right.get(name));
                let path = format!("{path}.{name}");
                match (left, right) {
                    (Some(left), Some(right)) => differences(left, right, &path, found),
                    _ => found.push(format!("{path}: {left:?} and {right:?}")),
                }
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            left.iter().zip(right).for_each(|(left, right)| differences(left, right, path, found));
        }
        (left, right) if left == right => {}
        (left, right) => found.push(format!("{path}: {left} and {right}")),
    }
}

#[test]
fn every_kind_with_every_field_is_the_same_after_there_and_back() {
    let (kinds, definitions) = definitions();
    let mut sampler = Sampler { definitions: &definitions, within: Vec::new() };
    let mut found = Vec::new();
    for resource in crate::Catalog::builtin().resources() {
        let gvk = resource.gvk();
        let name = kinds[&format!("{}/{}/{}", gvk.group, gvk.version, gvk.kind)].as_str().unwrap();
        let mut sample = sampler.definition(name).unwrap();
        sample["apiVersion"] = gvk.api_version().into();
        sample["kind"] = gvk.kind.as_str().into();
        let bytes = document(sample.to_string().as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let back = decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        differences(&back, &sample, &gvk.kind, &mut found);
    }
    found.sort();
    found.dedup();
    assert!(found.is_empty(), "{found:#?}");
}
