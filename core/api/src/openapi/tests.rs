use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::Catalog;

fn resources(catalog: &Catalog) -> Vec<Served<'_>> {
    catalog.resources().iter().map(|info| Served { info, schema: None }).collect()
}

/// Every reference in a document.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(name)) = fields.get("$ref") {
                found.insert(name.clone());
            }
            fields.values().for_each(|child| references(child, found));
        }
        Value::Array(items) => items.iter().for_each(|child| references(child, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn operations(document: &Value) -> Vec<&Value> {
    let items = document["paths"].as_object().unwrap().values();
    items
        .flat_map(|item| item.as_object().unwrap())
        .filter(|(name, _)| *name != "parameters")
        .map(|it| it.1)
        .collect()
}

#[test]
fn every_reference_leads_to_a_definition() {
    let (catalog, definitions) = (Catalog::builtin(), Definitions::read());
    let all = resources(&catalog);
    for (document, prefix, schemas) in [
        (v3(&all, &definitions), "#/components/schemas/", &["components", "schemas"][..]),
        (v2::v2(&all, &definitions), "#/definitions/", &["definitions"][..]),
    ] {
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 500);
        let schemas = schemas.iter().fold(&document, |value, name| &value[*name]);
        for name in found {
            let name = name.strip_prefix(prefix).unwrap_or_else(|| panic!("{name}"));
            assert!(schemas[name].is_object(), "{name}");
        }
    }
}

#[test]
fn no_two_operations_have_the_same_name() {
    let (catalog, definitions) = (Catalog::builtin(), Definitions::read());
    let document = v3(&resources(&catalog), &definitions);
    let mut seen = BTreeSet::new();
    for operation in operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(seen.insert(id), "{id}");
    }
    for id in [
        "listCoreV1PodForAllNamespaces",
        "createAppsV1NamespacedDeployment",
        "readCoreV1NamespacedPodLog",
        "patchAppsV1NamespacedDeploymentScale",
        "connectCoreV1GetNamespacedPodExec",
        "deleteRbacAuthorizationV1CollectionClusterRole",
        "createCoreV1NamespacedPodEviction",
        "replaceCoreV1NamespaceFinalize",
    ] {
        assert!(seen.contains(id), "{id}");
    }
}

#[test]
fn a_custom_kind_is_a_plain_object_to_version_2_where_it_keeps_unknown_fields() {
    let definitions = Definitions::read();
    let crd = json!({
        "metadata": {"name": "crontabs.stable.example.com", "uid": "1"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "listKind": "CronTabList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]},
        "status": {
            "acceptedNames": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "listKind": "CronTabList"},
            "conditions": [{"type": "Established", "status": "True"}]},
    });
    let crd = crate::Object::from_value(crd).unwrap();
    let info = crate::custom_resource::definition::resources(&crd).unwrap().remove(0);
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["a", "b"], "properties": {
            "a": {"type": "string", "nullable": true}, "b": {"type": "string", "minLength": 1},
            "c": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}},
    }});
    let served = [Served { info: &info, schema: Some(&schema) }];
    let document = v2::v2(&served, &definitions);
    let kind = &document["definitions"]["com.example.stable.v1.CronTab"];
    let spec = &kind["properties"]["spec"];
    assert_eq!(spec["required"], json!(["b"]));
    assert_eq!(spec["properties"]["a"], json!({}));
    assert_eq!(spec["properties"]["c"]["format"], "int-or-string");
    assert!(spec["properties"]["c"].get("anyOf").is_none());
    assert_eq!(
        kind["properties"]["metadata"]["$ref"],
        "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    let open =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"spec": {}}});
    let served = [Served { info: &info, schema: Some(&open) }];
    let document = v2::v2(&served, &definitions);
    let kind = &document["definitions"]["com.example.stable.v1.CronTab"];
    assert_eq!(kind["type"], "object");
    assert!(kind.get("properties").is_none());
    assert_eq!(kind["x-kubernetes-group-version-kind"][0]["group"], "stable.example.com");
}

#[test]
fn the_binary_form_begins_with_the_version_and_the_title() {
    let document = json!({"swagger": "2.0", "info": {"title": "K", "version": "v1"}});
    assert_eq!(gnostic::encode(&document), b"\x0a\x032.0\x12\x07\x0a\x01K\x12\x02v1");
}
