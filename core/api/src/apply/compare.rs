//! Which fields differ between two states of an object.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Scope;
use super::field_set::{FieldSet, PathElement};
use super::shape::{Shape, field, is_owned_metadata, item_elements, items, shape};
use crate::object::Object;
use crate::schema::Schema;

/// What a change did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    /// Fields that are new.
    pub added: FieldSet,
    /// Fields with another value than before.
    pub modified: FieldSet,
    /// Fields that are gone.
    pub removed: FieldSet,
}

impl Comparison {
    /// What is new, another, and gone.
    pub(super) fn sets(&self) -> impl Iterator<Item = &FieldSet> {
        [&self.added, &self.modified, &self.removed].into_iter()
    }

    pub(super) fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    fn modified() -> Self {
        Self { modified: FieldSet::leaf(), ..Self::default() }
    }

    fn insert(&mut self, element: &PathElement, below: Comparison) {
        let into = |set: &mut FieldSet, below: FieldSet| {
            if !below.is_empty() {
                set.insert(element.clone(), below);
            }
        };
        into(&mut self.added, below.added);
        into(&mut self.modified, below.modified);
        into(&mut self.removed, below.removed);
    }
}

/// Structs that are there even while nothing is set in them, so that nobody owns them.
const ALWAYS_THERE: [&str; 8] = [
    "metadata",
    "spec",
    "status",
    "template",
    "strategy",
    "updateStrategy",
    "jobTemplate",
    "creationTimestamp",
];

/// Compares two states of an object; `None` is an object before its creation. Fields that nobody owns are left out.
pub(super) fn compare_objects(
    schema: Option<&Schema>,
    old: Option<&Object>,
    new: &Object,
    scope: Scope,
) -> Comparison {
    let nothing = Map::new();
    let before = old.map_or(&nothing, |old| &old.0);
    let mut found = compare_fields(schema, before, &new.0, &|name| {
        !matches!(name, "apiVersion" | "kind" | "metadata") && scope.has(name)
    });
    let before = old.and_then(Object::metadata).unwrap_or(&nothing);
    let after = new.metadata().unwrap_or(&nothing);
    let metadata = compare_fields(field(schema, "metadata"), before, after, &is_owned_metadata);
    found.insert(&PathElement::field("metadata"), metadata);
    found
}

fn compare_fields(
    schema: Option<&Schema>,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    is_compared: &dyn Fn(&str) -> bool,
) -> Comparison {
    let mut found = Comparison::default();
    for (name, after) in new.iter().filter(|(name, _)| is_compared(name)) {
        match old.get(name) {
            Some(before) if before == after => {}
            Some(before) => {
                let difference = compare_values(field(schema, name), before, after);
                found.insert(&PathElement::field(name), difference);
            }
            None => {
                let below = all(field(schema, name), after, is_always_there(schema, name));
                found.added.insert(PathElement::field(name), below);
            }
        }
    }
    for (name, before) in old.iter().filter(|(name, _)| is_compared(name)) {
        if !new.contains_key(name) {
            found.removed.insert(PathElement::field(name), all(field(schema, name), before, false));
        }
    }
    found
}

fn compare_values(schema: Option<&Schema>, old: &Value, new: &Value) -> Comparison {
    let nothing = Map::new();
    let (old_shape, new_shape) = (shape(schema, old), shape(schema, new));
    match (old_shape, new_shape) {
        (Shape::Map(old), Shape::Map(new)) => compare_fields(schema, old, new, &|_| true),
        (Shape::Map(old), Shape::Leaf) if new.is_null() && !old.is_empty() => {
            compare_fields(schema, old, &nothing, &|_| true)
        }
        (Shape::Leaf, Shape::Map(new)) if old.is_null() && !new.is_empty() => {
            compare_fields(schema, &nothing, new, &|_| true)
        }
        (Shape::List(old), Shape::List(new)) => compare_lists(schema, old, new),
        (Shape::List(list), Shape::Leaf) if new.is_null() && !list.is_empty() => {
            compare_lists(schema, list, &[])
        }
        (Shape::Leaf, Shape::List(list)) if old.is_null() && !list.is_empty() => {
            compare_lists(schema, &[], list)
        }
        (Shape::Leaf, Shape::Leaf) if old == new => Comparison::default(),
        (Shape::Leaf, Shape::Leaf) => Comparison::modified(),
        // One form took the place of another.
        (_, _) => {
            let below = |value| {
                let mut set = all(schema, value, true);
                set.subtract(&FieldSet::leaf());
                set
            };
            Comparison { added: below(new), removed: below(old), modified: FieldSet::leaf() }
        }
    }
}

