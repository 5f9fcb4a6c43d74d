//! What a document of a built-in kind says without saying anything: optional fields that are null, empty or zero. They
//! are not kept, so that a document is the same whoever wrote it, in whichever encoding.

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
            fields.iter_mut().for_each(|(_, child)| settle(of_all, child));
        }
        Value::Object(fields) => settle_fields(schema, fields),
        Value::Array(items) => {
            let Some(of_all) = &schema.items else { return };
            items.iter_mut().for_each(|item| settle(of_all, item));
        }
        Value::String(_) | Value::Number(_) => quantities::settle(schema, value),
        Value::Bool(_) | Value::Null => {}
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
