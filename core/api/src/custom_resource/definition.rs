//! From a definition to the resources that it has served.

use std::cmp::Reverse;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::Value;

use super::columns::CustomColumn;
use super::conversion::Conversion;
use super::scale::ScalePaths;
use super::{CustomKind, names};
use crate::kinds::{GroupVersionKind, ResourceInfo, SubresourceInfo};
use crate::object::Object;
use crate::schema::{CrdSchemaError, Schema};

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The version in which objects are stored.
pub fn storage_version(definition: &Object) -> Option<&str> {
    let found = versions(definition).find(|version| version["storage"] == Value::Bool(true))?;
    found["name"].as_str()
}

/// All versions, served or not.
pub fn versions(definition: &Object) -> impl Iterator<Item = &Value> {
    definition.get(&["spec", "versions"]).and_then(Value::as_array).into_iter().flatten()
}

/// What the versions of a definition say in a field, each with its path: once where they all say the same.
pub fn per_version<'d>(definition: &'d Object, field: &str) -> Vec<(String, &'d Value)> {
    let all: Vec<&Value> = versions(definition).collect();
    let is_set = |version: &Value| version.get(field).is_some_and(|value| !value.is_null());
    let is_shared = all.iter().all(|version| is_set(version))
        && all.windows(2).all(|pair| pair[0].get(field) == pair[1].get(field));
    if is_shared {
        return all.into_iter().take(1).map(|version| (format!("spec.{field}"), version)).collect();
    }
    let each = all.into_iter().enumerate().filter(|(_, version)| is_set(version));
    each.map(|(at, version)| (format!("spec.versions[{at}].{field}"), version)).collect()
}

/// The schemas of a definition, each with its path: one where all versions have the same.
pub fn schemas(definition: &Object) -> Vec<(String, &Value)> {
    let found = per_version(definition, "schema").into_iter().filter_map(|(path, version)| {
        let schema = version.get("schema")?.get("openAPIV3Schema").filter(|schema| schema.is_object())?;
        let path = if path == "spec.schema" { "spec.validation".to_owned() } else { path };
        Some((format!("{path}.openAPIV3Schema"), schema))
    });
    found.collect()
}

/// The resources that an established definition has served, the preferred version first; none before that.
pub fn resources(definition: &Object) -> Result<Vec<Arc<ResourceInfo>>, CrdSchemaError> {
    if !names::is_true(definition, "Established") {
        return Ok(Vec::new());
    }
    let mut served: Vec<&Value> =
        versions(definition).filter(|version| version["served"] == Value::Bool(true)).collect();
    served.sort_by_cached_key(|version| Priority::of(version["name"].as_str().unwrap_or_default()));
    served.into_iter().map(|version| resource(definition, version).map(Arc::new)).collect()
}

/// The resource in the version in which objects are stored, whether or not it is served.
pub fn stored_resource(definition: &Object) -> Result<Option<Arc<ResourceInfo>>, CrdSchemaError> {
    let stored = versions(definition).find(|version| version["storage"] == Value::Bool(true));
    stored.map(|version| resource(definition, version).map(Arc::new)).transpose()
}

fn resource(definition: &Object, version: &Value) -> Result<ResourceInfo, CrdSchemaError> {
    let accepted = |field: &str| definition.get_str(&["status", "acceptedNames", field]).unwrap_or_default();
    let group = definition.get_str(&["spec", "group"]).unwrap_or_default();
    let name = version["name"].as_str().unwrap_or_default();
    let own = GroupVersionKind::new(group, name, accepted("kind"));
    let mut subresources = Vec::new();
    let scale = version["subresources"].get("scale").filter(|scale| scale.is_object()).map(ScalePaths::read);
    let verbs = words(&["get", "patch", "update"]);
    if version["subresources"].get("status").is_some_and(Value::is_object) {
        subresources.push(SubresourceInfo { name: "status".into(), kind: own.clone(), verbs: verbs.clone() });
    }
    if scale.is_some() {
        let kind = GroupVersionKind::new("autoscaling", "v1", "Scale");
        subresources.push(SubresourceInfo { name: "scale".into(), kind, verbs });
    }
    let deprecated = version["deprecated"] == Value::Bool(true);
    let warning = || match version["deprecationWarning"].as_str() {
        Some(text) => text.to_owned(),
        None => format!("{} {} is deprecated", own.api_version(), own.kind),
    };
    let selectable = version["selectableFields"].as_array().into_iter().flatten();
    let selectable = selectable.filter_map(|field| field["jsonPath"].as_str());
    let custom = CustomKind {
        definition: definition.name().unwrap_or_default().to_owned(),
        uid: definition.uid().unwrap_or_default().to_owned(),
        fingerprint: fingerprint(definition),
        schema: Schema::from_crd(&version["schema"]["openAPIV3Schema"])?,
        columns: CustomColumn::read(&version["additionalPrinterColumns"]),
        scale,
        selectable: selectable.map(|path| path.trim_start_matches('.').to_owned()).collect(),
        deprecation: deprecated.then(warning),
        terminating: definition.deletion_timestamp().is_some(),
        conversion: Conversion::read(definition).map(Arc::new),
        head: head(&own)?,
        rules: None,
        uniform: definition.generation() == Some(1) && versions(definition).count() == 1,
    };
    Ok(ResourceInfo {
        group: group.to_owned(),
        version: name.to_owned(),
        kind: accepted("kind").to_owned(),
        list_kind: accepted("listKind").to_owned(),
        plural: accepted("plural").to_owned(),
        singular: accepted("singular").to_owned(),
        short_names: texts(definition.get(&["status", "acceptedNames", "shortNames"])),
        categories: texts(definition.get(&["status", "acceptedNames", "categories"])),
        namespaced: definition.get_str(&["spec", "scope"]) == Some("Namespaced"),
        verbs: words(&VERBS),
        subresources,
        storage_version: storage_version(definition).unwrap_or(name).to_owned(),
        custom: Some(Arc::new(custom)),
    })
}

