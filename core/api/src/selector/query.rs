//! The query form of label selectors, `a=b,c!=d,e in (f,g),h notin (i),j,!k`: read token by token, so that a fault is
//! told in upstream's words.

use std::collections::BTreeSet;

use super::{Operator, Requirement};
use crate::names;

const OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

/// Reads a query. The empty text has no requirement.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, String> {
    let mut tokens = Tokens { rest: text };
    let mut found = Vec::new();
    loop {
        match tokens.next_of_values() {
            Token::Word(_) | Token::Sign("!") => {
                let it =
                    requirement(&mut tokens).map_err(|why| format!("unable to parse requirement: {why}"))?;
                found.push(it);
                match tokens.take() {
                    Token::End => return Ok(found),
                    Token::Sign(",") => match tokens.next_of_values() {
                        Token::Word(_) | Token::Sign("!") => {}
                        other => return Err(format!("found '{other}', expected: identifier after ','")),
                    },
                    other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
                }
            }
            Token::End => return Ok(found),
            other @ Token::Sign(_) => {
                return Err(format!("found '{other}', expected: !, identifier, or 'end of string'"));
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Sign(&'a str),
    End,
}

impl std::fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Token::Word(text) | Token::Sign(text) => f.write_str(text),
            Token::End => Ok(()),
        }
    }
}

const SIGNS: [&str; 8] = ["==", "!=", "=", "!", "(", ")", ",", ">"];

struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    /// Takes the next token off the text.
    fn take(&mut self) -> Token<'a> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let sign = SIGNS.iter().chain(&["<"]).find(|sign| self.rest.starts_with(**sign));
        let length = sign.map_or_else(
            || self.rest.find(|it| " \t\r\n=!(),<>".contains(it)).unwrap_or(self.rest.len()),
            |sign| sign.len(),
        );
        let (text, rest) = self.rest.split_at(length);
        self.rest = rest;
        match (sign, text) {
            (Some(_), _) => Token::Sign(text),
            (None, "") => Token::End,
            (None, _) => Token::Word(text),
        }
    }

    /// The next token, which stays; where a value may stand, `in` and `notin` are values.
    fn next_of_values(&self) -> Token<'a> {
        Tokens { rest: self.rest }.take()
    }
}

fn requirement(tokens: &mut Tokens<'_>) -> Result<Requirement, String> {
    let mut token = tokens.take();
    let is_negated = token == Token::Sign("!");
    if is_negated {
        token = tokens.take();
    }
    let Token::Word(key) = token else { return Err(format!("found '{token}', expected: identifier")) };
    if let Some(fault) = key_fault(key) {
        return Err(format!("<nil>: {fault}"));
    }
    if is_negated {
        return make(key, Operator::DoesNotExist, BTreeSet::new());
    }
    if matches!(tokens.next_of_values(), Token::End | Token::Sign(",")) {
        return make(key, Operator::Exists, BTreeSet::new());
    }
    let operator = match tokens.take() {
        Token::Word("in") => Operator::In,
        Token::Word("notin") => Operator::NotIn,
        Token::Sign("=" | "==") => return make(key, Operator::In, exact(tokens)?),
        Token::Sign("!=") => return make(key, Operator::NotIn, exact(tokens)?),
        Token::Sign(">") => return make(key, Operator::GreaterThan, exact(tokens)?),
        Token::Sign("<") => return make(key, Operator::LessThan, exact(tokens)?),
        other => return Err(format!("found '{other}', expected: {OPERATORS}")),
    };
    make(key, operator, set(tokens)?)
}

/// One value, which may be empty.
fn exact(tokens: &mut Tokens<'_>) -> Result<BTreeSet<String>, String> {
    if matches!(tokens.next_of_values(), Token::End | Token::Sign(",")) {
        return Ok(BTreeSet::from([String::new()]));
    }
    match tokens.take() {
        Token::Word(value) => Ok(BTreeSet::from([value.to_owned()])),
        other => Err(format!("found '{other}', expected: identifier")),
    }
}

