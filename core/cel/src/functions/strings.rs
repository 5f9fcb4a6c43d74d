//! Texts. Places in a text are counted in characters.

use super::{Arguments, Outcome, regex};
use crate::error::EvalError;
use crate::value::{Text, Value};

fn pair<'v>(args: &'v [Value<'_>]) -> Result<(&'v str, &'v str), EvalError> {
    match args {
        [Value::String(first), Value::String(second), ..] => Ok((first.as_str(), second.as_str())),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn one<'v>(args: &'v [Value<'_>]) -> Result<&'v str, EvalError> {
    args.first().and_then(Value::as_str).ok_or(EvalError::NoSuchOverload)
}

pub(super) fn contains<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    pair(args).map(|(text, part)| Value::Bool(text.contains(part)))
}

pub(super) fn starts_with<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    pair(args).map(|(text, part)| Value::Bool(text.starts_with(part)))
}

pub(super) fn ends_with<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    pair(args).map(|(text, part)| Value::Bool(text.ends_with(part)))
}

pub(super) fn matches<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let (text, pattern) = pair(args)?;
    Ok(Value::Bool(regex(pattern)?.is_match(text)))
}

pub(super) fn find<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let (text, pattern) = pair(args)?;
    let regex = regex(pattern)?;
    Ok(Value::text(regex.find(text).map_or("", |found| found.as_str())))
}

pub(super) fn find_all<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let (text, pattern) = pair(args)?;
    let limit = match args.get(2) {
        None => usize::MAX,
        Some(Value::Int(limit)) => usize::try_from(*limit).unwrap_or(usize::MAX),
        Some(_) => return Err(EvalError::NoSuchOverload),
    };
    let regex = regex(pattern)?;
    Ok(Value::list(regex.find_iter(text).take(limit).map(|found| Value::text(found.as_str())).collect()))
}

fn out_of_range(at: i64) -> EvalError {
    EvalError::Failed(format!("index out of range: {at}"))
}

fn number(value: Option<&Value<'_>>) -> Result<Option<i64>, EvalError> {
    match value {
        None => Ok(None),
        Some(Value::Int(it)) => Ok(Some(*it)),
        Some(_) => Err(EvalError::NoSuchOverload),
    }
}

/// The byte at which the character of an index begins.
fn byte(text: &str, at: i64) -> Result<usize, EvalError> {
    let index = usize::try_from(at).map_err(|_| out_of_range(at))?;
    let mut places = text.char_indices().map(|(byte, _)| byte).chain([text.len()]);
    places.nth(index).ok_or_else(|| out_of_range(at))
}

pub(super) fn char_at<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let text = one(args)?;
    let at = byte(text, number(args.get(1))?.ok_or(EvalError::NoSuchOverload)?)?;
    Ok(Value::text(text[at..].chars().next().map(String::from).unwrap_or_default()))
}

fn place<'a>(text: &str, byte: Option<usize>) -> Outcome<'a> {
    let place = byte.map(|byte| text[..byte].chars().count());
    Ok(Value::Int(place.and_then(|it| i64::try_from(it).ok()).unwrap_or(-1)))
}

pub(super) fn index_of<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let (text, part) = pair(args)?;
    let from = number(args.get(2))?.map_or(Ok(0), |at| byte(text, at))?;
    place(text, text[from..].find(part).map(|at| at + from))
}

pub(super) fn last_index_of<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let (text, part) = pair(args)?;
    let found = match number(args.get(2))? {
        None => text.rfind(part),
        Some(at) => {
            let last = byte(text, at)?;
            let all = text.char_indices().map(|(byte, _)| byte).chain([text.len()]);
            all.take_while(|byte| *byte <= last).filter(|byte| text[*byte..].starts_with(part)).last()
        }
    };
    place(text, found)
}

pub(super) fn lower<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    one(args).map(|text| Value::text(text.to_ascii_lowercase()))
}

pub(super) fn upper<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    one(args).map(|text| Value::text(text.to_ascii_uppercase()))
}

pub(super) fn trim<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    one(args).map(|text| Value::text(text.trim()))
}

pub(super) fn reverse<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    one(args).map(|text| Value::text(text.chars().rev().collect::<String>()))
}

pub(super) fn replace<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let (text, old) = pair(args)?;
    let new = args.get(2).and_then(Value::as_str).ok_or(EvalError::NoSuchOverload)?;
    let replaced = match number(args.get(3))?.map(usize::try_from) {
        Some(Ok(times)) => text.replacen(old, new, times),
        // A negative number of times means all.
        Some(Err(_)) | None => text.replace(old, new),
    };
    Ok(Value::text(replaced))
}

pub(super) fn split<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let (text, separator) = pair(args)?;
    let limit = match number(args.get(2))? {
        Some(0) => return Ok(Value::list(Vec::new())),
        Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    let parts: Vec<Value<'a>> = if separator.is_empty() {
        let mut rest = text;
        let mut parts = Vec::new();
        while let Some(letter) = rest.chars().next() {
            let end = if parts.len() + 1 >= limit { rest.len() } else { letter.len_utf8() };
            parts.push(Value::text(&rest[..end]));
            rest = &rest[end..];
        }
        parts
    } else {
        text.splitn(limit, separator).map(Value::text).collect()
    };
    Ok(Value::list(parts))
}

pub(super) fn join<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let Some(Value::List(list)) = args.first() else { return Err(EvalError::NoSuchOverload) };
    let separator = match args.get(1) {
        None => "",
        Some(value) => value.as_str().ok_or(EvalError::NoSuchOverload)?,
    };
    let mut joined = String::new();
    for (at, item) in list.iter().enumerate() {
        if at > 0 {
            joined.push_str(separator);
        }
        joined.push_str(item.as_str().ok_or(EvalError::NoSuchOverload)?);
    }
    Ok(Value::text(joined))
}

pub(super) fn substring<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let text = one(args)?;
    let first = number(args.get(1))?.ok_or(EvalError::NoSuchOverload)?;
    let start = byte(text, first)?;
    let end = match number(args.get(2))? {
        Some(last) if last < first => {
            let text = format!("invalid substring range. start: {first}, end: {last}");
            return Err(EvalError::Failed(text));
        }
        Some(last) => byte(text, last)?,
        None => text.len(),
    };
    Ok(match &args[0] {
        Value::String(Text::Borrowed(whole)) => Value::String(Text::Borrowed(&whole[start..end])),
        _ => Value::text(&text[start..end]),
    })
}

pub(super) fn quote<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let mut quoted = String::from("\"");
    for letter in one(args)?.chars() {
        match letter {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    Ok(Value::text(quoted))
}

/// Escapes a field's name for the path of a JSON patch.
pub(super) fn escape_key<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    one(args).map(|text| Value::text(text.replace('~', "~0").replace('/', "~1")))
}
