//! The part of custom resources. Their schemas are read from the stored definitions when they are asked for.

use keelson_api::custom_resource::{CustomKind, GROUP, PLURAL, definition as versions};
use keelson_api::{GroupResource, ResourceInfo};
use ring::digest;
use serde_json::{Map, Value, json};

use crate::cache;
use crate::registry::Registry;

/// The definition of every object's metadata.
pub(super) const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// A definition from which the texts of the fields that every object has are taken.
pub(super) const MODEL: &str = "io.k8s.api.core.v1.ConfigMap";

/// The name of a definition: the group's parts turned round, as a package's name.
pub(super) fn name(resource: &ResourceInfo) -> String {
    let mut parts: Vec<&str> = resource.group.split('.').rev().collect();
    parts.extend([resource.version.as_str(), resource.kind.as_str()]);
    parts.join(".")
}

/// A hash that is another one when one of the definitions is.
pub(super) fn hash<'a>(kinds: impl Iterator<Item = &'a CustomKind>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for kind in kinds {
        context.update(kind.uid.as_bytes());
        context.update(&kind.fingerprint.to_be_bytes());
    }
    hex::encode_upper(context.finish())
}

/// A kind's fields, as its definition has them, with those that every object has. `fields` are those of a built-in
/// kind.
pub(super) fn definition(registry: &Registry, resource: &ResourceInfo, fields: &Value) -> Option<Value> {
    let custom = resource.custom.as_ref()?;
    let stored = registry.resource(&GroupResource::new(GROUP, PLURAL)).get(&custom.definition)?;
    let stored = cache::decode(&stored.bytes).ok()?;
    let version = versions::versions(&stored).find(|version| version["name"] == resource.version.as_str())?;
    let mut schema = version["schema"]["openAPIV3Schema"].clone();
    complete(&mut schema, fields);
    let kind = json!([{"group": resource.group, "version": resource.version, "kind": resource.kind}]);
    schema.as_object_mut()?.insert("x-kubernetes-group-version-kind".to_owned(), kind);
    Some(schema)
}

/// Adds the fields that an object has.
fn complete(schema: &mut Value, fields: &Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    let properties = schema.entry("properties").or_insert_with(|| Map::new().into());
    let Some(properties) = properties.as_object_mut() else { return };
    for field in ["apiVersion", "kind"] {
        properties.insert(field.to_owned(), fields[field].clone());
    }
    let reference = json!([{"$ref": format!("#/components/schemas/{METADATA}")}]);
    let text = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
    properties.insert("metadata".to_owned(), json!({"allOf": reference, "description": text}));
}