/// Values in parentheses.
fn set(tokens: &mut Tokens<'_>) -> Result<BTreeSet<String>, String> {
    match tokens.take() {
        Token::Sign("(") => {}
        other => return Err(format!("found '{other}' expected: '('")),
    }
    let first = tokens.next_of_values();
    match first {
        Token::Sign(")") => {
            tokens.take();
            return Ok(BTreeSet::new());
        }
        Token::Word(_) | Token::Sign(",") => {}
        other => return Err(format!("found '{other}', expected: ',', ')' or identifier")),
    }
    let mut values = BTreeSet::new();
    loop {
        match tokens.take() {
            Token::Word(value) => {
                values.insert(value.to_owned());
                match tokens.next_of_values() {
                    Token::Sign(",") => {}
                    Token::Sign(")") => break,
                    other => return Err(format!("found '{other}', expected: ',' or ')'")),
                }
            }
            // Nothing between commas is an empty value.
            Token::Sign(",") => {
                if values.is_empty() {
                    values.insert(String::new());
                }
                match tokens.next_of_values() {
                    Token::Sign(")") => {
                        values.insert(String::new());
                        break;
                    }
                    Token::Sign(",") => {
                        tokens.take();
                        values.insert(String::new());
                    }
                    Token::Word(_) | Token::Sign(_) | Token::End => {}
                }
            }
            other => return Err(format!("found '{other}', expected: ',', or identifier")),
        }
    }
    match tokens.take() {
        Token::Sign(")") => Ok(values),
        _ => Err(format!("found '{first}', expected: ')'")),
    }
}

fn key_fault(key: &str) -> Option<String> {
    let faults = names::qualified_name(key);
    (!faults.is_empty()).then(|| format!("Invalid value: {key:?}: {}", faults.join("; ")))
}

fn make(key: &str, operator: Operator, values: BTreeSet<String>) -> Result<Requirement, String> {
    let values: Vec<String> = values.into_iter().collect();
    let mut faults = Vec::new();
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            faults.push(
                "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".into(),
            );
        }
        Operator::GreaterThan | Operator::LessThan => {
            for value in values.iter().filter(|value| value.parse::<i64>().is_err()) {
                let text = "for 'Gt', 'Lt' operators, the value must be an integer";
                faults.push(format!("values[0]: Invalid value: {value:?}: {text}"));
            }
        }
        Operator::In | Operator::NotIn | Operator::Exists | Operator::DoesNotExist => {}
    }
    for (at, value) in values.iter().enumerate() {
        let told = names::label_value(value);
        if !told.is_empty() {
            faults.push(format!("values[{at}][{key}]: Invalid value: {value:?}: {}", told.join("; ")));
        }
    }
    match faults.as_slice() {
        [] => Ok(Requirement { key: key.to_owned(), operator, values }),
        [only] => Err(only.clone()),
        all => Err(format!("[{}]", all.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_in_upstreams_words() {
        for (text, expected) in [
            ("a=b=c", "found '=', expected: ',' or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a,", "found '', expected: identifier after ','"),
            ("a,,b", "found ',', expected: identifier after ','"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a in (b c)", "unable to parse requirement: found 'c', expected: ',' or ')'"),
            (
                "a in ()",
                "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
            ),
            (
                "a>b",
                "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
        let told = parse("a_=b").unwrap_err();
        assert!(
            told.starts_with("unable to parse requirement: <nil>: Invalid value: \"a_\": name part"),
            "{told}"
        );
        let told = parse("a=b@").unwrap_err();
        assert!(
            told.starts_with("unable to parse requirement: values[0][a]: Invalid value: \"b@\""),
            "{told}"
        );
    }

    #[test]
    fn nothing_is_a_value_too() {
        let values = |text: &str| parse(text).unwrap().remove(0).values;
        assert_eq!(values("a="), [""]);
        assert_eq!(values("a!= ,b"), [""]);
        assert_eq!(values("a in (,x)"), ["", "x"]);
        assert_eq!(values("a in (x,)"), ["", "x"]);
        assert_eq!(values("in in (in, notin)"), ["in", "notin"]);
        assert!(parse(" ").unwrap().is_empty());
    }
}
