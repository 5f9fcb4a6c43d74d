//! What a document of a built-in kind says without saying anything: optional fields that are null, empty or zero. They
//! are not kept, so that a document is the same whoever wrote it, in whichever encoding.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use super::{Schema, SchemaType, quantities};

/// Settles quantities, and takes out what says nothing. What is no field of the schema stays as it is.
pub(super) fn settle_fields(schema: &Schema, fields: &mut Map<String, Value>) {
    fields.retain(|name, child| {
        let Some(field) = schema.properties.get(name) else { return true };
        settle(field, child);
        !says_nothing(field, child)
            || schema.required.iter().any(|it| it == name)
            || is_kept(schema, name, field, child)
    });
}

fn settle(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(fields) if schema.properties.is_empty() => {
            let Some(of_all) = &schema.additional else { return };
            fields.iter_mut().for_each(|(_, child)| settle_one(of_all, child));
        }
        Value::Object(fields) => settle_fields(schema, fields),
        Value::Array(items) => {
            let Some(of_all) = &schema.items else { return };
            items.iter_mut().for_each(|item| settle_one(of_all, item));
        }
        Value::String(text) => match schema.format.as_deref() {
            Some("byte") => settle_bytes(text),
            Some("date-time") => settle_time(text, schema.go_name.as_deref() == Some("v1.MicroTime")),
            Some(_) | None => quantities::settle(schema, value),
        },
        Value::Number(_) => quantities::settle(schema, value),
        Value::Bool(_) | Value::Null => {}
    }
}

/// A value of a map or list. Null is the zero of its type there, since nothing cannot be one of many.
fn settle_one(schema: &Schema, value: &mut Value) {
    if value.is_null() {
        *value = match schema.kind {
            SchemaType::String if quantities::is_quantity(schema) => "0".into(),
            SchemaType::String => "".into(),
            SchemaType::Integer | SchemaType::IntOrString | SchemaType::Number => 0.into(),
            SchemaType::Boolean => false.into(),
            SchemaType::Object => Map::new().into(),
            SchemaType::Array => Vec::<Value>::new().into(),
            SchemaType::Any => return,
        };
    }
    settle(schema, value);
}

/// Base64 may be broken into lines, and its last bits may be any.
fn settle_bytes(text: &mut String) {
    const LENIENT: GeneralPurpose =
        GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));
    if text.contains(['\r', '\n']) {
        text.retain(|letter| !matches!(letter, '\r' | '\n'));
    }
    // Without padding there are no bits that could be any.
    if text.ends_with('=')
        && let Ok(bytes) = LENIENT.decode(text.as_bytes())
    {
        *text = LENIENT.encode(bytes);
    }
}

/// Times are in UTC, to the second or to the microsecond. What is no time stays as it is.
fn settle_time(text: &mut String, micro: bool) {
    let length = if micro { "2006-01-02T15:04:05.000000Z".len() } else { "2006-01-02T15:04:05Z".len() };
    if text.len() == length && text.ends_with('Z') {
        return;
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        let form = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
        *text = time.strftime(form).to_string();
    }
}

/// An empty object was said, unless it is a map.
fn says_nothing(schema: &Schema, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0) && schema.kind != SchemaType::IntOrString,
        Value::String(text) => text.is_empty() && schema.kind != SchemaType::IntOrString,
        Value::Array(items) => items.is_empty() && schema.kind == SchemaType::Array,
        Value::Object(fields) => fields.is_empty() && schema.additional.is_some(),
    }
}

