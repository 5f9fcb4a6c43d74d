//! Sets of fields, as `fieldsV1` of `metadata.managedFields` writes them.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::fmt::Write;

use serde_json::{Map, Value};
use smallvec::SmallVec;

/// Why a document is no set of fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldSetError {
    /// A node is not a JSON object.
    #[error("a node of a field set is not an object")]
    NotAnObject,
    /// A path element has none of the forms `f:`, `k:`, `v:` and `i:`.
    #[error("unknown path element {0:?}")]
    Element(String),
}

/// One step of a path, in its written form: `f:NAME` is a field, `k:{..}` the item of a list with these keys, `v:VALUE`
/// an item of a set, `i:NUMBER` an item by its place. The JSON in it is compact, and its fields are sorted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathElement(String);

impl PathElement {
    /// A field of a struct, or a key of a map.
    pub fn field(name: &str) -> Self {
        let mut text = String::with_capacity(name.len() + 2);
        text.push_str("f:");
        text.push_str(name);
        Self(text)
    }

    /// An item of a list by the values of its keys.
    pub fn key<'a>(keys: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Self {
        let mut sorted: SmallVec<[(&str, &Value); 4]> = keys.into_iter().collect();
        sorted.sort_unstable_by_key(|(name, _)| *name);
        let mut text = String::with_capacity(32);
        text.push_str("k:{");
        for (at, (name, value)) in sorted.into_iter().enumerate() {
            if at > 0 {
                text.push(',');
            }
            write_json_string(&mut text, name);
            text.push(':');
            write_scalar(&mut text, value);
        }
        text.push('}');
        Self(text)
    }

    /// An item of a set.
    pub fn value(value: &Value) -> Self {
        let mut text = String::from("v:");
        write_scalar(&mut text, value);
        Self(text)
    }

    /// Reads the written form.
    pub fn parse(text: &str) -> Result<Self, FieldSetError> {
        let wrong = || FieldSetError::Element(text.to_owned());
        match text.split_at_checked(2) {
            Some(("f:", _)) => Ok(Self(text.to_owned())),
            Some(("k:", json)) => {
                let keys: Map<String, Value> = serde_json::from_str(json).map_err(|_| wrong())?;
                Ok(Self::key(keys.iter().map(|(name, value)| (name.as_str(), value))))
            }
            Some(("v:", json)) => {
                let value: Value = serde_json::from_str(json).map_err(|_| wrong())?;
                Ok(Self::value(&value))
            }
            Some(("i:", number)) if number.parse::<i64>().is_ok() => Ok(Self(text.to_owned())),
            _ => Err(wrong()),
        }
    }

    /// The written form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The written form, for a key of a document.
    pub(super) fn into_string(self) -> String {
        self.0
    }

    /// The name of a field.
    pub fn as_field(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }

    /// The form that people read: `.spec`, `[name="a"]`, `[="v"]`, `[0]`.
    pub(super) fn display(&self, out: &mut String) {
        let (form, rest) = self.0.split_at_checked(2).unwrap_or(("", ""));
        match form {
            "f:" => {
                out.push('.');
                out.push_str(rest);
            }
            "k:" => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(rest).unwrap_or_default();
                let texts: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let _ = write!(out, "[{}]", texts.join(","));
            }
            "v:" => {
                let _ = write!(out, "[={rest}]");
            }
            _ => {
                let _ = write!(out, "[{rest}]");
            }
        }
    }
}

fn write_json_string(out: &mut String, text: &str) {
    if text.bytes().any(|byte| byte < b' ' || matches!(byte, b'"' | b'\\')) {
        let _ = write!(out, "{}", Value::from(text));
        return;
    }
    out.push('"');
    out.push_str(text);
    out.push('"');
}

