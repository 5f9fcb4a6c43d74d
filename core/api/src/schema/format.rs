//! Formats of texts and numbers, such as `date-time` and `int32`. A format that is not known here is not checked, as
//! OpenAPI has it.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine;
use serde_json::Value;

use super::SchemaType;
use super::format_numbers as numbers;
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

/// Whether a format of texts is one that upstream knows.
pub fn is_recognized(format: &str) -> bool {
    RECOGNIZED.contains(&format)
}

const RECOGNIZED: [&str; 27] = [
    "bsonobjectid",
    "byte",
    "cidr",
    "creditcard",
    "date",
    "date-time",
    "datetime",
    "duration",
    "email",
    "hexcolor",
    "hostname",
    "ipv4",
    "ipv6",
    "isbn",
    "isbn10",
    "isbn13",
    "k8s-long-name",
    "k8s-short-name",
    "mac",
    "password",
    "rgbcolor",
    "ssn",
    "uri",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
];

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
        "email" => is_email(text),
        "uri" => is_uri(text),
        "uuid" => is_uuid(text),
        "uuid3" => is_uuid(text) && digit(text, 12) == Some('3'),
        "uuid4" => is_uuid(text) && digit(text, 12) == Some('4') && is_variant(text),
        "uuid5" => is_uuid(text) && digit(text, 12) == Some('5') && is_variant(text),
        "mac" => is_mac(text),
        "hexcolor" => is_hex_color(text),
        "rgbcolor" => is_rgb_color(text),
        "isbn" => numbers::is_isbn_10(text) || numbers::is_isbn_13(text),
        "isbn10" => numbers::is_isbn_10(text),
        "isbn13" => numbers::is_isbn_13(text),
        "creditcard" => numbers::is_credit_card(text),
        "ssn" => numbers::is_social_security_number(text),
        "bsonobjectid" => text.len() == 24 && text.chars().all(|letter| letter.is_ascii_hexdigit()),
        "k8s-short-name" => names::dns1123_label(text).is_empty(),
        "k8s-long-name" => names::dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

/// A duration as Go writes it, or a number with the name of a unit.
fn is_duration(text: &str) -> bool {
    const GO: [&str; 8] = ["ns", "us", "\u{b5}s", "\u{3bc}s", "ms", "s", "m", "h"];
    const NAMES: [&str; 17] = [
        "nano",
        "nanosecond",
        "micro",
        "microsecond",
        "milli",
        "millisecond",
        "sec",
        "second",
        "min",
        "minute",
        "hr",
        "hour",
        "d",
        "day",
        "w",
        "wk",
        "week",
    ];
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
        let unit = unit.trim();
        let is_unit = GO.contains(&unit) || NAMES.contains(&unit.strip_suffix('s').unwrap_or(unit));
        if amount.parse::<f64>().is_err() || !is_unit {
            return false;
        }
        any = true;
        rest = tail;
    }
    any
}

fn is_email(text: &str) -> bool {
    // A name may stand before the address.
    let address = match text.split_once('<') {
        Some((_, rest)) => match rest.strip_suffix('>') {
            Some(address) => address,
            None => return false,
        },
        None => text,
    };
    let Some((user, host)) = address.rsplit_once('@') else { return false };
    let is_atom = |text: &str| {
        !text.is_empty() && text.split('.').all(|part| !part.is_empty() && part.chars().all(is_atext))
    };
    let is_quoted = user.len() > 1 && user.starts_with('"') && user.ends_with('"');
    (is_atom(user) || is_quoted) && is_atom(host)
}

fn is_atext(letter: char) -> bool {
    letter.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(letter) || !letter.is_ascii()
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

/// Digits in groups of 8, 4, 4, 4 and 12, with or without lines between them.
fn is_uuid(text: &str) -> bool {
    let mut rest = text;
    for (at, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        let inner = if at > 0 { rest.strip_prefix('-').unwrap_or(rest) } else { rest };
        let Some((digits, tail)) = inner.split_at_checked(length) else { return false };
        if !digits.chars().all(|letter| letter.is_ascii_hexdigit()) {
            return false;
        }
        rest = tail;
    }
    rest.is_empty()
}

/// A digit of a UUID, in lower case.
fn digit(text: &str, at: usize) -> Option<char> {
    text.chars().filter(|letter| *letter != '-').nth(at).map(|letter| letter.to_ascii_lowercase())
}

fn is_variant(text: &str) -> bool {
    digit(text, 16).is_some_and(|letter| matches!(letter, '8' | '9' | 'a' | 'b'))
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

fn is_rgb_color(text: &str) -> bool {
    let inner = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')'));
    let Some(inner) = inner else { return false };
    let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
    let is_part = |part: &&str| part.parse::<u8>().is_ok() && (*part == "0" || !part.starts_with(['0', '+']));
    parts.len() == 3 && parts.iter().all(is_part)
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
            ("uuid4", "123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
            ("uuid5", "123e4567e89b52d3b456426614174000", "123e4567-e89b-52d3-c456-426614174000"),
            ("email", "Jane <jane@example.com>", "jane@@example.com"),
            ("duration", "2 days", "2 moons"),
            ("rgbcolor", "rgb(0, 128,255)", "rgb(0,1,256)"),
            ("isbn", "978-3-16-148410-0", "978-3-16-148410-1"),
            ("isbn10", "3-16-148410-X", "3-16-148410-1"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
            ("ssn", "123-45-6789", "123-456-789"),
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
            ("k8s-short-name", "a-b", "a.b"),
            ("k8s-long-name", "a.b", "A.b"),
        ] {
            assert!(has_format(format, good), "{format} {good}");
            assert!(!has_format(format, bad), "{format} {bad}");
        }
        assert!(fault("int32", SchemaType::Integer, &Value::from(1_i64 << 40), "a").is_some());
    }
}
