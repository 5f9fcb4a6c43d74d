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

fn has(it: &Object, texts: &[&str]) {
    let found = faults(it).join("\n");
    for text in texts {
        assert!(found.contains(text), "{text}\n{found}");
    }
}

#[test]
fn names_versions_and_conversion_are_checked() {
    let mut it = definition(json!({"type": "object"}));
    it.set_name("wrong");
    it.set(&["spec", "scope"], "Everywhere".into());
    it.set(&["spec", "conversion", "strategy"], "Webhook".into());
    it.set(&["spec", "versions"], json!([{"name": "v1", "served": true, "storage": false}]));
    has(
        &it,
        &[
            r#"metadata.name: Invalid value: "wrong": must be spec.names.plural+"."+spec.group"#,
            r#"spec.scope: Unsupported value: "Everywhere": supported values: "Cluster", "Namespaced""#,
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
            "spec.conversion.conversionReviewVersions: Required value",
            "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
            "must have exactly one version marked as storage version",
        ],
    );
}

#[test]
fn defaults_that_do_not_fit_are_refused() {
    let of = |property: Value| {
        let found = faults(&definition(json!({"type": "object", "properties": {"a": property}})));
        found.first().cloned().unwrap_or_default()
    };
    let wrong = of(json!({"type": "integer", "default": "x"}));
    assert!(wrong.starts_with(&format!("{ROOT}.properties[a].default: Invalid value")), "{wrong}");
    let unknown = json!({"type": "object", "default": {"b": 1}, "properties": {"c": {"type": "string"}}});
    let text =
        format!(r#"{ROOT}.properties[a].default: Invalid value: {{"b":1}}: must not have unknown fields"#);
    assert_eq!(of(unknown), text);
    let schema = json!({"type": "object", "properties": {"metadata": {"type": "object", "default": {}}}});
    let text =
        format!("{ROOT}.properties[metadata].default: Forbidden: must not be set in top-level metadata");
    has(&definition(schema), &[&text]);
}

#[test]
fn lists_of_types_set_and_map_have_items_that_can_be_told_apart() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "o", "n", "k"],
            "items": {"type": "object", "required": ["k"], "properties": {
                "k": {"type": "string", "nullable": true}, "o": {"type": "object"}}}},
        "b": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}},
        "c": {"type": "array", "x-kubernetes-list-type": "bag", "items": {"type": "string"}},
        "d": {"type": "object", "x-kubernetes-map-type": "loose"}}});
    let at = |tail: &str| format!("{ROOT}.properties{tail}");
    let keys = r#"["k","o","n","k"]"#;
    let texts = [
        at(
            "[a].items.properties[k].nullable: Forbidden: this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
        ),
        at(
            r#"[a].items.properties[o].type: Invalid value: "object": must be a scalar type if parent array's x-kubernetes-list-type is map"#,
        ),
        at(
            "[a].items.properties[o].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
        ),
        at(&format!(
            "[a].x-kubernetes-list-map-keys: Invalid value: {keys}: entries must all be names of item properties"
        )),
        at(&format!(
            "[a].x-kubernetes-list-map-keys: Invalid value: {keys}: must not contain duplicate entries"
        )),
        at(
            "[b].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
        ),
        at(
            r#"[c].x-kubernetes-list-type: Unsupported value: "bag": supported values: "atomic", "set", "map""#,
        ),
        at(
            r#"[d].x-kubernetes-map-type: Unsupported value: "loose": supported values: "atomic", "granular""#,
        ),
    ];
    has(&definition(schema), &texts.each_ref().map(String::as_str));
}

