//! What is one field and what has fields of its own, by a schema or, where there is none, by the value.

use serde_json::{Map, Value};

use super::Scope;
use super::field_set::{FieldSet, PathElement};
use crate::object::Object;
use crate::schema::{ListType, Schema};

/// How a value is taken apart.
pub(super) enum Shape<'a> {
    /// Owned as a whole.
    Leaf,
    /// A struct or a map, each field of which has its own owner.
    Map(&'a Map<String, Value>),
    /// A list, each item of which has its own owner.
    List(&'a [Value]),
}

/// The shape of a value. Without schema maps are taken apart, and lists are not.
pub(super) fn shape<'a>(schema: Option<&Schema>, value: &'a Value) -> Shape<'a> {
    match (value, schema) {
        (Value::Object(map), schema) if schema.is_none_or(|schema| !schema.atomic) => Shape::Map(map),
        (Value::Array(items), Some(schema)) if schema.list != ListType::Atomic => Shape::List(items),
        _ => Shape::Leaf,
    }
}

/// The schema of a field.
pub(super) fn field<'a>(schema: Option<&'a Schema>, name: &str) -> Option<&'a Schema> {
    schema.and_then(|schema| schema.field(name)).map(AsRef::as_ref)
}

/// The schema of a list's items.
pub(super) fn items(schema: Option<&Schema>) -> Option<&Schema> {
    schema.and_then(|schema| schema.items.as_deref())
}

/// Whether a field is one that the schema names, in contrast to a key of a map.
pub(super) fn is_named(schema: Option<&Schema>, name: &str) -> bool {
    schema.is_some_and(|schema| schema.properties.contains_key(name))
}

/// How an item of a list is told from the others.
pub(super) fn item_element(schema: Option<&Schema>, item: &Value) -> Result<PathElement, String> {
    match schema.map(|schema| &schema.list) {
        Some(ListType::Map(keys)) => keyed(items(schema), keys, item),
        Some(ListType::Set) => match item {
            Value::Object(_) => {
                Err("associative list without keys has an element that's a map type".to_owned())
            }
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                Ok(PathElement::value(item))
            }
        },
        Some(ListType::Atomic) | None => Err("an atomic list has no items of its own".to_owned()),
    }
}

fn keyed(item_schema: Option<&Schema>, keys: &[String], item: &Value) -> Result<PathElement, String> {
    let fields = match item {
        Value::Object(fields) => fields,
        Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
        _ => return Err("associative list with keys may not have non-map elements".to_owned()),
    };
    let mut found: smallvec::SmallVec<[(&str, &Value); 4]> = smallvec::SmallVec::new();
    for key in keys {
        let default = || field(item_schema, key).and_then(|schema| schema.default.as_ref());
        if let Some(value) = fields.get(key.as_str()).or_else(default) {
            found.push((key, value));
        }
    }
    if found.is_empty() {
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(" ")
        ));
    }
    Ok(PathElement::key(found))
}

/// The items of a list with their elements; `None` when one of them has none: such a list is a leaf.
pub(super) fn item_elements<'a>(
    schema: Option<&Schema>,
    list: &'a [Value],
) -> Option<Vec<(PathElement, &'a Value)>> {
    list.iter().map(|item| Some((item_element(schema, item).ok()?, item))).collect()
}

/// Fields of `metadata` that belong to the server, or that name the object.
const UNOWNED_METADATA: [&str; 9] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// Whether a field of `metadata` can have a manager.
pub(super) fn is_owned_metadata(name: &str) -> bool {
    !UNOWNED_METADATA.contains(&name)
}

/// The fields that an applied configuration claims.
pub(super) fn applied_set(schema: Option<&Schema>, config: &Object, scope: Scope) -> FieldSet {
    let mut set = FieldSet::default();
    for (name, value) in &config.0 {
        let below = match name.as_str() {
            "apiVersion" | "kind" => continue,
            "metadata" => {
                let metadata = field(schema, name);
                let mut below = FieldSet::default();
                for (name, value) in value.as_object().into_iter().flatten() {
                    if is_owned_metadata(name) {
                        below.insert(PathElement::field(name), applied_field(metadata, name, value));
                    }
                }
                below
            }
            name if !scope.has(name) => continue,
            _ => applied_field(schema, name, value),
        };
        set.insert(PathElement::field(name), below);
    }
    set
}

fn applied_field(parent: Option<&Schema>, name: &str, value: &Value) -> FieldSet {
    let mut below = applied(field(parent, name), value);
    let is_empty_map = value.as_object().is_some_and(Map::is_empty);
    if value.is_null() || is_empty_map || !is_named(parent, name) {
        below.set_member();
    }
    below
}

/// The fields of a value that an applier claims; the value itself only when it is a leaf.
pub(super) fn applied(schema: Option<&Schema>, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    match shape(schema, value) {
        Shape::Leaf => set.set_member(),
        Shape::Map(fields) => {
            for (name, value) in fields {
                set.insert(PathElement::field(name), applied_field(schema, name, value));
            }
        }
        Shape::List(list) => match item_elements(schema, list) {
            None => set.set_member(),
            Some(elements) => {
                for (element, item) in elements {
                    let mut below = applied(items(schema), item);
                    below.set_member();
                    set.insert(element, below);
                }
            }
        },
    }
    set
}

/// Takes the fields of a set out of a document, each with everything below it.
pub(super) fn remove(schema: Option<&Schema>, map: &mut Map<String, Value>, set: &FieldSet) {
    for (element, below) in set.children() {
        let Some(name) = element.as_field() else { continue };
        if below.is_member() {
            map.remove(name);
        } else if let Some(value) = map.get_mut(name)
            && remove_below(field(schema, name), value, below)
        {
            map.remove(name);
        }
    }
}

/// Whether nothing is left of the value.
fn remove_below(schema: Option<&Schema>, value: &mut Value, set: &FieldSet) -> bool {
    if matches!(shape(schema, value), Shape::Leaf) {
        return false;
    }
    match value {
        Value::Object(map) => {
            let before = map.len();
            remove(schema, map, set);
            before > 0 && map.is_empty()
        }
        Value::Array(list) => {
            let before = list.len();
            list.retain_mut(|item| {
                let below = item_element(schema, item).ok().and_then(|element| set.child(&element));
                match below {
                    None => true,
                    Some(below) => !below.is_member() && !remove_below(items(schema), item, below),
                }
            });
            before > 0 && list.is_empty()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Makes the structs on the way to a member members too. Keys of maps and items of lists stay as they are.
pub(super) fn with_named_fields(schema: Option<&Schema>, mut set: FieldSet) -> FieldSet {
    add_named_fields(schema, &mut set);
    set
}

fn add_named_fields(schema: Option<&Schema>, set: &mut FieldSet) {
    for (element, below) in set.children_mut() {
        match element.as_field() {
            Some(name) => {
                if is_named(schema, name) {
                    below.set_member();
                }
                add_named_fields(field(schema, name), below);
            }
            None => add_named_fields(items(schema), below),
        }
    }
}