fn compare_lists(schema: Option<&Schema>, old: &[Value], new: &[Value]) -> Comparison {
    let (Some(before), Some(after)) = (item_elements(schema, old), item_elements(schema, new)) else {
        return if old == new { Comparison::default() } else { Comparison::modified() };
    };
    type Pair<'a> = (Vec<&'a Value>, Vec<&'a Value>);
    let mut pairs: BTreeMap<PathElement, Pair<'_>> = BTreeMap::new();
    for (element, item) in before {
        pairs.entry(element).or_default().0.push(item);
    }
    for (element, item) in after {
        pairs.entry(element).or_default().1.push(item);
    }
    let item_schema = items(schema);
    let added = |item: &Value| Comparison { added: all(item_schema, item, false), ..Comparison::default() };
    let removed =
        |item: &Value| Comparison { removed: all(item_schema, item, false), ..Comparison::default() };
    let mut found = Comparison::default();
    for (element, (before, after)) in pairs {
        let difference = match (before.as_slice(), after.as_slice()) {
            (before, after) if before == after => continue,
            ([before], [after]) => compare_values(item_schema, before, after),
            ([], [item]) => added(item),
            ([item], []) => removed(item),
            ([], _) => Comparison { added: FieldSet::leaf(), ..Comparison::default() },
            (_, []) => Comparison { removed: FieldSet::leaf(), ..Comparison::default() },
            // Items that were there more than once are owned as one.
            ([_, _, ..], [after]) => {
                let mut difference = added(after);
                difference.removed.set_member();
                difference
            }
            ([before], [_, _, ..]) => {
                let mut difference = removed(before);
                difference.added.set_member();
                difference
            }
            ([_, _, ..], [_, _, ..]) => Comparison::modified(),
        };
        found.insert(&element, difference);
    }
    found
}

fn is_always_there(parent: Option<&Schema>, name: &str) -> bool {
    ALWAYS_THERE.contains(&name)
        || parent.is_some_and(|parent| parent.required.iter().any(|required| required == name))
}

/// Every field of a value with the structs, maps and lists on the way. `zero` says that the value itself is there even
/// while it is empty, so that nobody owns it.
pub(super) fn all(schema: Option<&Schema>, value: &Value, zero: bool) -> FieldSet {
    let mut set = FieldSet::default();
    match shape(schema, value) {
        Shape::Leaf => {
            if zero && is_nothing(value) {
                return set;
            }
            set.set_member();
        }
        Shape::Map(fields) => {
            if !zero {
                set.set_member();
            }
            for (name, value) in fields {
                let zero = zero && is_always_there(schema, name);
                set.insert(PathElement::field(name), all(field(schema, name), value, zero));
            }
        }
        Shape::List(list) => {
            if !zero {
                set.set_member();
            }
            match item_elements(schema, list) {
                None => set.set_member(),
                Some(elements) => {
                    for (element, item) in elements {
                        set.insert(element, all(items(schema), item, false));
                    }
                }
            }
        }
    }
    set
}

/// Every field of a new object, written as `fieldsV1`: what [`compare_objects`] finds added, without the set in between.
pub(super) fn all_objects(schema: Option<&Schema>, new: &Object, scope: Scope) -> Map<String, Value> {
    let mut found = Map::new();
    let put = |schema: Option<&Schema>, out: &mut Map<String, Value>, name: &str, value: &Value| {
        if let Some(below) = written(field(schema, name), value, is_always_there(schema, name)) {
            out.insert(field_key(name), Value::Object(below));
        }
    };
    let metadata_schema = field(schema, "metadata");
    let mut metadata = Map::new();
    for (name, value) in new.metadata().into_iter().flatten() {
        if is_owned_metadata(name) {
            put(metadata_schema, &mut metadata, name, value);
        }
    }
    if !metadata.is_empty() {
        found.insert(field_key("metadata"), Value::Object(metadata));
    }
    for (name, value) in &new.0 {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") && scope.has(name) {
            put(schema, &mut found, name, value);
        }
    }
    found
}

fn field_key(name: &str) -> String {
    PathElement::field(name).into_string()
}

/// As [`all`]; `None` is the empty set.
fn written(schema: Option<&Schema>, value: &Value, zero: bool) -> Option<Map<String, Value>> {
    let mut found = Map::new();
    match shape(schema, value) {
        Shape::Leaf => return (!zero || !is_nothing(value)).then_some(found),
        Shape::Map(fields) => {
            for (name, value) in fields {
                let zero = zero && is_always_there(schema, name);
                if let Some(below) = written(field(schema, name), value, zero) {
                    found.insert(field_key(name), Value::Object(below));
                }
            }
        }
        Shape::List(list) => {
            // A list whose items cannot be told apart is a leaf.
            let Some(elements) = item_elements(schema, list) else { return Some(found) };
            for (element, item) in elements {
                if let Some(below) = written(items(schema), item, false) {
                    found.insert(element.into_string(), Value::Object(below));
                }
            }
        }
    }
    match (found.is_empty(), zero) {
        (true, true) => None,
        (true, false) | (false, true) => Some(found),
        (false, false) => {
            found.insert(".".to_owned(), Value::Object(Map::new()));
            Some(found)
        }
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}