#[test]
fn a_root_with_a_status_of_its_own_has_only_fields_that_leave_it_alone() {
    let mut it = definition(json!({"type": "object", "nullable": true, "anyOf": [{"required": ["spec"]}]}));
    let version = it.get(&["spec", "versions"]).unwrap()[0].clone();
    let with = |field: &str, value: Value| {
        let mut version = version.clone();
        version[field] = value;
        json!([version])
    };
    let texts = [
        "spec.validation.openAPIV3Schema: Invalid value: {",
        "only [Description Type Format Title Maximum",
        "XValidations] fields are allowed at the root of the schema if the status subresource is enabled",
        "spec.validation.openAPIV3Schema.nullable: Forbidden: nullable cannot be true at the root",
    ];
    it.set(&["spec", "versions"], with("subresources", json!({"status": {}})));
    has(&it, &texts);
    let scale = json!({"specReplicasPath": "spec.replicas", "statusReplicasPath": ".spec.n", "labelSelectorPath": ".x"});
    it.set(&["spec", "versions"], with("subresources", json!({"scale": scale})));
    let at = "spec.subresources.scale";
    let texts = [
        format!(
            r#"{at}.specReplicasPath: Invalid value: "spec.replicas": must be a simple json path starting with ."#
        ),
        format!(r#"{at}.statusReplicasPath: Invalid value: ".spec.n": should be a json path under .status"#),
        format!(
            r#"{at}.labelSelectorPath: Invalid value: ".x": should be a json path under either .spec or .status"#
        ),
    ];
    has(&it, &texts.each_ref().map(String::as_str));
    let column = json!({"name": "a", "type": "text", "jsonPath": "spec", "format": "wide"});
    it.set(&["spec", "versions"], with("additionalPrinterColumns", json!([column])));
    let at = "spec.additionalPrinterColumns[0]";
    let texts = [
        format!(r#"{at}.type: Invalid value: "text": must be one of boolean,date,integer,number,string"#),
        format!(r#"{at}.format: Invalid value: "wide": must be one of byte,date,date-time"#),
        format!(r#"{at}.JSONPath: Invalid value: "spec": must be a simple json path starting with ."#),
    ];
    has(&it, &texts.each_ref().map(String::as_str));
}

#[test]
fn selectable_fields_are_a_few_single_values_of_the_schema() {
    let mut properties = serde_json::Map::new();
    for name in ["a", "b", "c", "d", "e", "f", "g", "h", "i"] {
        properties.insert(name.to_owned(), json!({"type": "string"}));
    }
    let mut paths: Vec<Value> =
        properties.keys().map(|name| json!({"jsonPath": format!(".{name}")})).collect();
    properties.insert("o".to_owned(), json!({"type": "object"}));
    for path in [".a", ".o", ".no", ".metadata.name", ".o[0]", "a", ""] {
        paths.push(json!({"jsonPath": path}));
    }
    let schema = json!({"type": "object", "properties": properties});
    let mut it = definition(schema);
    let mut version = it.get(&["spec", "versions"]).unwrap()[0].clone();
    version["selectableFields"] = paths.into();
    it.set(&["spec", "versions"], json!([version]));
    assert_eq!(
        faults(&it),
        [
            r#"spec.selectableFields[9].jsonPath: Duplicate value: ".a""#,
            r#"spec.selectableFields[10].jsonPath: Invalid value: ".o": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."#,
            r#"spec.selectableFields[11].jsonPath: Invalid value: ".no": is an invalid path: does not refer to a valid field"#,
            r#"spec.selectableFields[12].jsonPath: Invalid value: ".metadata.name": is an invalid path: does not refer to a valid field"#,
            r#"spec.selectableFields[13].jsonPath: Invalid value: ".o[0]": is an invalid path: array notation is not allowed"#,
            r#"spec.selectableFields[14].jsonPath: Invalid value: "a": is an invalid path: expected [ or . but got: a"#,
            "spec.selectableFields[15].jsonPath: Required value",
            "spec.selectableFields: Too many: 10: must have at most 8 items",
        ]
    );
}

fn update_faults(new: &Object, old: &Object) -> Vec<String> {
    update(new, old).iter().map(ToString::to_string).collect()
}

#[test]
fn what_names_an_established_kind_is_immutable() {
    let mut old = definition(json!({"type": "object"}));
    old.set(&["status", "conditions"], json!([{"type": "Established", "status": "True"}]));
    let mut new = old.clone();
    new.set(&["spec", "scope"], "Cluster".into());
    assert_eq!(update_faults(&new, &old), [r#"spec.scope: Invalid value: "Cluster": field is immutable"#]);
}

#[test]
fn a_version_in_which_objects_may_be_stored_stays() {
    let old = definition(json!({"type": "object"}));
    let mut new = old.clone();
    new.set(&["status", "storedVersions"], json!(["v0", "v1"]));
    let why = "missing from spec.versions; v0 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v0 and removes v0 from status.storedVersions";
    assert_eq!(
        update_faults(&new, &old),
        [format!("status.storedVersions[0]: Invalid value: \"v0\": {why}")]
    );
}

#[test]
fn a_group_of_the_community_needs_its_approval() {
    let mut it = definition(json!({"type": "object"}));
    it.set_name("foos.batch.k8s.io");
    it.set(&["spec", "group"], "batch.k8s.io".into());
    const PATH: &str = "metadata.annotations[api-approved.kubernetes.io]";
    has(&it, &[&format!("{PATH}: Required value: protected groups must have approval annotation")]);
    let annotated = |text: &str| {
        let mut it = it.clone();
        it.set(&["metadata", "annotations", "api-approved.kubernetes.io"], text.into());
        it
    };
    has(&annotated("yes"), &[&format!("{PATH}: Invalid value: \"yes\": protected groups")]);
    assert_eq!(faults(&annotated("unapproved, a test")), Vec::<String>::new());
    assert_eq!(faults(&annotated("https://github.com/kubernetes/kubernetes/pull/1")), Vec::<String>::new());
    // What was missing may be missing still.
    assert_eq!(update_faults(&it, &it), Vec::<String>::new());
}
