//! Constraints of a CustomResourceDefinition's schema beyond types: limits, patterns and alternatives.

use std::sync::OnceLock;

use regex::Regex;

use super::Schema;

/// Limits, a pattern and alternatives; all that are set must hold.
#[derive(Clone, Debug, Default)]
pub struct Constraints {
    /// The least number.
    pub minimum: Option<f64>,
    /// The greatest number.
    pub maximum: Option<f64>,
    /// `minimum` itself is not allowed.
    pub exclusive_minimum: bool,
    /// `maximum` itself is not allowed.
    pub exclusive_maximum: bool,
    /// A number of which the value is a multiple.
    pub multiple_of: Option<f64>,
    /// The least length of a text, in characters.
    pub min_length: Option<usize>,
    /// The greatest length of a text, in characters.
    pub max_length: Option<usize>,
    /// The least number of items.
    pub min_items: Option<usize>,
    /// The greatest number of items.
    pub max_items: Option<usize>,
    /// The least number of fields.
    pub min_properties: Option<usize>,
    /// The greatest number of fields.
    pub max_properties: Option<usize>,
    /// What a text matches somewhere.
    pub pattern: Option<Pattern>,
    /// All of these hold.
    pub all_of: Vec<Schema>,
    /// At least one of these holds.
    pub any_of: Vec<Schema>,
    /// Exactly one of these holds.
    pub one_of: Vec<Schema>,
    /// This does not hold.
    pub not: Option<Box<Schema>>,
}

impl Constraints {
    /// Whether nothing is constrained.
    pub fn is_empty(&self) -> bool {
        let numbers = [self.minimum, self.maximum, self.multiple_of].iter().all(Option::is_none);
        let sizes = [
            self.min_length,
            self.max_length,
            self.min_items,
            self.max_items,
            self.min_properties,
            self.max_properties,
        ];
        let lists = [&self.all_of, &self.any_of, &self.one_of];
        numbers
            && sizes.iter().all(Option::is_none)
            && self.pattern.is_none()
            && lists.iter().all(|list| list.is_empty())
            && self.not.is_none()
    }
}

/// Why a text is no regular expression.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(regex::Error);

/// A regular expression, in the syntax of RE2, that is compiled when it is first used.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    /// A pattern that is not looked at yet.
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), compiled: OnceLock::new() }
    }

    /// Whether the text is a regular expression.
    pub fn check(text: &str) -> Result<(), PatternError> {
        Regex::new(&translate(text)).map(drop).map_err(PatternError)
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the expression is found in a text. One that cannot be compiled matches nothing: it is refused where
    /// the definition is written.
    pub fn is_match(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| Regex::new(&translate(&self.text)).ok());
        compiled.as_ref().is_some_and(|expression| expression.is_match(text))
    }
}

/// Inside of a class RE2 takes `[`, `&&` and `~~` literally.
fn translate(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut letters = text.chars().peekable();
    let mut class_at: Option<usize> = None;
    let mut place = 0;
    while let Some(letter) = letters.next() {
        match (letter, class_at) {
            ('\\', _) => {
                out.push(letter);
                out.extend(letters.next());
            }
            ('[', None) => {
                class_at = Some(place + if letters.peek() == Some(&'^') { 2 } else { 1 });
                out.push(letter);
            }
            // A bracket that comes first is one of the letters.
            (']', Some(start)) if place > start => {
                class_at = None;
                out.push(letter);
            }
            ('[', Some(_)) if letters.peek() == Some(&':') => {
                out.push(letter);
                for inner in letters.by_ref() {
                    out.push(inner);
                    if inner == ']' {
                        break;
                    }
                }
            }
            ('[' | '&' | '~', Some(_)) => {
                out.push('\\');
                out.push(letter);
            }
            _ => out.push(letter),
        }
        place += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_inside_of_a_class_are_letters() {
        assert!(Pattern::check("^[^[]+$").is_ok());
        assert!(Pattern::new("^[^[]+$").is_match("abc"));
        assert!(!Pattern::new("^[^[]+$").is_match("a[c"));
        assert!(Pattern::new("^[]a]+$").is_match("]a"));
        assert!(Pattern::new("^[[:alpha:]]+$").is_match("abc"));
        assert!(Pattern::new(r"^([a-z]+(\.[a-z]+)*)?$").is_match("a.b"));
        assert!(Pattern::check("a(").is_err());
    }
}
