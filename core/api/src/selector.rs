//! Label selectors and field selectors.

use serde_json::{Map, Value};

mod labels;
mod query;

pub use labels::{LabelSet, Labels};

/// Why a selector cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SelectorError {
    /// The text is no label selector.
    #[error("{0}")]
    Label(String),
    /// The text is no field selector.
    #[error("invalid selector: '{selector}'; can't understand '{part}'")]
    Field {
        /// The whole text.
        selector: String,
        /// The part at fault.
        part: String,
    },
    /// A LabelSelector object has an operator that does not exist.
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
}

/// A selector in the form of a query: a `LabelSelector` object, or a map of labels. Empty where it selects by nothing.
pub fn query(selector: &Value) -> String {
    let labels = selector.get("matchLabels").unwrap_or(selector);
    let labels = labels.as_object().into_iter().flatten();
    let mut parts: Vec<String> =
        labels.filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
    for term in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let key = term["key"].as_str().unwrap_or_default();
        let values: Vec<&str> =
            term["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        parts.push(match term["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            Some(_) | None => key.to_owned(),
        });
    }
    parts.join(",")
}

/// How a key's value is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let known = |value: &str| self.values.iter().any(|it| it == value);
        let number = |text: &str| text.parse::<i64>().ok();
        let bound = self.values.first().and_then(|text| number(text));
        match self.operator {
            Operator::In => value.is_some_and(known),
            Operator::NotIn => !value.is_some_and(known),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => {
                value.and_then(number).zip(bound).is_some_and(|(have, least)| have > least)
            }
            Operator::LessThan => value.and_then(number).zip(bound).is_some_and(|(have, most)| have < most),
        }
    }
}

/// A label selector: all of its requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Reads the query syntax: `a=b,c!=d,e in (f,g),h notin (i),j,!k`. The empty text matches all.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let requirements = query::parse(text).map_err(SelectorError::Label)?;
        Ok(Self { requirements, nothing: false })
    }

    /// Reads a `LabelSelector` object with `matchLabels` and `matchExpressions`. A missing one (null)
    /// matches nothing, an empty one all.
    pub fn from_value(value: &Value) -> Result<Self, SelectorError> {
        let Some(fields) = value.as_object() else {
            return Ok(Self { requirements: Vec::new(), nothing: true });
        };
        let mut requirements =
            Self::from_map(fields.get("matchLabels").and_then(Value::as_object)).requirements;
        for expression in fields.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or("");
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError::Operator(other.to_owned())),
            };
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            requirements.push(Requirement {
                key: text("key").to_owned(),
                operator,
                values: values.filter_map(Value::as_str).map(str::to_owned).collect(),
            });
        }
        Ok(Self { requirements, nothing: false })
    }

    /// Makes a selector of equalities, such as a Service's.
    pub fn from_map(labels: Option<&Map<String, Value>>) -> Self {
        let requirements = labels
            .into_iter()
            .flatten()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: vec![value.as_str().unwrap_or("").to_owned()],
            })
            .collect();
        Self { requirements, nothing: false }
    }

    /// The one value that a label must have, if the selector says so.
    pub fn exact(&self, key: &str) -> Option<&str> {
        let says = |it: &&Requirement| it.key == key && it.operator == Operator::In && it.values.len() == 1;
        let found = self.requirements.iter().filter(|_| !self.nothing).find(says)?;
        found.values.first().map(String::as_str)
    }

    /// Whether it has no requirement.
    pub fn matches_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether the labels fulfil all requirements.
    pub fn matches(&self, labels: Option<&impl LabelSet>) -> bool {
        !self.nothing
            && self
                .requirements
                .iter()
                .all(|requirement| requirement.matches(labels.and_then(|it| it.label(&requirement.key))))
    }
}

/// One comparison of a field selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    /// Path such as `spec.nodeName`.
    pub field: String,
    /// Whether the values must be equal, or must differ.
    pub equal: bool,
    /// The value.
    pub value: String,
}

/// A field selector: `spec.nodeName=a,status.phase!=Failed`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// All must hold.
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Reads the query syntax. `\,` `\=` `\\` stand for the character itself.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            // The first sign counts, whatever stands in the value.
            let signs = [("!=", false), ("==", true), ("=", true)];
            let found = part.char_indices().find_map(|(at, _)| {
                let (field, rest) = part.split_at(at);
                signs.iter().find_map(|(sign, equal)| Some((field, *equal, rest.strip_prefix(sign)?)))
            });
            let Some((field, equal, value)) = found else {
                return Err(SelectorError::Field { selector: text.to_owned(), part: part.to_owned() });
            };
            requirements.push(FieldRequirement { field: field.to_owned(), equal, value: unescape(value) });
        }
        Ok(Self { requirements })
    }

    /// The value that a field must equal, if the selector says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|it| it.equal && it.field == field).map(|it| it.value.as_str())
    }

    /// Whether all hold; `lookup` gives a field's value as text, empty when unset.
    pub fn matches<'a>(&self, lookup: impl Fn(&str) -> &'a str) -> bool {
        self.requirements.iter().all(|it| (lookup(&it.field) == it.value) == it.equal)
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        if escaped {
            escaped = false;
        } else if byte == b'\\' {
            escaped = true;
        } else if byte == b',' {
            parts.push(&text[start..at]);
            start = at + 1;
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        out.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(value: &Value) -> Option<&Map<String, Value>> {
        value.as_object()
    }

    #[test]
    fn every_operator_of_the_query_syntax_works() {
        let have = json!({"app": "web", "tier": "front", "n": "5"});
        for text in [
            "app=web",
            "app==web,tier",
            "app in (web, db)",
            "tier notin (back)",
            "!gone",
            "gone!=x",
            "n>4",
            "",
        ] {
            assert!(LabelSelector::parse(text).unwrap().matches(labels(&have)), "{text}");
        }
        for text in ["app=db", "!app", "app notin (web)", "gone", "n<4"] {
            assert!(!LabelSelector::parse(text).unwrap().matches(labels(&have)), "{text}");
        }
        assert!(LabelSelector::parse("app in (web").is_err());
        assert!(LabelSelector::parse("app web").is_err());
    }

    #[test]
    fn a_missing_selector_object_matches_nothing_and_an_empty_one_all() {
        let have = json!({"app": "web"});
        assert!(!LabelSelector::from_value(&Value::Null).unwrap().matches(labels(&have)));
        assert!(LabelSelector::from_value(&json!({})).unwrap().matches(labels(&have)));
    }

    #[test]
    fn a_field_selector_compares_texts() {
        let selector = FieldSelector::parse("spec.nodeName=a,status.phase!=Failed").unwrap();
        assert_eq!(selector.exact("spec.nodeName"), Some("a"));
        assert!(selector.matches(|field| if field == "spec.nodeName" { "a" } else { "Running" }));
        assert!(FieldSelector::parse("nonsense").is_err());
    }
}