/// A zero that was said, or the null of a time, which is written whether it was said or not.
fn is_kept(schema: &Schema, name: &str, field: &Schema, value: &Value) -> bool {
    match value {
        Value::Null => field.format.as_deref() == Some("date-time") && name != "creationTimestamp",
        Value::Bool(_) | Value::Number(_) | Value::String(_) => schema.pointers.iter().any(|it| it == name),
        Value::Array(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::GroupVersionKind;
    use serde_json::json;

    fn settled(group: &str, kind: &str, mut document: Value) -> Value {
        let schema = Schema::builtin(&GroupVersionKind::new(group, "v1", kind)).unwrap();
        settle_fields(&schema, document.as_object_mut().unwrap());
        document
    }

    #[test]
    fn bytes_and_times_have_one_form() {
        let secret = settled("", "Secret", json!({"data": {"a": "YWJ\nj\n", "b": "YR==", "c": "####"}}));
        assert_eq!(secret, json!({"data": {"a": "YWJj", "b": "YQ==", "c": "####"}}));
        let pod = settled("", "Pod", json!({"status": {"startTime": "2026-01-02T03:04:05.9+01:00"}}));
        assert_eq!(pod["status"]["startTime"], "2026-01-02T02:04:05Z");
        let lease = settled(
            "coordination.k8s.io",
            "Lease",
            json!({"spec": {"renewTime": "2026-01-02T03:04:05.1234567Z"}}),
        );
        assert_eq!(lease["spec"]["renewTime"], "2026-01-02T03:04:05.123456Z");
    }

    #[test]
    fn null_is_a_zero_in_lists_and_maps() {
        let pod = json!({
            "metadata": {"labels": {"a": null}, "finalizers": [null]},
            "spec": {"containers": [null, {"args": [null], "resources": {"limits": {"cpu": null}}}]},
        });
        let expected = json!({
            "metadata": {"labels": {"a": ""}, "finalizers": [""]},
            "spec": {"containers": [{}, {"args": [""], "resources": {"limits": {"cpu": "0"}}}]},
        });
        assert_eq!(settled("", "Pod", pod), expected);
    }

    #[test]
    fn what_says_nothing_is_left_out_and_a_said_zero_is_not() {
        let pod = settled(
            "",
            "Pod",
            json!({
                "metadata": {"name": "p", "creationTimestamp": null, "labels": {}, "annotations": {"a": ""}, "finalizers": []},
                "spec": {
                    "hostNetwork": false, "hostIPC": true, "nodeName": "", "tolerations": [], "terminationGracePeriodSeconds": 0,
                    "automountServiceAccountToken": false, "securityContext": {}, "nodeSelector": {}, "priority": 0,
                    "volumes": [{"name": "v", "emptyDir": {"medium": "", "sizeLimit": 0}}],
                    "containers": [{"name": "c", "stdin": false, "env": [{"name": "A", "value": ""}],
                        "securityContext": {"runAsUser": 0, "privileged": false, "procMount": ""},
                        "livenessProbe": {"initialDelaySeconds": 0, "httpGet": {"port": 0, "host": ""}}}],
                },
                "status": {"conditions": [{"type": "Ready", "status": "", "lastProbeTime": null, "message": ""}]},
            }),
        );
        assert_eq!(
            pod,
            json!({
                "metadata": {"name": "p", "annotations": {"a": ""}},
                "spec": {
                    "hostIPC": true, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                    "securityContext": {}, "priority": 0,
                    "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "0"}}],
                    "containers": [{"name": "c", "env": [{"name": "A"}],
                        "securityContext": {"runAsUser": 0, "privileged": false},
                        "livenessProbe": {"httpGet": {"port": 0}}}],
                },
                "status": {"conditions": [{"type": "Ready", "status": "", "lastProbeTime": null}]},
            })
        );
    }

    #[test]
    fn free_documents_and_maps_stay_as_they_are() {
        let revision =
            json!({"metadata": {"name": "r"}, "data": {"a": null, "b": [], "c": 0}, "revision": 0});
        assert_eq!(settled("apps", "ControllerRevision", revision.clone()), revision);
        let map = json!({"data": {"a": ""}, "binaryData": {}});
        assert_eq!(settled("", "ConfigMap", map), json!({"data": {"a": ""}}));
    }
}
