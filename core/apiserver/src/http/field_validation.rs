//! `fieldValidation`: what becomes of fields that a kind does not have, and of fields that are named twice.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use http::HeaderMap;
use keelson_api::schema::{Schema, SchemaType, json_faults, yaml_faults};
use keelson_api::validation::FieldError;
use keelson_api::{GroupVersionKind, Object, ResourceInfo, Status};
use serde_json::Value;

use super::{body, invalid_options};
use crate::admission::Remarks;
use crate::request_info::RequestInfo;

/// What a writer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Directive {
    /// Nothing is said about such fields.
    Ignore,
    /// They are told in `Warning` headers.
    Warn,
    /// They are refused.
    Strict,
}

impl Directive {
    /// Reads the parameter.
    pub(super) fn parse(info: &RequestInfo) -> Result<Self, FieldError> {
        match info.parameter("fieldValidation") {
            None | Some("" | "Warn") => Ok(Directive::Warn),
            Some("Ignore") => Ok(Directive::Ignore),
            Some("Strict") => Ok(Directive::Strict),
            Some(other) => {
                let known = ["", "Ignore", "Strict", "Warn"];
                Err(FieldError::not_supported("fieldValidation", other, &known))
            }
        }
    }

    /// The same, or the answer.
    pub(super) fn of(info: &RequestInfo) -> Result<Self, Status> {
        Self::parse(info).map_err(|fault| invalid_options(info, &[fault]))
    }
}

/// What a document was read from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Text<'a> {
    /// JSON.
    Json(&'a [u8]),
    /// YAML.
    Yaml(&'a [u8]),
    /// An encoding that has no names.
    Nameless,
}

impl<'a> Text<'a> {
    /// The text of a request.
    pub(super) fn of(headers: &HeaderMap, raw: &'a [u8]) -> Self {
        match body::media_type(headers).as_str() {
            "application/yaml" => Text::Yaml(raw),
            body::PROTOBUF => Text::Nameless,
            _ => Text::Json(raw),
        }
    }

    fn faults(self, schema: &Schema, document: &Value, is_custom: bool) -> Vec<String> {
        match self {
            Text::Json(raw) if !is_custom => json_faults(Some(schema), raw),
            Text::Json(raw) => {
                let mut faults = json_faults(None, raw);
                faults.extend(schema.unknown_fields(document));
                faults
            }
            Text::Yaml(raw) => {
                let mut faults = Vec::from_iter(yaml_faults(raw));
                faults.extend(schema.unknown_fields(document));
                faults
            }
            Text::Nameless => Vec::new(),
        }
    }
}

/// The fault of a document that its kind's decoder would find. Of a custom resource only metadata is decoded: the rest
/// is validated.
fn decode_error(schema: &Schema, document: &Value, is_custom: bool) -> Option<String> {
    if !is_custom {
        return schema.decode_error(document);
    }
    schema.field("metadata")?.decode_error(document.get("metadata")?)
}

/// The same fault of an object.
pub(super) fn fields_error(schema: &Schema, object: &Object, is_custom: bool) -> Option<String> {
    if !is_custom {
        return schema.fields_error(&object.0);
    }
    schema.field("metadata")?.decode_error(object.0.get("metadata")?)
}

fn strict(faults: &[String]) -> String {
    format!("strict decoding error: {}", faults.join(", "))
}

/// Warns of faults; those of YAML are a warning a line.
pub(super) fn warn(remarks: &Remarks, faults: &[String]) {
    for fault in faults {
        let lines = fault.strip_prefix("error converting YAML to JSON: ").unwrap_or(fault);
        match lines.strip_prefix("yaml: unmarshal errors:\n") {
            Some(lines) => lines.lines().for_each(|line| remarks.warn(line.trim())),
            None => remarks.warn(fault.as_str()),
        }
    }
}

/// A kind that a document is to be of.
struct Kind<'a> {
    schema: Arc<Schema>,
    name: &'a str,
    version: &'a str,
    is_custom: bool,
}

/// Looks for unknown and duplicate fields as is asked, and takes unknown ones out.
pub(super) fn check(
    info: &RequestInfo,
    object: &mut Object,
    text: Text<'_>,
    resource: &ResourceInfo,
    remarks: &Remarks,
) -> Result<(), Status> {
    let Some(schema) = resource.schema() else { return Ok(()) };
    let is_custom = resource.custom.is_some();
    let kind = Kind { schema, name: &resource.kind, version: &resource.version, is_custom };
    check_as(info, object, text, &kind, remarks)
}

/// Looks so at a document that a subresource takes, such as a Scale.
pub(super) fn check_document(
    info: &RequestInfo,
    object: &mut Object,
    text: Text<'_>,
    kind: &GroupVersionKind,
    remarks: &Remarks,
) -> Result<(), Status> {
    let Some(schema) = Schema::builtin(kind) else { return Ok(()) };
    let kind = Kind { schema, name: &kind.kind, version: &kind.version, is_custom: false };
    check_as(info, object, text, &kind, remarks)
}

