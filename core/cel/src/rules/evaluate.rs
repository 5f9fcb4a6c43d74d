//! Rules at work on an object.

use keelson_api::schema::ListType;
use keelson_api::validation::{ErrorKind, FieldError};
use serde_json::Value as Json;

use super::{Level, Rule};
use crate::error::EvalError;
use crate::eval::Budget;
use crate::value::Value;

/// The longest message that an expression may give, in bytes.
const LONGEST_MESSAGE: usize = 5 * 1024;

pub(super) struct Run {
    pub(super) budget: Budget,
    pub(super) faults: Vec<FieldError>,
}

/// No further rule is evaluated.
pub(super) struct Ended;

type Walk = Result<(), Ended>;

impl Run {
    /// A level with its value and what that was before. `is_old` tells that a value around it is as it was, so that
    /// faults in it are of before too.
    pub(super) fn level(
        &mut self,
        level: &Level,
        new: &Json,
        old: Option<&Json>,
        is_old: bool,
        path: String,
    ) -> Walk {
        if new.is_null() {
            return Ok(());
        }
        let is_same = is_old || old.is_some_and(|old| old == new);
        for rule in &level.rules {
            self.rule(level, rule, new, old, is_same, &path)?;
        }
        for all_of in &level.all_of {
            self.level(all_of, new, old, is_old, path.clone())?;
        }
        match new {
            Json::Array(items) => {
                let Some(below) = &level.items else { return Ok(()) };
                let before = old.and_then(Json::as_array);
                for (at, item) in items.iter().enumerate() {
                    let counterpart = match (&level.list, before) {
                        (ListType::Map(keys), Some(before)) => {
                            before.iter().find(|other| keys.iter().all(|key| other.get(key) == item.get(key)))
                        }
                        _ => None,
                    };
                    self.level(below, item, counterpart, is_same, format!("{path}[{at}]"))?;
                }
            }
            Json::Object(fields) => {
                let before = |name: &str| old.filter(|_| level.is_correlatable)?.get(name);
                for (name, value) in fields {
                    if let Some(below) = &level.values {
                        self.level(below, value, before(name), is_same, format!("{path}[{name}]"))?;
                    }
                    if let Some(below) = level.properties.get(name) {
                        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                        self.level(below, value, before(name), is_same, path)?;
                    }
                }
            }
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
        }
        Ok(())
    }

    fn rule(
        &mut self,
        level: &Level,
        rule: &Rule,
        new: &Json,
        old: Option<&Json>,
        is_same: bool,
        path: &str,
    ) -> Walk {
        if rule.is_transition && old.is_none() && !rule.is_optional {
            return Ok(());
        }
        let Some(declaration) = level.declaration.as_deref() else { return Ok(()) };
        let before = old.filter(|old| !old.is_null()).map(|old| Value::from_json(old, declaration));
        let mut values = vec![("self", Value::from_json(new, declaration))];
        match before {
            before if rule.is_optional => values.push(("oldSelf", Value::optional(before))),
            Some(before) => values.push(("oldSelf", before)),
            None => {}
        }
        let shown = if rule.message.is_empty() { rule.text.trim() } else { rule.message.trim() };
        let mut fault = |detail: String| {
            self.faults.push(FieldError::invalid(whole(path), level.kind.as_str(), detail));
        };
        match rule.program.evaluate(&values, &self.budget) {
            Ok(value) if value.is_true() => return Ok(()),
            Ok(_) => {}
            Err(EvalError::Budget) => {
                fault("validation failed due to running out of cost budget, no further validation rules will be run".to_owned());
                return Err(Ended);
            }
            Err(error @ EvalError::CallLimit) => {
                fault(format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
                ));
                return Err(Ended);
            }
            Err(error @ EvalError::NoSuchOverload) => {
                fault(format!(
                    "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {shown}"
                ));
                return Ok(());
            }
            Err(error) => {
                fault(format!("{error} evaluating rule: {shown}"));
                return Ok(());
            }
        }
        let place = format!("{path}{}", rule.field_path);
        let place = whole(place.trim_start_matches('.'));
        let (detail, outcome) = match self.message(rule, &values) {
            Ok(Some(detail)) => (detail, Ok(())),
            Ok(None) if rule.message.is_empty() => (format!("failed rule: {shown}"), Ok(())),
            Ok(None) => (shown.to_owned(), Ok(())),
            Err(detail) => (detail, Err(Ended)),
        };
        // What was already so is not held against a change of something else.
        if rule.is_transition || !is_same {
            let kind = if outcome.is_err() { ErrorKind::Invalid } else { rule.kind };
            let fault = match kind {
                ErrorKind::Required => FieldError::required(place, detail),
                ErrorKind::Forbidden => FieldError::forbidden(place, detail),
                ErrorKind::Duplicate => FieldError::duplicate(place, level.kind.as_str()),
                _ => FieldError::invalid(place, level.kind.as_str(), detail),
            };
            self.faults.push(fault);
        }
        outcome
    }

    /// What the message's expression gives; nothing where it gives no message. The fault where it costs too much.
    fn message<'a>(&self, rule: &'a Rule, values: &[(&str, Value<'a>)]) -> Result<Option<String>, String> {
        let Some(program) = &rule.message_expression else { return Ok(None) };
        match evaluate_message(program, values, &self.budget) {
            Ok(text) => Ok(text),
            Err(EvalError::Budget) => Err("messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run".to_owned()),
            Err(EvalError::CallLimit) => Err("no further validation rules will be run due to call cost exceeds limit for messageExpression".to_owned()),
            Err(_) => Ok(None),
        }
    }
}

fn evaluate_message<'a>(
    program: &'a crate::Program,
    values: &[(&str, Value<'a>)],
    budget: &Budget,
) -> Result<Option<String>, EvalError> {
    let value = program.evaluate(values, budget)?;
    let text = value.as_str().map(str::trim).unwrap_or_default();
    let is_usable = !text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains('\n');
    Ok(is_usable.then(|| text.to_owned()))
}

/// The path of a whole object is no field's.
fn whole(path: &str) -> String {
    if path.is_empty() { "<nil>".to_owned() } else { path.to_owned() }
}
