//! Lays an applied configuration over an object.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::field_set::PathElement;
use super::shape::{Shape, field, item_elements, items, shape};
use crate::schema::Schema;

/// Merges the fields of a configuration into those of the live object.
pub(super) fn merge_fields(
    schema: Option<&Schema>,
    live: &mut Map<String, Value>,
    config: &Map<String, Value>,
) {
    for (name, value) in config {
        let field_schema = field(schema, name);
        match live.get_mut(name) {
            Some(own) => {
                merge_value(field_schema, own, value);
                if own.is_null() && is_dropped(field_schema) {
                    live.remove(name);
                }
            }
            None if value.is_null() && is_dropped(field_schema) => {}
            None => {
                live.insert(name.clone(), fresh(field_schema, value));
            }
        }
    }
}

/// Whether null means that a field is not set.
fn is_dropped(schema: Option<&Schema>) -> bool {
    schema.is_some_and(|schema| !schema.nullable && !schema.preserve_unknown)
}

/// A value as it comes into an object that does not have it yet.
fn fresh(schema: Option<&Schema>, value: &Value) -> Value {
    match shape(schema, value) {
        Shape::Leaf => value.clone(),
        Shape::Map(fields) => {
            let mut map = Map::new();
            merge_fields(schema, &mut map, fields);
            Value::Object(map)
        }
        Shape::List(list) => list.iter().map(|item| fresh(items(schema), item)).collect(),
    }
}

fn merge_value(schema: Option<&Schema>, live: &mut Value, config: &Value) {
    let is_kept = match (shape(schema, live), shape(schema, config)) {
        (Shape::Map(_) | Shape::List(_), Shape::Leaf) => config.is_null() && !is_empty(live),
        (Shape::Map(_), Shape::Map(_)) => {
            if let (Value::Object(live), Value::Object(config)) = (live, config) {
                merge_fields(schema, live, config);
            }
            return;
        }
        (Shape::List(own), Shape::List(list)) => {
            let merged = merge_lists(schema, own, list);
            *live = merged;
            return;
        }
        (_, _) => false,
    };
    if !is_kept {
        *live = fresh(schema, config);
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// Merges two lists by their items' elements. The configuration's order wins among its own items; the live object's
/// other items stay where they were relative to those in common.
fn merge_lists(schema: Option<&Schema>, live: &[Value], config: &[Value]) -> Value {
    let (Some(live_items), Some(config_items)) = (item_elements(schema, live), item_elements(schema, config))
    else {
        return config.into();
    };
    let mut own: BTreeMap<&PathElement, Option<&Value>> = BTreeMap::new();
    for (element, item) in &live_items {
        // Of an item that is there twice nobody can say which one is meant.
        own.entry(element).and_modify(|found| *found = None).or_insert(Some(item));
    }
    let asked: BTreeSet<&PathElement> = config_items.iter().map(|(element, _)| element).collect();
    let merged = |element: &PathElement, item: &Value| match own.get(element).copied().flatten() {
        Some(live) => {
            let mut live = live.clone();
            merge_value(items(schema), &mut live, item);
            live
        }
        None => fresh(items(schema), item),
    };
    let mut shared = config_items.iter().map(|(element, _)| element).filter(|it| own.contains_key(it));
    let mut next_shared = shared.next();
    let mut out = Vec::with_capacity(live_items.len().max(config_items.len()));
    let (mut from_live, mut from_config) = (live_items.iter().peekable(), config_items.iter().peekable());
    loop {
        match (from_live.peek(), from_config.peek()) {
            (None, None) => break,
            (Some((element, _)), Some((wanted, item))) if element == wanted => {
                out.push(merged(element, item));
                from_live.next();
                from_config.next();
                next_shared = shared.next();
            }
            (Some((element, item)), _) if !asked.contains(element) => {
                out.push((*item).clone());
                from_live.next();
            }
            // In common, and its turn is another one.
            (Some((element, _)), Some(_)) if next_shared.is_some_and(|next| next != element) => {
                from_live.next();
            }
            (_, Some((element, item))) => {
                out.push(merged(element, item));
                from_config.next();
                if next_shared == Some(element) {
                    next_shared = shared.next();
                }
            }
            (Some(_), None) => {
                from_live.next();
            }
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{ListType, SchemaType};
    use serde_json::json;
    use std::sync::Arc;

    fn by_name() -> Schema {
        Schema {
            kind: SchemaType::Array,
            list: ListType::Map(vec!["name".into()]),
            items: Some(Arc::new(Schema { kind: SchemaType::Object, ..Schema::default() })),
            ..Schema::default()
        }
    }

    fn named(text: &str) -> Vec<Value> {
        text.chars().map(|name| json!({"name": name.to_string()})).collect()
    }

    fn order(live: &str, config: &str) -> String {
        let merged = merge_lists(Some(&by_name()), &named(live), &named(config));
        merged.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn the_configuration_orders_its_own_items_and_others_keep_their_place() {
        assert_eq!(order("abc", "abc"), "abc");
        assert_eq!(order("abc", "b"), "abc");
        assert_eq!(order("ab", "ba"), "ba");
        assert_eq!(order("xab", "bac"), "xbac");
        assert_eq!(order("axb", "ab"), "axb");
        assert_eq!(order("", "ab"), "ab");
        assert_eq!(order("ab", ""), "ab");
        assert_eq!(order("acb", "db"), "acdb");
    }

    #[test]
    fn null_is_not_set_where_the_schema_allows_no_null() {
        let text = Arc::new(Schema { kind: SchemaType::String, ..Schema::default() });
        let schema = Schema {
            kind: SchemaType::Object,
            properties: [("a".to_owned(), text.clone()), ("b".to_owned(), text)].into(),
            ..Schema::default()
        };
        let mut live = json!({"a": "x"}).as_object().unwrap().clone();
        merge_fields(Some(&schema), &mut live, json!({"a": null, "b": null, "c": null}).as_object().unwrap());
        assert_eq!(Value::Object(live), json!({"c": null}));
    }
}