fn fingerprint(definition: &Object) -> u64 {
    let mut hasher = DefaultHasher::new();
    definition.get(&["spec"]).map(Value::to_string).hash(&mut hasher);
    hasher.finish()
}

/// How a document of a kind begins, by its encoding.
fn head(gvk: &GroupVersionKind) -> Result<Box<[u8]>, CrdSchemaError> {
    let mut object = Object::default();
    object.set_gvk(gvk);
    let (mut bytes, _) = object.encode().map_err(CrdSchemaError::Encode)?;
    let end = bytes.windows(METADATA.len()).position(|window| window == METADATA).unwrap_or(bytes.len());
    bytes.truncate(end);
    Ok(bytes.into())
}

const METADATA: &[u8] = b"\"metadata\"";

/// The place of a version among others: stable before beta before alpha, newer before older, and all others after them
/// by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(u8, Reverse<u64>, Reverse<u64>, String);

impl Priority {
    /// The place of a version such as `v1beta2`.
    pub fn of(version: &str) -> Self {
        match Self::parse(version) {
            Some((stage, major, minor)) => Self(stage, Reverse(major), Reverse(minor), String::new()),
            None => Self(3, Reverse(0), Reverse(0), version.to_owned()),
        }
    }

    fn parse(version: &str) -> Option<(u8, u64, u64)> {
        let rest = version.strip_prefix('v')?;
        let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..end].parse().ok()?;
        let tail = &rest[end..];
        if tail.is_empty() {
            return Some((0, major, 0));
        }
        match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
            (Some(minor), _) => Some((1, major, minor.parse().ok()?)),
            (None, Some(minor)) => Some((2, major, minor.parse().ok()?)),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_versions_come_before_beta_and_alpha_and_odd_ones_last() {
        let mut versions = ["foo1", "v1beta1", "v10", "v2", "v11alpha2", "v1beta2", "v1"];
        versions.sort_by_cached_key(|version| Priority::of(version));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v11alpha2", "foo1"]);
    }

    fn kind(spec: serde_json::Value) -> Arc<CustomKind> {
        let definition = serde_json::json!({
            "metadata": {"name": "foos.x.io", "uid": "1", "generation": 1},
            "spec": {"group": "x.io", "scope": "Cluster", "names": {"plural": "foos", "kind": "Foo"}, "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}]},
            "status": {"acceptedNames": {"plural": "foos", "kind": "Foo"},
                "conditions": [{"type": "Established", "status": "True"}]},
        });
        let resources = resources(&Object::from_value(definition).unwrap()).unwrap();
        resources[0].custom.clone().unwrap()
    }

    fn foo(spec: serde_json::Value) -> Object {
        let value = serde_json::json!({"kind": "Foo", "apiVersion": "x.io/v1", "metadata": {"name": "a"}, "spec": spec});
        Object::from_value(value).unwrap()
    }

    #[test]
    fn null_is_a_value_only_where_a_field_is_nullable() {
        let kind = kind(serde_json::json!({"type": "object", "properties": {
            "foo": {"type": "string", "default": "default"}, "bar": {"type": "string", "nullable": true},
            "baz": {"type": "string"}}}));
        let mut object = foo(serde_json::json!({"foo": null, "bar": null, "baz": null}));
        kind.apply_defaults(&mut object);
        assert_eq!(object.get(&["spec"]), Some(&serde_json::json!({"foo": "default", "bar": null})));
        assert_eq!(kind.validate(&object), []);
    }

    #[test]
    fn what_was_wrong_before_may_stay_until_it_is_touched() {
        let kind = kind(serde_json::json!({"type": "object", "required": ["name"], "properties": {
            "size": {"type": "integer", "maximum": 5}, "note": {"type": "string"}}}));
        let old = foo(serde_json::json!({"size": 9}));
        let labelled = foo(serde_json::json!({"size": 9}));
        assert_eq!(kind.validate_update(&labelled, &old), []);
        let paths = |new: &Object| -> Vec<String> {
            kind.validate_update(new, &old).into_iter().map(|fault| fault.path).collect()
        };
        assert_eq!(paths(&foo(serde_json::json!({"size": 9, "note": "x"}))), ["spec.name"]);
        assert_eq!(paths(&foo(serde_json::json!({"size": 8, "name": "x"}))), ["spec.size"]);
    }

    #[test]
    fn the_stored_bytes_of_a_version_are_known_by_how_they_begin() {
        let kind = kind(serde_json::json!({"type": "object"}));
        let (bytes, _) = foo(serde_json::json!({})).encode().unwrap();
        assert!(kind.is_as_served(&bytes));
        let other = String::from_utf8(bytes).unwrap().replace("x.io/v1", "x.io/v2");
        assert!(!kind.is_as_served(other.as_bytes()));
    }
}