/// A value in compact JSON; a whole number looks the same however it was written.
fn write_scalar(out: &mut String, value: &Value) {
    match (value, value.as_f64()) {
        (Value::String(text), _) => write_json_string(out, text),
        (Value::Number(number), Some(float)) if number.is_f64() && float.fract() == 0.0 => {
            let _ = write!(out, "{float:.0}");
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

/// A set of fields: for each path, whether the field there is in the set, which says nothing of the fields below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    member: bool,
    children: BTreeMap<PathElement, FieldSet>,
}

impl FieldSet {
    /// The set that has the field itself, and nothing below it.
    pub fn leaf() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Whether the field itself is in the set.
    pub fn is_member(&self) -> bool {
        self.member
    }

    /// Puts the field itself into the set.
    pub fn set_member(&mut self) {
        self.member = true;
    }

    /// What the set has at and below a step.
    pub fn child(&self, element: &PathElement) -> Option<&FieldSet> {
        self.children.get(element)
    }

    /// The steps from here, in order.
    pub fn children(&self) -> impl Iterator<Item = (&PathElement, &FieldSet)> {
        self.children.iter()
    }

    /// The steps from here, to be changed. None may become empty.
    pub(super) fn children_mut(&mut self) -> impl Iterator<Item = (&PathElement, &mut FieldSet)> {
        self.children.iter_mut()
    }

    /// Adds what is at and below a step.
    pub fn insert(&mut self, element: PathElement, below: FieldSet) {
        if below.is_empty() {
            return;
        }
        match self.children.entry(element) {
            btree_map::Entry::Vacant(entry) => {
                entry.insert(below);
            }
            btree_map::Entry::Occupied(mut entry) => entry.get_mut().add(below),
        }
    }

    /// Whether the field at the path is in the set.
    pub fn has(&self, path: &[PathElement]) -> bool {
        match path.split_first() {
            None => self.member,
            Some((first, rest)) => self.children.get(first).is_some_and(|below| below.has(rest)),
        }
    }

    /// Whether a set that is written as `fieldsV1` has any member of this one. A document that is no such set has.
    pub(super) fn touches(&self, written: &Value) -> bool {
        let Value::Object(fields) = written else { return true };
        let is_member = || fields.is_empty() || fields.contains_key(".");
        self.member && is_member()
            || self
                .children
                .iter()
                .any(|(element, below)| fields.get(element.as_str()).is_some_and(|rest| below.touches(rest)))
    }

    /// Adds everything in another set.
    pub fn add(&mut self, other: FieldSet) {
        self.member |= other.member;
        if self.children.is_empty() {
            self.children = other.children;
            return;
        }
        for (element, below) in other.children {
            self.insert(element, below);
        }
    }

    /// Takes out everything that another set has. Whether that changed anything.
    pub fn subtract(&mut self, other: &FieldSet) -> bool {
        let mut changed = self.member && other.member;
        self.member &= !other.member;
        if self.children.is_empty() || other.children.is_empty() {
            return changed;
        }
        self.children.retain(|element, own| {
            if let Some(below) = other.children.get(element) {
                changed |= own.subtract(below);
            }
            !own.is_empty()
        });
        changed
    }

    /// What is in this set, and not in the other.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let mut children = BTreeMap::new();
        for (element, own) in &self.children {
            let rest = match other.children.get(element) {
                Some(below) => own.difference(below),
                None => own.clone(),
            };
            if !rest.is_empty() {
                children.insert(element.clone(), rest);
            }
        }
        FieldSet { member: self.member && !other.member, children }
    }

    /// What is in both sets.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut children = BTreeMap::new();
        for (element, own) in &self.children {
            if let Some(below) = other.children.get(element) {
                let both = own.intersection(below);
                if !both.is_empty() {
                    children.insert(element.clone(), both);
                }
            }
        }
        FieldSet { member: self.member && other.member, children }
    }

    /// The paths in the set in the form that people read: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect_paths(&mut String::new(), &mut found);
        found
    }

    fn collect_paths(&self, path: &mut String, found: &mut Vec<String>) {
        if self.member && !path.is_empty() {
            found.push(path.clone());
        }
        let length = path.len();
        for (element, below) in &self.children {
            element.display(path);
            below.collect_paths(path, found);
            path.truncate(length);
        }
    }

    /// Reads `fieldsV1`.
    pub fn from_value(value: &Value) -> Result<Self, FieldSetError> {
        let fields = value.as_object().ok_or(FieldSetError::NotAnObject)?;
        let mut set = FieldSet::default();
        for (name, below) in fields {
            if name == "." {
                set.member = true;
                continue;
            }
            let mut child = FieldSet::from_value(below)?;
            child.member |= child.children.is_empty();
            set.insert(PathElement::parse(name)?, child);
        }
        Ok(set)
    }

    /// Writes `fieldsV1`.
    pub fn into_value(self) -> Value {
        let mut fields = Map::new();
        if self.member && !self.children.is_empty() {
            fields.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (element, below) in self.children {
            fields.insert(element.0, below.into_value());
        }
        Value::Object(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(value: Value) -> FieldSet {
        FieldSet::from_value(&value).unwrap()
    }

    #[test]
    fn a_set_is_written_as_it_was_read() {
        let value = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}, "f:finalizers": {"v:\"a/b\"": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}, "f:list": {"i:0": {}}}});
        assert_eq!(set(value.clone()).into_value(), value);
    }

    #[test]
    fn texts_in_keys_and_values_are_escaped_as_json_has_it() {
        for text in ["plain", "a\"b", "back\\slash", "tab\t", "line\n", "\u{1}", "ümlaut/\u{7f}"] {
            let value = json!(text);
            assert_eq!(PathElement::value(&value).as_str(), format!("v:{value}"));
            assert_eq!(PathElement::key([("k", &value)]).as_str(), format!("k:{{\"k\":{value}}}"));
        }
    }

    #[test]
    fn keys_are_the_same_in_any_order_and_spacing() {
        let a = PathElement::parse(r#"k:{"protocol":"TCP", "port":80.0}"#).unwrap();
        assert_eq!(a.as_str(), r#"k:{"port":80,"protocol":"TCP"}"#);
    }

    #[test]
    fn what_is_no_path_element_is_refused() {
        for text in ["spec", "f", "x:a", "k:[]", "v:", "i:one", ""] {
            assert!(PathElement::parse(text).is_err(), "{text}");
        }
        assert_eq!(FieldSet::from_value(&json!({"f:a": 1})), Err(FieldSetError::NotAnObject));
    }

    #[test]
    fn a_field_and_what_is_below_it_are_two_members() {
        let both = set(json!({"f:labels": {".": {}, "f:a": {}, "f:b": {}}}));
        let labels = [PathElement::field("labels")];
        let a = [PathElement::field("labels"), PathElement::field("a")];
        assert!(both.has(&labels) && both.has(&a));
        let without = both.difference(&set(json!({"f:labels": {}})));
        assert!(!without.has(&labels) && without.has(&a));
        let mut gone = both.clone();
        assert!(gone.subtract(&set(json!({"f:labels": {"f:a": {}, "f:b": {}}}))));
        assert_eq!(gone, set(json!({"f:labels": {}})));
        assert!(!gone.subtract(&set(json!({"f:other": {}}))));
        assert_eq!(
            both.intersection(&set(json!({"f:labels": {"f:b": {}, "f:c": {}}}))),
            set(json!({"f:labels": {"f:b": {}}}))
        );
        let mut sum = set(json!({"f:a": {"f:b": {}}}));
        sum.add(set(json!({"f:a": {}, "f:c": {}})));
        assert_eq!(sum, set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}})));
    }

    #[test]
    fn a_written_set_is_touched_where_it_has_a_member_of_another() {
        let written = json!({"f:labels": {".": {}, "f:a": {}}, "f:spec": {"f:b": {}}});
        for (value, expected) in [
            (json!({"f:labels": {}}), true),
            (json!({"f:labels": {"f:a": {}}}), true),
            (json!({"f:labels": {"f:b": {}}}), false),
            (json!({"f:spec": {}}), false),
            (json!({"f:spec": {"f:b": {"f:c": {}}}}), false),
        ] {
            assert_eq!(set(value.clone()).touches(&written), expected, "{value}");
            assert_eq!(
                !set(value.clone()).intersection(&set(written.clone())).is_empty(),
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn paths_are_shown_as_kubectl_prints_them() {
        let all =
            set(json!({"f:spec": {"f:replicas": {}, "f:containers": {"k:{\"name\":\"a\"}": {"f:image": {}}},
            "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {}}, "f:set": {"v:\"x\"": {}}}}));
        assert_eq!(
            all.paths(),
            [
                ".spec.containers[name=\"a\"].image",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.replicas",
                ".spec.set[=\"x\"]"
            ]
        );
    }
}
