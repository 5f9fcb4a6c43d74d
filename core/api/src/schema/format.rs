//! Formats of texts and numbers, such as `date-time` and `int32`. A format that is not known here is not checked, as
//! OpenAPI has it.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine;
use serde_json::Value;

use super::SchemaType;
use crate::names;
use crate::validation::{ErrorKind, FieldError};

pub(super) fn fault(format: &str, kind: SchemaType, value: &Value, path: &str) -> Option<FieldError> {
    match value {
        Value::Number(number) => {
            let fits = match format {
                "int32" => number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
                "int64" => number.as_i64().is_some(),
                _ => true,
            };
            let word = if kind == SchemaType::Number { "number" } else { "integer" };
            // A whole number may be written with a fraction of zero.
            (!fits && !number.is_f64()).then(|| {
                let detail = format!("Checked value must be of type {word} with format {format} in {path}");
                FieldError::invalid(path, value.clone(), detail)
            })
        }
        Value::String(text) if kind == SchemaType::String && !has_format(format, text) => Some(FieldError {
            path: path.to_owned(),
            kind: ErrorKind::TypeInvalid,
            value: value.clone(),
            detail: format!("{path} in body must be of type {format}: {text:?}"),
        }),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => text.contains(['T', 't']) && text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => is_duration(text),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text.replace(['\r', '\n'], "")).is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "hostname" => names::dns1123_subdomain(&text.to_lowercase()).is_empty(),
        "email" => text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty()),
        "uri" => is_uri(text),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => is_uuid(text),
        "mac" => is_mac(text),
        "hexcolor" => is_hex_color(text),
        _ => true,
    }
}

fn is_duration(text: &str) -> bool {
    const UNITS: [&str; 7] = ["ns", "us", "µs", "ms", "s", "m", "h"];
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut any = false;
    while !rest.is_empty() {
        let number =
            rest.find(|letter: char| !(letter.is_ascii_digit() || letter == '.')).unwrap_or(rest.len());
        let (amount, tail) = rest.split_at(number);
        let end = tail.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        if amount.parse::<f64>().is_err() || !UNITS.contains(&unit.trim()) {
            return false;
        }
        any = true;
        rest = tail;
    }
    any
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let most = match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= most)
}

fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return text.starts_with('/') };
    let alphabetic = scheme.starts_with(|letter: char| letter.is_ascii_alphabetic());
    let good = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '-' | '.');
    alphabetic && scheme.chars().all(good) && !rest.is_empty() && !text.contains(char::is_whitespace)
}

fn is_uuid(text: &str) -> bool {
    let digits: String = text.chars().filter(|letter| *letter != '-').collect();
    digits.len() == 32 && digits.chars().all(|letter| letter.is_ascii_hexdigit())
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    matches!(parts.len(), 6 | 8 | 20)
        && parts.iter().all(|part| part.len() == 2 && part.chars().all(|letter| letter.is_ascii_hexdigit()))
}

fn is_hex_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && digits.chars().all(|letter| letter.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_from_what_only_looks_like_them() {
        for (format, good, bad) in [
            ("date-time", "2026-01-02T03:04:05Z", "yesterday"),
            ("duration", "1h30m", "1x"),
            ("byte", "aGk=", "a?"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/40"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
            ("uri", "https://a/b", "not a uri"),
        ] {
            assert!(has_format(format, good), "{format} {good}");
            assert!(!has_format(format, bad), "{format} {bad}");
        }
        assert!(fault("int32", SchemaType::Integer, &Value::from(1_i64 << 40), "a").is_some());
    }
}
