//! Semantic versions.

use std::sync::Arc;

use semver::Version;

use super::{Arguments, Outcome};
use crate::error::EvalError;
use crate::value::{Opaque, Value};

/// `v1.2`, `01.2.3`: what a lenient reader makes of it.
fn normal(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let mut parts: Vec<String> = numbers
        .split('.')
        .map(|part| {
            let short = part.trim_start_matches('0');
            if short.is_empty() && !part.is_empty() { "0".to_owned() } else { short.to_owned() }
        })
        .collect();
    while parts.len() < 3 {
        parts.push("0".to_owned());
    }
    format!("{}{rest}", parts.join("."))
}

fn read(args: &[Value<'_>]) -> Result<Result<Version, semver::Error>, EvalError> {
    let text = args.first().and_then(Value::as_str).ok_or(EvalError::NoSuchOverload)?;
    Ok(match args.get(1) {
        None | Some(Value::Bool(false)) => Version::parse(text),
        Some(Value::Bool(true)) => Version::parse(&normal(text)),
        Some(_) => return Err(EvalError::NoSuchOverload),
    })
}

pub(super) fn semver<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let version = read(args)?.map_err(|error| EvalError::Failed(error.to_string()))?;
    Ok(Value::Opaque(Opaque::Semver(Arc::new(version))))
}

pub(super) fn is_semver<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    Ok(Value::Bool(read(args)?.is_ok()))
}

fn part<'a>(args: Arguments<'a, '_>, part: fn(&Version) -> u64) -> Outcome<'a> {
    match args {
        [Value::Opaque(Opaque::Semver(version))] => {
            i64::try_from(part(version)).map(Value::Int).map_err(|_| EvalError::Overflow("integer"))
        }
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn major<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    part(args, |version| version.major)
}

pub(super) fn minor<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    part(args, |version| version.minor)
}

pub(super) fn patch<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    part(args, |version| version.patch)
}
