//! Adds to a version 2 document what another server says of its own paths.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

const PREFIX: &str = "#/definitions/";
const KINDS: &str = "x-kubernetes-group-version-kind";

/// What a document says of the paths below `base`, such as `/apis/metrics.k8s.io/v1beta1`: these paths, and the
/// definitions that they lead to.
pub fn part(document: &Value, base: &str) -> Value {
    let below =
        |path: &str| path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let all = document["paths"].as_object();
    let paths: Map<String, Value> = all
        .into_iter()
        .flatten()
        .filter(|(path, _)| below(path))
        .map(|(path, item)| (path.clone(), item.clone()))
        .collect();
    let mut names = BTreeSet::new();
    let mut open = Vec::new();
    paths.values().for_each(|item| references(item, &mut open));
    let mut definitions = Map::new();
    while let Some(name) = open.pop() {
        if names.insert(name.clone())
            && let Some(definition) = document["definitions"].get(&name)
        {
            references(definition, &mut open);
            definitions.insert(name, definition.clone());
        }
    }
    let mut out = Map::new();
    out.insert("paths".into(), paths.into());
    out.insert("definitions".into(), definitions.into());
    out.into()
}

/// Adds a [`part`]: paths that are there stay as they are, and a definition that is another one of the same name gets a
/// new name, with `_v2`, `_v3` behind it.
pub fn merge(document: &mut Value, part: &Value) {
    let empty = Map::new();
    let theirs = part["definitions"].as_object().unwrap_or(&empty);
    let own = document["definitions"].as_object().unwrap_or(&empty);
    let names = free_names(own, theirs);
    let renamed = |value: &Value| {
        let mut value = value.clone();
        rename(&mut value, &names);
        value
    };
    let definitions: Vec<(String, Value)> = theirs
        .iter()
        .filter_map(|(name, it)| names.get(name.as_str()).map(|name| (name.clone(), renamed(it))))
        .collect();
    let all = part["paths"].as_object().into_iter().flatten();
    let paths: Vec<(String, Value)> = all.map(|(path, item)| (path.clone(), renamed(item))).collect();
    if let Some(own) = document["definitions"].as_object_mut() {
        for (name, definition) in definitions {
            match own.get_mut(&name) {
                Some(known) => add_kinds(known, &definition),
                None => _ = own.insert(name, definition),
            }
        }
    }
    if let Some(own) = document["paths"].as_object_mut() {
        for (path, item) in paths {
            own.entry(path).or_insert(item);
        }
    }
}

/// How often names are looked for; a definition takes part in its change by what it refers to.
const ROUNDS: usize = 16;

/// The names under which definitions are, or can be: a definition is the same as another one if what it refers to is.
fn free_names<'a>(own: &Map<String, Value>, theirs: &'a Map<String, Value>) -> BTreeMap<&'a str, String> {
    let mut names: BTreeMap<&str, String> = theirs.keys().map(|name| (name.as_str(), name.clone())).collect();
    for _ in 0..ROUNDS {
        let find = |(name, it): (&'a String, &Value)| {
            let mut it = it.clone();
            rename(&mut it, &names);
            (name.as_str(), free_name(name, &it, own, theirs))
        };
        let found = theirs.iter().map(find).collect();
        if found == names {
            break;
        }
        names = found;
    }
    names
}

/// The name under which a definition is, or can be.
fn free_name(name: &str, it: &Value, own: &Map<String, Value>, theirs: &Map<String, Value>) -> String {
    let mut tried = name.to_owned();
    for number in 2_u32.. {
        match own.get(&tried) {
            Some(known) if is_same(known, it) => break,
            None if tried == name || !theirs.contains_key(&tried) => break,
            Some(_) | None => tried = format!("{name}_v{number}"),
        }
    }
    tried
}

/// Whether two definitions differ at most in the kinds that they are of.
fn is_same(one: &Value, other: &Value) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else { return one == other };
    let but_kinds = |it: &Map<String, Value>| it.keys().filter(|key| *key != KINDS).count();
    let rest = |(key, value): (&String, &Value)| key == KINDS || other.get(key) == Some(value);
    but_kinds(one) == but_kinds(other) && one.iter().all(rest)
}

fn add_kinds(known: &mut Value, other: &Value) {
    let Some(more) = other[KINDS].as_array() else { return };
    let Some(known) = known.as_object_mut() else { return };
    let kinds = known.entry(KINDS).or_insert_with(|| Value::Array(Vec::new()));
    if let Some(kinds) = kinds.as_array_mut() {
        for kind in more {
            if !kinds.contains(kind) {
                kinds.push(kind.clone());
            }
        }
    }
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let name = fields.get("$ref").and_then(Value::as_str).and_then(|it| it.strip_prefix(PREFIX));
            found.extend(name.map(str::to_owned));
            fields.values().for_each(|field| references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn rename(value: &mut Value, names: &BTreeMap<&str, String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get_mut("$ref")
                && let Some(name) = reference.strip_prefix(PREFIX).and_then(|name| names.get(name))
            {
                *reference = format!("{PREFIX}{name}");
            }
            fields.values_mut().for_each(|field| rename(field, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reference(name: &str) -> Value {
        json!({"$ref": format!("#/definitions/{name}")})
    }

    #[test]
    fn only_the_groups_own_paths_and_what_they_lead_to_are_taken() {
        let document = json!({
            "paths": {"/apis/g/v1/things": {"get": {"schema": reference("Thing")}}, "/apis/g/v10/x": {}, "/version": {}},
            "definitions": {"Thing": {"properties": {"spec": reference("Spec")}}, "Spec": {}, "Other": {}},
        });
        let part = part(&document, "/apis/g/v1");
        assert_eq!(part["paths"].as_object().unwrap().keys().collect::<Vec<_>>(), ["/apis/g/v1/things"]);
        assert_eq!(part["definitions"].as_object().unwrap().keys().collect::<Vec<_>>(), ["Spec", "Thing"]);
    }

    #[test]
    fn a_definition_that_is_another_one_gets_another_name_and_the_same_one_more_kinds() {
        let kind = |group: &str| json!({"group": group, "kind": "Options", "version": "v1"});
        let mut document = json!({
            "paths": {"/a": {"own": true}},
            "definitions": {"Meta": {"type": "object"}, "Options": {"type": "object", KINDS: [kind("a")]}},
        });
        let other = json!({
            "paths": {"/a": {"own": false}, "/b": {"schema": reference("Meta")}},
            "definitions": {"Meta": {"type": "string"}, "List": {"items": reference("Meta")},
                "Options": {"type": "object", KINDS: [kind("a"), kind("b")]}},
        });
        merge(&mut document, &other);
        let expected = json!({
            "paths": {"/a": {"own": true}, "/b": {"schema": reference("Meta_v2")}},
            "definitions": {"Meta": {"type": "object"}, "Meta_v2": {"type": "string"}, "List": {"items": reference("Meta_v2")},
                "Options": {"type": "object", KINDS: [kind("a"), kind("b")]}},
        });
        assert_eq!(document, expected);
        merge(&mut document, &other);
        assert_eq!(document, expected);
    }
}
