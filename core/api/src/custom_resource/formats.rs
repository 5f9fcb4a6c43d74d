//! Formats in the schemas of a definition that mean nothing to this server.

use serde_json::Value;

use super::definition;
use crate::object::Object;
use crate::schema::is_recognized_format;

/// A warning for each format of a text that is not known. What was so before is told no more.
pub fn warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let (mut found, mut before) = (Vec::new(), Vec::new());
    definition::versions(new).for_each(|version| collect(&version["schema"]["openAPIV3Schema"], &mut found));
    if found.is_empty() {
        return found;
    }
    for version in old.into_iter().flat_map(definition::versions) {
        collect(&version["schema"]["openAPIV3Schema"], &mut before);
    }
    found.retain(|format| !before.contains(format));
    found.into_iter().map(|format| format!("unrecognized format {format:?}")).collect()
}

fn collect(schema: &Value, found: &mut Vec<String>) {
    if let (Some("string"), Some(format)) = (schema["type"].as_str(), schema["format"].as_str())
        && !format.is_empty()
        && !is_recognized_format(format)
        && !found.iter().any(|known| known == format)
    {
        found.push(format.to_owned());
    }
    for field in ["items", "not", "additionalProperties"] {
        collect_below(schema.get(field), found);
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        schema[field].as_array().into_iter().flatten().for_each(|child| collect(child, found));
    }
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties.for_each(|(_, child)| collect(child, found));
}

fn collect_below(schema: Option<&Value>, found: &mut Vec<String>) {
    if let Some(schema) = schema.filter(|schema| schema.is_object()) {
        collect(schema, found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_format_of_a_text_that_is_not_known_is_told_once() {
        let definition = |format: &str| {
            let text = json!({"type": "string", "format": format});
            let number = json!({"type": "integer", "format": "int128"});
            let schema = json!({"type": "object", "properties": {
                "a": text, "b": {"type": "array", "items": text}, "n": number}});
            Object::from_value(json!({"spec": {"versions": [{"name": "v1",
                "schema": {"openAPIV3Schema": schema}}]}}))
            .unwrap()
        };
        assert_eq!(warnings(&definition("phone"), None), ["unrecognized format \"phone\""]);
        assert_eq!(warnings(&definition("phone"), Some(&definition("phone"))), Vec::<String>::new());
        assert_eq!(warnings(&definition("date-time"), None), Vec::<String>::new());
    }
}
