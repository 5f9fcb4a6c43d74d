//! An object: one JSON document with `apiVersion`, `kind` and `metadata`.

use serde_json::{Map, Value};

use crate::kinds::GroupVersionKind;

/// A Kubernetes object as an untyped JSON document. Unknown fields are kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(pub Map<String, Value>);

/// Why bytes are no object.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no JSON, or nest deeper than 128 levels.
    #[error("couldn't decode the JSON document")]
    Json(#[source] serde_json::Error),
    /// The document is JSON, but not an object.
    #[error("json: cannot unmarshal a value that is not an object into an API object")]
    NotAnObject,
}

/// Why an object cannot be written as JSON.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Serialization failed.
    #[error("couldn't encode the object")]
    Json(#[source] serde_json::Error),
    /// The document is larger than 4 GiB.
    #[error("the object is too large")]
    TooLarge,
}

impl Object {
    /// Reads a document; nesting is bounded by 128 levels.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, DecodeError> {
        match serde_json::from_slice(bytes).map_err(DecodeError::Json)? {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(DecodeError::NotAnObject),
        }
    }

    /// Takes a JSON value that is an object.
    pub fn from_value(value: Value) -> Result<Self, DecodeError> {
        match value {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(DecodeError::NotAnObject),
        }
    }

    /// The document as a JSON value.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// `apiVersion`, empty when missing.
    pub fn api_version(&self) -> &str {
        self.0.get("apiVersion").and_then(Value::as_str).unwrap_or("")
    }

    /// `kind`, empty when missing.
    pub fn kind(&self) -> &str {
        self.0.get("kind").and_then(Value::as_str).unwrap_or("")
    }

    /// Group, version and kind as the document declares them.
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::from_api_version(self.api_version(), self.kind())
    }

    /// Sets `apiVersion` and `kind`.
    pub fn set_gvk(&mut self, gvk: &GroupVersionKind) {
        self.0.insert("apiVersion".into(), gvk.api_version().into());
        self.0.insert("kind".into(), gvk.kind.as_str().into());
    }

    /// The value below `path`, a list of field names.
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.0.get(*first)?, |value, field| value.get(*field))
    }

    /// The string below `path`.
    pub fn get_str(&self, path: &[&str]) -> Option<&str> {
        self.get(path).and_then(Value::as_str)
    }

    /// Sets the value below `path`, making the objects on the way.
    pub fn set(&mut self, path: &[&str], value: Value) {
        let Some((last, parents)) = path.split_last() else { return };
        let mut map = &mut self.0;
        for field in parents {
            map = child_map(map, field);
        }
        map.insert((*last).to_owned(), value);
    }

    /// Removes and returns the value below `path`.
    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        let mut map = &mut self.0;
        for field in parents {
            map = map.get_mut(*field)?.as_object_mut()?;
        }
        map.remove(*last)
    }

    /// `metadata`, when present.
    pub fn metadata(&self) -> Option<&Map<String, Value>> {
        self.0.get("metadata").and_then(Value::as_object)
    }

    /// `metadata`, made when missing.
    pub fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        child_map(&mut self.0, "metadata")
    }

    fn meta(&self, field: &str) -> Option<&Value> {
        self.metadata().and_then(|metadata| metadata.get(field))
    }

    fn meta_str(&self, field: &str) -> Option<&str> {
        self.meta(field).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    fn set_meta(&mut self, field: &str, value: Option<Value>) {
        match value {
            Some(value) => self.metadata_mut().insert(field.to_owned(), value),
            None => self.metadata_mut().remove(field),
        };
    }

    /// `metadata.name`; `None` when missing or empty (so for all string accessors).
    pub fn name(&self) -> Option<&str> {
        self.meta_str("name")
    }
    /// `metadata.generateName`.
    pub fn generate_name(&self) -> Option<&str> {
        self.meta_str("generateName")
    }
    /// `metadata.namespace`.
    pub fn namespace(&self) -> Option<&str> {
        self.meta_str("namespace")
    }
    /// `metadata.uid`.
    pub fn uid(&self) -> Option<&str> {
        self.meta_str("uid")
    }
    /// `metadata.resourceVersion`.
    pub fn resource_version(&self) -> Option<&str> {
        self.meta_str("resourceVersion")
    }
    /// `metadata.generation`.
    pub fn generation(&self) -> Option<i64> {
        self.meta("generation").and_then(Value::as_i64)
    }
    /// `metadata.creationTimestamp`, RFC 3339.
    pub fn creation_timestamp(&self) -> Option<&str> {
        self.meta_str("creationTimestamp")
    }
    /// `metadata.deletionTimestamp`, RFC 3339.
    pub fn deletion_timestamp(&self) -> Option<&str> {
        self.meta_str("deletionTimestamp")
    }
    /// `metadata.deletionGracePeriodSeconds`.
    pub fn deletion_grace_period_seconds(&self) -> Option<i64> {
        self.meta("deletionGracePeriodSeconds").and_then(Value::as_i64)
    }
    /// `metadata.labels`.
    pub fn labels(&self) -> Option<&Map<String, Value>> {
        self.meta("labels").and_then(Value::as_object)
    }
    /// One label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key)?.as_str()
    }
    /// `metadata.annotations`.
    pub fn annotations(&self) -> Option<&Map<String, Value>> {
        self.meta("annotations").and_then(Value::as_object)
    }
    /// One annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations()?.get(key)?.as_str()
    }
    /// `metadata.finalizers`.
    pub fn finalizers(&self) -> impl Iterator<Item = &str> {
        self.meta("finalizers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }
    /// `metadata.ownerReferences`, each an object.
    pub fn owner_references(&self) -> &[Value] {
        self.meta("ownerReferences").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
    /// `metadata.managedFields`, each an entry.
    pub fn managed_fields(&self) -> &[Value] {
        self.meta("managedFields").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Sets `metadata.name`.
    pub fn set_name(&mut self, name: &str) {
        self.set_meta("name", Some(name.into()));
    }
    /// Sets or removes `metadata.namespace`.
    pub fn set_namespace(&mut self, namespace: Option<&str>) {
        self.set_meta("namespace", namespace.map(Value::from));
    }
    /// Sets `metadata.uid`.
    pub fn set_uid(&mut self, uid: &str) {
        self.set_meta("uid", Some(uid.into()));
    }
    /// Sets or removes `metadata.resourceVersion`.
    pub fn set_resource_version(&mut self, version: Option<&str>) {
        self.set_meta("resourceVersion", version.map(Value::from));
    }
    /// Sets or removes `metadata.generation`.
    pub fn set_generation(&mut self, generation: Option<i64>) {
        self.set_meta("generation", generation.map(Value::from));
    }
    /// Sets `metadata.creationTimestamp`.
    pub fn set_creation_timestamp(&mut self, time: jiff::Timestamp) {
        self.set_meta("creationTimestamp", Some(format_time(time).into()));
    }
    /// Sets or removes `metadata.deletionTimestamp`.
    pub fn set_deletion_timestamp(&mut self, time: Option<jiff::Timestamp>) {
        self.set_meta("deletionTimestamp", time.map(|time| format_time(time).into()));
    }
    /// Sets or removes `metadata.deletionGracePeriodSeconds`.
    pub fn set_deletion_grace_period_seconds(&mut self, seconds: Option<i64>) {
        self.set_meta("deletionGracePeriodSeconds", seconds.map(Value::from));
    }
    /// Replaces `metadata.finalizers`; an empty list removes the field.
    pub fn set_finalizers(&mut self, finalizers: Vec<String>) {
        self.set_meta("finalizers", (!finalizers.is_empty()).then(|| finalizers.into()));
    }
    /// Replaces `metadata.ownerReferences`; an empty list removes the field.
    pub fn set_owner_references(&mut self, references: Vec<Value>) {
        self.set_meta("ownerReferences", (!references.is_empty()).then(|| references.into()));
    }
    /// Replaces `metadata.managedFields`; an empty list removes the field.
    pub fn set_managed_fields(&mut self, entries: Vec<Value>) {
        self.set_meta("managedFields", (!entries.is_empty()).then(|| entries.into()));
    }
    /// Sets one label.
    pub fn set_label(&mut self, key: &str, value: &str) {
        child_map(self.metadata_mut(), "labels").insert(key.to_owned(), value.into());
    }
    /// Sets one annotation.
    pub fn set_annotation(&mut self, key: &str, value: &str) {
        child_map(self.metadata_mut(), "annotations").insert(key.to_owned(), value.into());
    }

    /// Writes the document once, with an empty `metadata.resourceVersion`. The second value is the
    /// offset between the quotes, where the revision is to be inserted.
    pub fn encode(&self) -> Result<(Vec<u8>, u32), EncodeError> {
        let mut out = Vec::with_capacity(1024);
        out.push(b'{');
        for field in ["kind", "apiVersion"] {
            if let Some(value) = self.0.get(field) {
                write_field(&mut out, field, value)?;
            }
        }
        separate(&mut out);
        out.extend_from_slice(b"\"metadata\":{\"resourceVersion\":\"");
        let stamp = u32::try_from(out.len()).map_err(|_| EncodeError::TooLarge)?;
        out.push(b'"');
        for (field, value) in self.metadata().into_iter().flatten() {
            if field != "resourceVersion" {
                write_field(&mut out, field, value)?;
            }
        }
        out.push(b'}');
        for (field, value) in &self.0 {
            if !matches!(field.as_str(), "kind" | "apiVersion" | "metadata") {
                write_field(&mut out, field, value)?;
            }
        }
        out.push(b'}');
        Ok((out, stamp))
    }
}

/// A time as Kubernetes writes it: RFC 3339 in UTC, whole seconds.
pub fn format_time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// How deep a document nests: 0 for a scalar, 1 for an object of scalars.
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The object below `field`, made when missing or of another type.
pub(crate) fn child_map<'a>(map: &'a mut Map<String, Value>, field: &str) -> &'a mut Map<String, Value> {
    if !map.get(field).is_some_and(Value::is_object) {
        map.insert(field.to_owned(), Value::Object(Map::new()));
    }
    match map.get_mut(field) {
        Some(Value::Object(child)) => child,
        _ => unreachable!("an object was just inserted"),
    }
}

fn separate(out: &mut Vec<u8>) {
    if !matches!(out.last(), None | Some(b'{')) {
        out.push(b',');
    }
}

fn write_field(out: &mut Vec<u8>, field: &str, value: &Value) -> Result<(), EncodeError> {
    separate(out);
    serde_json::to_writer(&mut *out, field).map_err(EncodeError::Json)?;
    out.push(b':');
    serde_json::to_writer(&mut *out, value).map_err(EncodeError::Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stamp_lies_between_the_quotes_of_the_resource_version() {
        let object = Object::from_slice(
            br#"{"metadata":{"name":"a","resourceVersion":"7"},"kind":"ConfigMap","apiVersion":"v1","data":{"k":"\"resourceVersion\":\"\""}}"#,
        )
        .unwrap();
        let (mut bytes, stamp) = object.encode().unwrap();
        let at = stamp as usize;
        assert_eq!(&bytes[at - 1..=at], b"\"\"");
        bytes.splice(at..at, b"42".iter().copied());
        let read = Object::from_slice(&bytes).unwrap();
        assert_eq!(read.resource_version(), Some("42"));
        assert_eq!(read.name(), Some("a"));
        assert_eq!(read.0.get("data"), object.0.get("data"));
    }

    #[test]
    fn a_document_that_nests_too_deep_is_refused() {
        let deep = format!("{}{}", "{\"a\":".repeat(200), "1".to_owned() + &"}".repeat(200));
        assert!(Object::from_slice(deep.as_bytes()).is_err());
    }
}
