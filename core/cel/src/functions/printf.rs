//! `'%s has %d'.format([name, count])`.

use super::conversions::double_text;
use super::{Arguments, Outcome};
use crate::error::EvalError;
use crate::value::{Map, Opaque, Value, duration_text};

fn failed(text: impl Into<String>) -> EvalError {
    EvalError::Failed(text.into())
}

/// A value as `%s` writes it.
fn text(value: &Value<'_>) -> Result<String, EvalError> {
    Ok(match value {
        Value::Null => "null".to_owned(),
        Value::Bool(it) => it.to_string(),
        Value::Int(it) => it.to_string(),
        Value::Uint(it) => it.to_string(),
        Value::Double(it) => double_text(*it),
        Value::String(it) => it.as_str().to_owned(),
        Value::Bytes(it) => String::from_utf8_lossy(it).into_owned(),
        Value::Timestamp(it) => it.to_string(),
        Value::Duration(it) => duration_text(*it),
        Value::Type(it) => it.to_string(),
        Value::List(list) => {
            let items = list.iter().map(|item| text(&item)).collect::<Result<Vec<String>, EvalError>>()?;
            format!("[{}]", items.join(", "))
        }
        Value::Map(map @ (Map::Json(..) | Map::Owned(_))) => {
            let entries = map.entries()?.into_iter();
            let entries = entries.map(|(key, value)| Ok(format!("{key}: {}", text(&value)?)));
            let mut entries = entries.collect::<Result<Vec<String>, EvalError>>()?;
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Opaque(Opaque::Ip(it)) => it.to_string(),
        Value::Map(_) | Value::Optional(_) | Value::Opaque(_) => {
            let text = format!(
                "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {}",
                value.type_of()
            );
            return Err(failed(text));
        }
    })
}

fn based(value: &Value<'_>, letter: char) -> Result<String, EvalError> {
    let (negative, size) = match value {
        Value::Int(it) => (*it < 0, it.unsigned_abs()),
        Value::Uint(it) => (false, *it),
        Value::Bool(it) if letter == 'b' => (false, u64::from(*it)),
        Value::String(it) if matches!(letter, 'x' | 'X') => return Ok(hex(it.as_str().as_bytes(), letter)),
        Value::Bytes(it) if matches!(letter, 'x' | 'X') => return Ok(hex(it, letter)),
        other => {
            return Err(failed(format!(
                "integer clause can only be used on integers, was given {}",
                other.type_of()
            )));
        }
    };
    let digits = match letter {
        'b' => format!("{size:b}"),
        'o' => format!("{size:o}"),
        'x' => format!("{size:x}"),
        'X' => format!("{size:X}"),
        _ => size.to_string(),
    };
    Ok(if negative { format!("-{digits}") } else { digits })
}

fn hex(bytes: &[u8], letter: char) -> String {
    bytes
        .iter()
        .map(|byte| if letter == 'x' { format!("{byte:02x}") } else { format!("{byte:02X}") })
        .collect()
}

#[allow(clippy::cast_precision_loss)]
fn floating(value: &Value<'_>, letter: char, precision: usize) -> Result<String, EvalError> {
    let number = match value {
        Value::Double(it) => *it,
        Value::Int(it) => *it as f64,
        Value::Uint(it) => *it as f64,
        other => {
            return Err(failed(format!(
                "fixed-point clause can only be used on doubles, was given {}",
                other.type_of()
            )));
        }
    };
    if !number.is_finite() {
        return Ok(double_text(number));
    }
    if letter == 'f' {
        return Ok(format!("{number:.precision$}"));
    }
    let text = format!("{number:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(("+", exponent), |digits| ("-", digits));
    Ok(format!("{mantissa}e{sign}{digits:0>2}"))
}

pub(super) fn format<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let [Value::String(template), Value::List(values)] = args else { return Err(EvalError::NoSuchOverload) };
    let mut written = String::new();
    let mut letters = template.as_str().chars().peekable();
    let mut next = 0;
    while let Some(letter) = letters.next() {
        if letter != '%' {
            written.push(letter);
            continue;
        }
        if letters.peek() == Some(&'%') {
            letters.next();
            written.push('%');
            continue;
        }
        let mut precision = 6;
        if letters.peek() == Some(&'.') {
            letters.next();
            let mut digits = String::new();
            while let Some(digit) = letters.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision =
                digits.parse().ok().filter(|it| *it <= 1000).ok_or_else(|| {
                    failed("could not parse formatting clause: error while parsing precision")
                })?;
        }
        let value = values.get(next).ok_or_else(|| failed(format!("index {next} out of range")))?;
        next += 1;
        written.push_str(&match letters.next() {
            Some('s') => text(&value)?,
            Some(letter @ ('d' | 'b' | 'x' | 'X' | 'o')) => based(&value, letter)?,
            Some(letter @ ('f' | 'e')) => floating(&value, letter, precision)?,
            Some(other) => {
                return Err(failed(format!(
                    "could not parse formatting clause: unrecognized formatting clause \"{other}\""
                )));
            }
            None => return Err(failed("unexpected end of string")),
        });
    }
    if next < values.len() {
        return Err(failed(format!(
            "too many arguments supplied to string.format (expected {next}, got {})",
            values.len()
        )));
    }
    Ok(Value::text(written))
}