fn check_as(
    info: &RequestInfo,
    object: &mut Object,
    text: Text<'_>,
    kind: &Kind<'_>,
    remarks: &Remarks,
) -> Result<(), Status> {
    let Kind { schema, name, version, is_custom } = kind;
    let directive = Directive::of(info)?;
    let mut document = Value::Object(std::mem::take(&mut object.0));
    let refused = |why: &str| {
        Status::bad_request(format!("{name} in version {version:?} cannot be handled as a {name}: {why}"))
    };
    if let Some(why) = decode_error(schema, &document, *is_custom) {
        return Err(refused(&why));
    }
    if directive != Directive::Ignore {
        let faults = text.faults(schema, &document, *is_custom);
        if directive == Directive::Strict && !faults.is_empty() {
            return Err(refused(&strict(&faults)));
        }
        warn(remarks, &faults);
    }
    schema.prune(&mut document);
    *object = Object::from_value(document).map_err(Status::internal)?;
    Ok(())
}

/// What is remarked about the text of a patch itself.
pub(super) fn patch_faults(info: &RequestInfo, format: &str, raw: &[u8]) -> Result<Vec<String>, Status> {
    if Directive::of(info)? == Directive::Ignore {
        return Ok(Vec::new());
    }
    if format != "application/json-patch+json" {
        return Ok(json_faults(None, raw));
    }
    let faults = json_faults(Some(operations()), raw);
    Ok(faults.into_iter().map(|fault| format!("json patch {fault}")).collect())
}

/// The schema of a JSON patch.
fn operations() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let properties: BTreeMap<String, Arc<Schema>> =
            ["op", "path", "from", "value"].map(|name| (name.to_owned(), Arc::default())).into();
        let operation = Schema { kind: SchemaType::Object, properties, closed: true, ..Schema::default() };
        Schema { kind: SchemaType::Array, items: Some(Arc::new(operation)), ..Schema::default() }
    })
}

/// The kind of what is patched.
#[derive(Clone, Copy)]
pub(super) struct PatchedKind<'a> {
    pub(super) schema: Option<&'a Schema>,
    pub(super) is_custom: bool,
}

/// Looks at what a patch has made of an object, as [`check`] does. `said` is what was remarked about the patch;
/// `shown` is how a refusal shows it.
pub(super) fn check_patched(
    info: &RequestInfo,
    object: &mut Object,
    said: &[String],
    shown: impl FnOnce(&Value) -> String,
    kind: PatchedKind<'_>,
    remarks: &Remarks,
) -> Result<(), Status> {
    let PatchedKind { schema: Some(schema), is_custom } = kind else { return Ok(()) };
    let directive = Directive::of(info)?;
    let mut document = Value::Object(std::mem::take(&mut object.0));
    let refused = |document: &Value, why: String| {
        let fault = FieldError::invalid("patch", shown(document), why);
        Status::invalid(&GroupVersionKind::new("", "", ""), "", &[fault])
    };
    if let Some(why) = decode_error(schema, &document, is_custom) {
        return Err(refused(&document, why));
    }
    if directive != Directive::Ignore {
        let mut faults = said.to_vec();
        faults.extend(schema.unknown_fields(&document));
        if directive == Directive::Strict && !faults.is_empty() {
            return Err(refused(&document, strict(&faults)));
        }
        warn(remarks, &faults);
    }
    schema.prune(&mut document);
    *object = Object::from_value(document).map_err(Status::internal)?;
    Ok(())
}

/// A document as Go prints its maps and slices.
pub(super) fn go_text(value: &Value) -> String {
    let mut out = String::new();
    write_go(value, &mut out);
    out
}

fn write_go(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::String(text) => out.push_str(text),
        Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                write_go(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push_str("map[");
            for (at, (name, field)) in fields.iter().enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                out.push_str(name);
                out.push(':');
                write_go(field, out);
            }
            out.push(']');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_patch_is_shown_as_go_prints_a_map() {
        let patch = json!({"spec": {"a": [1, "x", null], "b": true}});
        assert_eq!(go_text(&patch), "map[spec:map[a:[1 x <nil>] b:true]]");
    }

    #[test]
    fn faults_of_yaml_are_a_warning_a_line() {
        let remarks = Remarks::default();
        let fault = "error converting YAML to JSON: yaml: unmarshal errors:\n  line 1: a\n  line 2: b";
        warn(&remarks, &[fault.to_owned(), "unknown field \"x\"".to_owned()]);
        assert_eq!(remarks.warnings(), ["line 1: a", "line 2: b", "unknown field \"x\""]);
    }
}
