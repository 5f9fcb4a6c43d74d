use serde_json::json;

use super::*;
use crate::custom_resource::defaults;

fn definition(schema: Value) -> Object {
    let value = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "foos.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
    });
    let mut object = Object::from_value(value).unwrap();
    defaults::apply(&mut object);
    object
}

fn faults(object: &Object) -> Vec<String> {
    create(object).iter().map(ToString::to_string).collect()
}

const ROOT: &str = "spec.validation.openAPIV3Schema";

#[test]
fn a_structural_schema_is_accepted() {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1, "default": 3},
            "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "a": {"type": "string"}, "b": {"type": "string"}},
            "oneOf": [{"required": ["a"], "properties": {"a": {"pattern": "^x"}}}, {"required": ["b"]}]},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    assert_eq!(faults(&definition(schema)), Vec::<String>::new());
}

#[test]
fn each_level_has_a_type() {
    let schema = json!({"properties": {"spec": {"properties": {"a": {"type": "array"}}}}});
    assert_eq!(
        faults(&definition(schema)),
        [
            format!("{ROOT}.properties[spec].properties[a].items: Required value: must be specified"),
            format!(
                "{ROOT}.properties[spec].type: Required value: must not be empty for specified object fields"
            ),
            format!("{ROOT}.type: Required value: must not be empty at the root"),
        ]
    );
}

#[test]
fn alternatives_limit_only_what_is_specified_outside_of_them() {
    let schema =
        json!({"type": "object", "anyOf": [{"type": "object", "properties": {"spec": {"minLength": 1}}}]});
    assert_eq!(
        faults(&definition(schema)),
        [
            format!("{ROOT}.anyOf[0].type: Forbidden: must be empty to be structural"),
            format!(
                "{ROOT}.properties[spec]: Required value: because it is defined in {ROOT}.anyOf[0].properties[spec]"
            ),
        ]
    );
}

#[test]
fn names_versions_and_conversion_are_checked() {
    let mut it = definition(json!({"type": "object"}));
    it.set_name("wrong");
    it.set(&["spec", "scope"], "Everywhere".into());
    it.set(&["spec", "conversion", "strategy"], "Webhook".into());
    it.set(&["spec", "versions"], json!([{"name": "v1", "served": true, "storage": false}]));
    let found = faults(&it).join("\n");
    for text in [
        r#"metadata.name: Invalid value: "wrong": must be spec.names.plural+"."+spec.group"#,
        r#"spec.scope: Unsupported value: "Everywhere": supported values: "Cluster", "Namespaced""#,
        "spec.conversion.webhook.clientConfig: Required value: required when strategy is set to Webhook, but not allowed if it's not set to Webhook",
        "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
        "must have exactly one version marked as storage version",
    ] {
        assert!(found.contains(text), "{text}\n{found}");
    }
}

#[test]
fn defaults_that_do_not_fit_are_refused() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}});
    assert!(
        faults(&definition(schema))[0].starts_with(&format!("{ROOT}.properties[a].default: Invalid value"))
    );
}

#[test]
fn what_names_an_established_kind_is_immutable() {
    let mut old = definition(json!({"type": "object"}));
    old.set(&["status", "conditions"], json!([{"type": "Established", "status": "True"}]));
    let mut new = old.clone();
    new.set(&["spec", "scope"], "Cluster".into());
    let found: Vec<String> = update(&new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(found, [r#"spec.scope: Invalid value: "Cluster": field is immutable"#]);
}
