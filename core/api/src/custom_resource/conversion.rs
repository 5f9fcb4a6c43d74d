//! Conversion of custom resources by a webhook, as far as it is pure: what is sent, and what an answer must be.

use serde_json::{Map, Value, json};

use crate::kinds::GroupVersionKind;
use crate::names;
use crate::object::Object;

/// The webhook that converts the objects of a definition.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversion {
    /// Where it is: a `WebhookClientConfig`.
    pub client_config: Value,
    /// The versions of the review that it understands, the preferred first.
    pub versions: Vec<String>,
}

impl Conversion {
    /// The webhook of a definition that has one.
    pub fn read(definition: &Object) -> Option<Self> {
        if definition.get_str(&["spec", "conversion", "strategy"]) != Some("Webhook") {
            return None;
        }
        let webhook = definition.get(&["spec", "conversion", "webhook"])?;
        let versions = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
        Some(Conversion {
            client_config: webhook["clientConfig"].clone(),
            versions: versions.filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }

    /// The review that asks for objects in another version; `None` where no version of it is spoken by both.
    pub fn review(&self, uid: &str, desired: &str, objects: &[Object]) -> Option<Value> {
        let version = self.versions.iter().find(|version| matches!(version.as_str(), "v1" | "v1beta1"))?;
        let objects: Vec<Value> = objects.iter().map(|object| object.clone().into_value()).collect();
        Some(json!({
            "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": desired, "objects": objects},
        }))
    }
}

/// The converted objects of an answer; the text says why there are none. `sent` is the review that was answered.
pub fn converted(sent: &Value, mut answer: Value) -> Result<Vec<Value>, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if answer["response"].is_null() {
        return Err("no response provided".to_owned());
    }
    if sent["apiVersion"] == "apiextensions.k8s.io/v1" {
        let (api_version, kind) = (text(&answer["apiVersion"]), text(&answer["kind"]));
        if api_version != "apiextensions.k8s.io/v1" || kind != "ConversionReview" {
            return Err(format!(
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {api_version}, Kind={kind}"
            ));
        }
        let (wanted, own) = (text(&sent["request"]["uid"]), text(&answer["response"]["uid"]));
        if wanted != own {
            return Err(format!("expected response.uid={wanted:?}, got {own:?}"));
        }
    }
    let result = &answer["response"]["result"];
    let (status, message) = (text(&result["status"]), text(&result["message"]));
    if status != "Success" {
        return Err(match message.as_str() {
            "" => format!("response.result.status was '{status}', not 'Success'"),
            _ => message,
        });
    }
    match answer["response"]["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// Takes a converted object, in which nothing of the metadata may have changed but labels and annotations. The text
/// continues `conversion webhook for KIND returned `.
pub fn take(
    original: &Object,
    converted: Value,
    to: &GroupVersionKind,
    index: usize,
) -> Result<Object, String> {
    let at = format!("invalid converted object at index {index}");
    let mut object = Object::from_value(converted).map_err(|error| format!("{at}: {error}"))?;
    if object.api_version() != to.api_version() {
        let (expected, received) = (to.api_version(), object.api_version());
        return Err(format!("{at}: invalid groupVersion (expected {expected}, received {received})"));
    }
    if object.kind() != original.kind() {
        let (expected, received) = (original.kind(), object.kind());
        return Err(format!("{at}: invalid kind (expected {expected}, received {received})"));
    }
    type Read = fn(&Object) -> Option<&str>;
    let fixed: [(&str, Read); 3] =
        [("name", Object::name), ("namespace", Object::namespace), ("UID", Object::uid)];
    for (what, read) in fixed {
        let (own, other) = (read(original).unwrap_or_default(), read(&object).unwrap_or_default());
        if own != other {
            return Err(format!("{at}: must have the same {what}: {own} != {other}"));
        }
    }
    let metadata = format!("invalid metadata in object at index {index}");
    let restored = restore(original, &object).map_err(|error| format!("{metadata}: {error}"))?;
    object.0.insert("metadata".to_owned(), Value::Object(restored));
    Ok(object)
}

/// The metadata of the original with labels and annotations of the converted object.
fn restore(original: &Object, converted: &Object) -> Result<Map<String, Value>, String> {
    let answered = converted.metadata().ok_or("missing metadata in converted object")?;
    let mut metadata = original.metadata().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match answered.get(field) {
            None | Some(Value::Null) => drop(metadata.remove(field)),
            Some(Value::Object(entries)) => {
                if metadata.get(field).and_then(Value::as_object) != Some(entries) {
                    check(field, entries)?;
                }
                metadata.insert(field.to_owned(), Value::Object(entries.clone()));
            }
            Some(_) => return Err(format!("invalid metadata.{field} in converted object")),
        }
    }
    Ok(metadata)
}

fn check(field: &str, entries: &Map<String, Value>) -> Result<(), String> {
    for (key, value) in entries {
        let Some(value) = value.as_str() else {
            return Err(format!("metadata.{field}[{key}] must be a string"));
        };
        let mut faults =
            names::qualified_name(&if field == "labels" { key.clone() } else { key.to_lowercase() });
        if field == "labels" {
            faults.extend(names::label_value(value));
        }
        if let Some(fault) = faults.first() {
            return Err(format!("metadata.{field}: Invalid value: {key:?}: {fault}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str, metadata: Value) -> Value {
        json!({"apiVersion": format!("x.io/{version}"), "kind": "Foo", "metadata": metadata})
    }

    #[test]
    fn only_labels_and_annotations_may_change_with_the_version() {
        let before =
            object("v1", json!({"name": "a", "uid": "1", "resourceVersion": "7", "labels": {"a": "b"}}));
        let original = Object::from_value(before).unwrap();
        let to = GroupVersionKind::new("x.io", "v2", "Foo");
        let taken = |value: Value| take(&original, value, &to, 0).map(|object| object.into_value());
        let fine = object("v2", json!({"name": "a", "uid": "1", "labels": {"c": "d"}, "generation": 9}));
        let expected =
            object("v2", json!({"name": "a", "uid": "1", "resourceVersion": "7", "labels": {"c": "d"}}));
        assert_eq!(taken(fine).unwrap(), expected);
        assert_eq!(
            taken(object("v2", json!({"name": "b", "uid": "1"}))).unwrap_err(),
            "invalid converted object at index 0: must have the same name: a != b"
        );
        assert_eq!(
            taken(object("v1", json!({"name": "a", "uid": "1"}))).unwrap_err(),
            "invalid converted object at index 0: invalid groupVersion (expected x.io/v2, received x.io/v1)"
        );
        assert!(taken(object("v2", json!({"name": "a", "uid": "1", "labels": {"!": "d"}}))).is_err());
    }

    #[test]
    fn an_answer_that_is_no_success_says_why() {
        let sent = json!({"apiVersion": "apiextensions.k8s.io/v1", "request": {"uid": "1"}});
        let answer = |response: Value| json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response});
        let failed = answer(json!({"uid": "1", "result": {"status": "Failed", "message": "no way"}}));
        assert_eq!(converted(&sent, failed).unwrap_err(), "no way");
        let other = answer(json!({"uid": "2", "result": {"status": "Success"}}));
        assert_eq!(converted(&sent, other).unwrap_err(), "expected response.uid=\"1\", got \"2\"");
        assert_eq!(converted(&sent, json!({})).unwrap_err(), "no response provided");
    }
}
