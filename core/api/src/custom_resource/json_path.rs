//! The paths of printer columns: fields, indexes, wildcards and filters of kubectl's JSONPath.

use serde_json::Value;

/// A path into a document.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// From the end where negative.
    Index(i64),
    All,
    Filter(Filter),
}

#[derive(Clone, Debug, PartialEq)]
struct Filter {
    path: JsonPath,
    /// `None` asks only whether the path is there.
    test: Option<(Test, Value)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Why a text is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonPathError {
    /// It does not begin with a dot or a bracket.
    #[error("a path begins with a dot: {0:?}")]
    Start(String),
    /// A bracket is not closed.
    #[error("a bracket is not closed in {0:?}")]
    Unclosed(String),
    /// Something else is in brackets.
    #[error("unknown expression in brackets: {0:?}")]
    Bracket(String),
    /// Recursive descent.
    #[error("recursive descent is not supported: {0:?}")]
    Recursive(String),
}

impl JsonPath {
    /// Reads a path such as `.status.conditions[?(@.type=="Ready")].status`.
    pub fn parse(text: &str) -> Result<Self, JsonPathError> {
        let inner = text.trim();
        let inner = inner.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(inner);
        let mut rest = inner.strip_prefix('$').unwrap_or(inner);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(tail) = rest.strip_prefix('[') {
                let end = closing(tail).ok_or_else(|| JsonPathError::Unclosed(text.to_owned()))?;
                steps.push(bracket(tail[..end].trim())?);
                rest = &tail[end + 1..];
            } else if let Some(tail) = rest.strip_prefix('.') {
                if tail.starts_with('.') {
                    return Err(JsonPathError::Recursive(text.to_owned()));
                }
                let (name, tail) = field(tail);
                match name.as_str() {
                    "" => {}
                    "*" => steps.push(Step::All),
                    _ => steps.push(Step::Field(name)),
                }
                rest = tail;
            } else {
                return Err(JsonPathError::Start(text.to_owned()));
            }
        }
        Ok(Self(steps))
    }

    /// The values that the path leads to, in order.
    pub fn find<'a>(&self, document: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![document];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.walk(value)).collect();
        }
        found
    }
}

/// Where the bracket ends, outside of quotes and inner brackets.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut depth = 0;
    for (at, letter) in text.char_indices() {
        match (letter, quote) {
            (_, Some(open)) if letter == open => quote = None,
            (_, Some(_)) => {}
            ('\'' | '"', None) => quote = Some(letter),
            ('[', None) => depth += 1,
            (']', None) if depth == 0 => return Some(at),
            (']', None) => depth -= 1,
            _ => {}
        }
    }
    None
}

/// A field's name, in which a backslash takes the meaning from what follows.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '.' | '[' => return (name, &text[at..]),
            '\\' => name.extend(letters.next().map(|(_, letter)| letter)),
            _ => name.push(letter),
        }
    }
    (name, "")
}

fn quoted(text: &str) -> Option<&str> {
    ['\'', '"'].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
}

fn bracket(text: &str) -> Result<Step, JsonPathError> {
    let unknown = || JsonPathError::Bracket(text.to_owned());
    if text == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = quoted(text) {
        return Ok(Step::Field(name.to_owned()));
    }
    if let Ok(index) = text.parse() {
        return Ok(Step::Index(index));
    }
    let inner = text.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')).ok_or_else(unknown)?.trim();
    const TESTS: [(&str, Test); 6] = [
        ("==", Test::Equal),
        ("!=", Test::NotEqual),
        ("<=", Test::LessOrEqual),
        (">=", Test::GreaterOrEqual),
        ("<", Test::Less),
        (">", Test::Greater),
    ];
    let found = TESTS.iter().find_map(|(sign, test)| Some((inner.split_once(sign)?, *test)));
    let (left, test) = match found {
        Some(((left, right), test)) => {
            let right = right.trim();
            let value = match quoted(right) {
                Some(word) => Value::from(word),
                None => serde_json::from_str(right).map_err(|_| unknown())?,
            };
            (left.trim(), Some((test, value)))
        }
        None => (inner, None),
    };
    let path = JsonPath::parse(left.strip_prefix('@').ok_or_else(unknown)?)?;
    Ok(Step::Filter(Filter { path, test }))
}

impl Step {
    fn walk<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Self::Field(name), Value::Object(fields)) => fields.get(name).into_iter().collect(),
            (Self::Index(index), Value::Array(items)) => {
                let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
                let place = if *index < 0 { length + index } else { *index };
                usize::try_from(place).ok().and_then(|place| items.get(place)).into_iter().collect()
            }
            (Self::All, Value::Array(items)) => items.iter().collect(),
            (Self::All, Value::Object(fields)) => fields.values().collect(),
            (Self::Filter(filter), Value::Array(items)) => {
                items.iter().filter(|it| filter.holds(it)).collect()
            }
            (Self::Field(_) | Self::Index(_) | Self::All | Self::Filter(_), _) => Vec::new(),
        }
    }
}

impl Filter {
    fn holds(&self, item: &Value) -> bool {
        let Some(left) = self.path.find(item).into_iter().next() else { return false };
        let Some((test, right)) = &self.test else { return true };
        let order = match (left, right) {
            (Value::String(left), Value::String(right)) => left.partial_cmp(right),
            (Value::Bool(left), Value::Bool(right)) => left.partial_cmp(right),
            (left, right) => {
                left.as_f64().zip(right.as_f64()).and_then(|(left, right)| left.partial_cmp(&right))
            }
        };
        match test {
            Test::Equal => order.is_some_and(std::cmp::Ordering::is_eq),
            Test::NotEqual => order.is_none_or(std::cmp::Ordering::is_ne),
            Test::Less => order.is_some_and(std::cmp::Ordering::is_lt),
            Test::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
            Test::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
            Test::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_through_fields_indexes_and_filters() {
        let document = json!({"metadata": {"annotations": {"a.b/c": "x"}}, "list": [{"n": 1}, {"n": 2}]});
        let find = |text: &str| {
            let path = JsonPath::parse(text).unwrap();
            path.find(&document).into_iter().cloned().collect::<Vec<_>>()
        };
        assert_eq!(find(r".metadata.annotations.a\.b/c"), [json!("x")]);
        assert_eq!(find(".metadata.annotations['a.b/c']"), [json!("x")]);
        assert_eq!(find(".list[*].n"), [json!(1), json!(2)]);
        assert_eq!(find(".list[-1].n"), [json!(2)]);
        assert_eq!(find(".list[?(@.n>1)].n"), [json!(2)]);
        assert_eq!(find(".list[?(@.n)].n").len(), 2);
        assert!(JsonPath::parse("spec.x").is_err() && JsonPath::parse(".a[").is_err());
    }
}
