//! The functions of expressions: their names, what they take and give, what they cost, and what they do.

mod authorizer;
mod conversions;
mod formats;
mod lists;
mod math;
mod network;
mod operators;
mod optionals;
mod printf;
mod quantities;
mod signature;
mod strings;
mod table;
mod time;
mod versions;

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use regex::Regex;

pub(crate) use authorizer::field as authorizer_field;
pub use formats::Format;

use crate::cost::Cost;
use crate::error::EvalError;
use crate::types::Type;
use crate::value::Value;

pub(crate) type Arguments<'a, 'v> = &'v [Value<'a>];
pub(crate) type Outcome<'a> = Result<Value<'a>, EvalError>;
type Run = for<'a, 'v> fn(Arguments<'a, 'v>) -> Outcome<'a>;

/// A function.
#[derive(Debug)]
pub(crate) struct Function {
    /// Whether it is called on a value: `value.name(...)`. The value is then the first argument.
    pub(crate) is_member: bool,
    pub(crate) overloads: Vec<Overload>,
    pub(crate) run: Run,
    pub(crate) cost: Cost,
}

/// What a function takes and gives.
#[derive(Debug)]
pub(crate) struct Overload {
    pub(crate) params: Vec<Type>,
    pub(crate) result: Type,
    /// How many type parameters it has.
    pub(crate) variables: usize,
}

/// A line of the table: the name, with a dot in front where it is called on a value; what it takes and gives; what it
/// does; what it costs.
pub(crate) type Line = (&'static str, &'static [&'static str], Run, Cost);

/// The functions of a name: that which is called on a value, and the other.
type Named = HashMap<&'static str, Vec<Function>>;

static FUNCTIONS: LazyLock<Named> = LazyLock::new(|| {
    let mut named = Named::new();
    for (name, overloads, run, cost) in table::TABLES.iter().flat_map(|table| table.iter()) {
        let (name, is_member) = match name.strip_prefix('.') {
            Some(name) => (name, true),
            None => (*name, false),
        };
        let overloads = overloads.iter().map(|text| signature::read(text)).collect();
        named.entry(name).or_default().push(Function { is_member, overloads, run: *run, cost: *cost });
    }
    named
});

/// The function of a name.
pub(crate) fn find(name: &str, is_member: bool) -> Option<&'static Function> {
    FUNCTIONS.get(name)?.iter().find(|function| function.is_member == is_member)
}

/// Memory that a regular expression may take.
const REGEX_BYTES: usize = 1 << 20;
/// Regular expressions that are kept.
const REGEXES: usize = 256;

static KEPT: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);

/// A regular expression, which is kept for the next time.
pub(crate) fn regex(pattern: &str) -> Result<Regex, EvalError> {
    let mut kept = KEPT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(found) = kept.get(pattern) {
        return Ok(found.clone());
    }
    let regex = regex::RegexBuilder::new(pattern)
        .size_limit(REGEX_BYTES)
        .nest_limit(100)
        .build()
        .map_err(|error| EvalError::Failed(format!("error parsing regexp: {error}")))?;
    if kept.len() >= REGEXES {
        kept.clear();
    }
    kept.insert(pattern.to_owned(), regex.clone());
    Ok(regex)
}
