//! An object as a row is made of it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, human};
use crate::object::Object;
use crate::selector;

/// What a row's cells are read from.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) it: &'a Object,
    pub(super) now: Timestamp,
}

impl<'a> Row<'a> {
    pub(super) fn name(&self) -> Value {
        json!(self.it.name().unwrap_or(""))
    }

    pub(super) fn age(&self) -> Value {
        json!(age(self.it.creation_timestamp(), self.now))
    }

    /// The time since a moment that may be unset.
    pub(super) fn since(&self, path: &[&str], unset: &str) -> Value {
        match self.text(path) {
            "" => json!(unset),
            then => json!(age(Some(then), self.now)),
        }
    }

    /// The time between two moments; until now where there is no second.
    pub(super) fn between(&self, from: &[&str], to: &[&str]) -> String {
        let moment = |path: &[&str]| self.text(path).parse::<Timestamp>().ok();
        match moment(from) {
            Some(start) => human(moment(to).unwrap_or(self.now).as_second() - start.as_second()),
            None => String::new(),
        }
    }

    pub(super) fn get(&self, path: &[&str]) -> Option<&'a Value> {
        self.it.get(path).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, path: &[&str]) -> &'a str {
        self.it.get_str(path).unwrap_or("")
    }

    /// A text, or `other` where there is none.
    pub(super) fn text_or(&self, path: &[&str], other: &str) -> Value {
        match self.text(path) {
            "" => json!(other),
            text => json!(text),
        }
    }

    pub(super) fn number(&self, path: &[&str]) -> i64 {
        self.get(path).and_then(Value::as_i64).unwrap_or(0)
    }

    pub(super) fn is_true(&self, path: &[&str]) -> bool {
        self.get(path) == Some(&Value::Bool(true))
    }

    pub(super) fn items(&self, path: &[&str]) -> &'a [Value] {
        self.get(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The number of entries of a list or map.
    pub(super) fn count(&self, path: &[&str]) -> usize {
        match self.get(path) {
            Some(Value::Array(items)) => items.len(),
            Some(Value::Object(fields)) => fields.len(),
            Some(_) | None => 0,
        }
    }

    /// A number or text as it is written; `other` where there is none.
    pub(super) fn written(&self, path: &[&str], other: &str) -> String {
        match self.get(path) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => other.to_owned(),
        }
    }

    pub(super) fn has_condition(&self, kind: &str, status: &str) -> bool {
        let is = |condition: &Value| condition["type"] == kind && condition["status"] == status;
        self.items(&["status", "conditions"]).iter().any(is)
    }

    /// The names and the images of the containers of a pod's spec.
    pub(super) fn containers(&self, spec: &[&str]) -> [Value; 2] {
        let path: Vec<&str> = spec.iter().copied().chain(["containers"]).collect();
        let all = |field: &str| {
            let texts = self.items(&path).iter().filter_map(|container| container.get(field)?.as_str());
            json!(texts.collect::<Vec<_>>().join(","))
        };
        [all("name"), all("image")]
    }

    /// A selector as a query; `<none>` where it selects by nothing.
    pub(super) fn selector(&self, path: &[&str]) -> Value {
        let text = self.get(path).map(selector::query).unwrap_or_default();
        json!(or_none(text))
    }
}

pub(super) fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn pairs(map: Option<&Value>) -> String {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    let pairs: Vec<String> =
        entries.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    or_none(pairs.join(","))
}

/// `a,b,c + 2 more...`.
pub(super) fn shortened(all: &[String], most: usize) -> String {
    let shown = all[..all.len().min(most)].join(",");
    if all.len() > most { format!("{shown} + {} more...", all.len() - most) } else { or_none(shown) }
}
