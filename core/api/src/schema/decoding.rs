//! What the decoder of a built-in kind finds wrong in a document's types: the first fault, in upstream's words.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::{Schema, SchemaType, quantities};
use crate::quantity::Quantity;

/// Where a value stands: the struct around it, and the fields on the way to it, without places in lists and maps.
#[derive(Clone, Copy)]
struct Place<'a> {
    around: &'a str,
    path: &'a str,
}

/// Built-in kinds take null for any field, as an absent one.
pub(super) fn decode_error(schema: &Schema, value: &Value) -> Option<String> {
    find(schema, value, Place { around: "", path: "" })
}

fn find(schema: &Schema, value: &Value, place: Place<'_>) -> Option<String> {
    if value.is_null() {
        return None;
    }
    if quantities::is_quantity(schema) {
        return quantity(value);
    }
    if let Some(fault) = mismatch(schema, value, place) {
        return Some(fault);
    }
    match value {
        Value::Object(fields) => find_in(schema, fields, place),
        Value::Array(items) => {
            let item_schema = schema.items.as_ref()?;
            items.iter().find_map(|item| find(item_schema, item, place))
        }
        Value::String(text) if schema.kind == SchemaType::String => match schema.format.as_deref() {
            Some("byte") => base64(text),
            Some("date-time") if is_micro(schema) => time(text, MICRO),
            Some("date-time") => time(text, RFC_3339),
            Some(_) | None => None,
        },
        Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => None,
    }
}

/// The same of the fields of a document.
pub(super) fn fields_error(schema: &Schema, fields: &Map<String, Value>) -> Option<String> {
    find_in(schema, fields, Place { around: "", path: "" })
}

fn find_in(schema: &Schema, fields: &Map<String, Value>, place: Place<'_>) -> Option<String> {
    fields.iter().find_map(|(name, child)| {
        let Some(field) = schema.properties.get(name) else {
            return find(schema.additional.as_ref()?, child, place);
        };
        let path = if place.path.is_empty() { name.clone() } else { format!("{}.{name}", place.path) };
        let around = schema.go_name.as_deref().map_or(place.around, struct_name);
        find(field, child, Place { around, path: &path })
    })
}

fn is_micro(schema: &Schema) -> bool {
    schema.go_name.as_deref() == Some("v1.MicroTime")
}

fn struct_name(go_name: &str) -> &str {
    go_name.rsplit('.').next().unwrap_or(go_name)
}

/// A value of another type, or a number that is not one of its type.
fn mismatch(schema: &Schema, value: &Value, place: Place<'_>) -> Option<String> {
    use SchemaType::{Any, Array, Boolean, IntOrString, Integer, Number, Object, String};
    let have = match (schema.kind, value) {
        (Any, _)
        | (Object, Value::Object(_))
        | (Array, Value::Array(_))
        | (String | IntOrString, Value::String(_))
        | (Number, Value::Number(_))
        | (Boolean, Value::Bool(_)) => return None,
        (Integer | IntOrString, Value::Number(number)) => {
            let small = schema.kind == IntOrString || schema.format.as_deref() == Some("int32");
            let fits = |it: i64| !small || i32::try_from(it).is_ok();
            if number.as_i64().is_some_and(fits) {
                return None;
            }
            format!("number {number}")
        }
        (_, Value::Number(_)) => "number".to_owned(),
        (_, Value::Bool(_)) => "bool".to_owned(),
        (_, Value::String(_)) => "string".to_owned(),
        (_, Value::Array(_)) => "array".to_owned(),
        (_, Value::Object(_) | Value::Null) => "object".to_owned(),
    };
    let Place { around, path } = place;
    Some(format!(
        "json: cannot unmarshal {have} into Go struct field {around}.{path} of type {}",
        go_type(schema)
    ))
}

fn go_type(schema: &Schema) -> String {
    let inner = |schema: &Option<std::sync::Arc<Schema>>| {
        schema.as_deref().map_or_else(|| "interface {}".to_owned(), go_type)
    };
    match schema.kind {
        SchemaType::IntOrString => "int32".to_owned(),
        SchemaType::Integer if schema.format.as_deref() == Some("int32") => "int32".to_owned(),
        SchemaType::Integer => "int64".to_owned(),
        SchemaType::Boolean => "bool".to_owned(),
        SchemaType::Number => "float64".to_owned(),
        SchemaType::Array => format!("[]{}", inner(&schema.items)),
        SchemaType::Object => match &schema.go_name {
            Some(name) => name.to_string(),
            None => format!("map[string]{}", inner(&schema.additional)),
        },
        SchemaType::String if quantities::is_quantity(schema) => "resource.Quantity".to_owned(),
        SchemaType::String if schema.format.as_deref() == Some("byte") => "[]uint8".to_owned(),
        SchemaType::String | SchemaType::Any => "string".to_owned(),
    }
}

fn quantity(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        other => other.to_string(),
    };
    let error = Quantity::parse(&text).err()?;
    let number = text.strip_prefix(['+', '-']).unwrap_or(&text);
    let suffix = number.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    let is_suffix = suffix.chars().all(|letter| "eEinumkKMGTP".contains(letter));
    let number = &number[..number.len() - suffix.len()];
    Some(match (number.matches('.').count(), is_suffix && !number.is_empty()) {
        (_, false) => error.to_string(),
        (0 | 1, true) => "unable to parse quantity's suffix".to_owned(),
        (_, true) => "unable to parse numeric part of quantity".to_owned(),
    })
}

/// The place at which a text is no base64 with padding; line ends between its letters are passed over.
fn base64(text: &str) -> Option<String> {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let bytes: Vec<(usize, u8)> =
        text.bytes().enumerate().filter(|(_, byte)| !matches!(byte, b'\r' | b'\n')).collect();
    let letters = bytes.iter().take_while(|(_, byte)| is_letter(*byte)).count();
    let wanted = (4 - letters % 4) % 4;
    let end = text.len();
    let fault = match (bytes.get(letters), wanted) {
        (None, 0) => return None,
        // What is left of the last four letters is too little.
        (None, _) => end.saturating_sub(letters % 4),
        (Some((at, b'=')), 1 | 2) => {
            let padding = bytes[letters..].iter().take_while(|(_, byte)| *byte == b'=').count();
            match (bytes.get(letters + padding.min(wanted)), padding < wanted) {
                (None, false) => return None,
                (None, true) => end,
                (Some((other, _)), false) => *other,
                (Some(_), true) => *at,
            }
        }
        (Some((at, _)), _) => *at,
    };
    Some(format!("illegal base64 data at input byte {fault}"))
}

const RFC_3339: &str = "2006-01-02T15:04:05Z07:00";
const MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// Why a text is no time to the second, as of RFC 3339; in upstream's words.
pub fn time_error(text: &str) -> Option<String> {
    time(text, RFC_3339)
}

fn time(text: &str, layout: &str) -> Option<String> {
    let mut reader = Time { rest: text };
    let told = match reader.read(layout == MICRO) {
        Ok(()) if reader.rest.is_empty() && text.parse::<jiff::Timestamp>().is_ok() => return None,
        // Readers of typed objects know no such time.
        Ok(()) if reader.rest.is_empty() => format!("parsing time {text:?}: time out of range"),
        Ok(()) => format!("parsing time {text:?}: extra text: {:?}", reader.rest),
        Err(TimeFault::Range(what)) => format!("parsing time {text:?}: {what} out of range"),
        Err(TimeFault::Part(part)) => {
            let mut told = format!("parsing time {text:?} as {layout:?}: cannot parse ");
            // Writing to a text does not fail.
            let _ = write!(told, "{:?} as {part:?}", reader.rest);
            told
        }
    };
    Some(told)
}

enum TimeFault {
    /// What is left does not begin with this part of the layout.
    Part(&'static str),
    Range(&'static str),
}

struct Time<'a> {
    rest: &'a str,
}

impl Time<'_> {
    fn read(&mut self, micro: bool) -> Result<(), TimeFault> {
        let year = self.number("2006", 4, 4)?;
        self.literal("-")?;
        let month = self.number("01", 2, 2)?;
        if !(1..=12).contains(&month) {
            return Err(TimeFault::Range("month"));
        }
        self.literal("-")?;
        let day = self.number("02", 2, 2)?;
        self.literal("T")?;
        for (part, least, after, limit, name) in
            [("15", 1, ":", 24, "hour"), ("04", 2, ":", 60, "minute"), ("05", 2, "", 60, "second")]
        {
            if self.number(part, least, 2)? >= limit {
                return Err(TimeFault::Range(name));
            }
            self.literal(after)?;
        }
        self.fraction(micro)?;
        self.zone()?;
        let (Ok(year), Ok(month), Ok(day)) = (i16::try_from(year), i8::try_from(month), i8::try_from(day))
        else {
            return Err(TimeFault::Range("day"));
        };
        jiff::civil::Date::new(year, month, day).map(drop).map_err(|_| TimeFault::Range("day"))
    }

    fn literal(&mut self, text: &'static str) -> Result<(), TimeFault> {
        self.rest = self.rest.strip_prefix(text).ok_or(TimeFault::Part(text))?;
        Ok(())
    }

    /// A number of so many digits.
    fn number(&mut self, part: &'static str, least: usize, most: usize) -> Result<u32, TimeFault> {
        let digits = self.rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
        if digits < least {
            return Err(TimeFault::Part(part));
        }
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        number.parse().map_err(|_| TimeFault::Part(part))
    }

    fn fraction(&mut self, micro: bool) -> Result<(), TimeFault> {
        let digits = self.rest.bytes().skip(1).take_while(u8::is_ascii_digit).count();
        let begins = self.rest.starts_with(['.', ',']);
        match (begins && digits > 0, micro) {
            (true, true) if digits >= 6 => self.rest = &self.rest[7..],
            (true | false, true) => return Err(TimeFault::Part(".000000")),
            (true, false) => self.rest = &self.rest[1 + digits..],
            (false, false) => {}
        }
        Ok(())
    }

    fn zone(&mut self) -> Result<(), TimeFault> {
        const PART: &str = "Z07:00";
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(());
        }
        let bytes = self.rest.as_bytes();
        let [b'+' | b'-', a, b, b':', c, d, ..] = bytes else { return Err(TimeFault::Part(PART)) };
        if ![a, b, c, d].into_iter().all(u8::is_ascii_digit) {
            return Err(TimeFault::Part(PART));
        }
        self.rest = &self.rest[6..];
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::GroupVersionKind;
    use serde_json::json;

    fn error(group: &str, kind: &str, value: &Value) -> String {
        let version = "v1";
        let schema = Schema::builtin(&GroupVersionKind::new(group, version, kind)).unwrap();
        schema.decode_error(value).unwrap_or_default()
    }

    #[test]
    fn a_fault_names_the_struct_the_fields_and_the_type() {
        let of = |kind: &str, have: &str, field: &str, go: &str, value: Value| {
            let group = if kind == "Deployment" { "apps" } else { "" };
            let expected = format!("json: cannot unmarshal {have} into Go struct field {field} of type {go}");
            assert_eq!(error(group, kind, &value), expected);
        };
        of("ConfigMap", "number", "ConfigMap.data", "string", json!({"data": {"a": 1}}));
        of("ConfigMap", "number", "ConfigMap.metadata", "v1.ObjectMeta", json!({"metadata": 5}));
        of(
            "Deployment",
            "string",
            "DeploymentSpec.spec.replicas",
            "int32",
            json!({"spec": {"replicas": "3"}}),
        );
        of(
            "Deployment",
            "number 1.5",
            "DeploymentSpec.spec.replicas",
            "int32",
            json!({"spec": {"replicas": 1.5}}),
        );
        let large = json!({"spec": {"replicas": 99_999_999_999_i64}});
        of("Deployment", "number 99999999999", "DeploymentSpec.spec.replicas", "int32", large);
        let pod = |container: Value| json!({"spec": {"containers": [container]}});
        let value = pod(json!({"env": [{"name": "a", "value": 1}]}));
        of("Pod", "number", "EnvVar.spec.containers.env.value", "string", value);
        of("Pod", "string", "PodSpec.spec.containers", "v1.Container", pod(json!("a")));
        of("Pod", "object", "PodSpec.spec.containers", "[]v1.Container", json!({"spec": {"containers": {}}}));
        let labels = json!({"metadata": {"labels": ["a"]}});
        of("Pod", "array", "ObjectMeta.metadata.labels", "map[string]string", labels);
        of(
            "Service",
            "bool",
            "ServicePort.spec.ports.targetPort",
            "int32",
            json!({"spec": {"ports": [{"targetPort": true}]}}),
        );
        of("Secret", "number", "Secret.data", "[]uint8", json!({"data": {"a": 5}}));
    }

    #[test]
    fn texts_that_are_something_else_are_read_as_it() {
        let limits =
            |text: Value| json!({"spec": {"containers": [{"resources": {"limits": {"cpu": text}}}]}});
        for (text, expected) in [
            (json!("100m"), ""),
            (json!(1.5), ""),
            (
                json!("abc"),
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
            (json!("1kk"), "unable to parse quantity's suffix"),
            (json!("1.1.1"), "unable to parse numeric part of quantity"),
        ] {
            assert_eq!(error("", "Pod", &limits(text.clone())), expected, "{text}");
        }
        for (text, expected) in [
            ("", None),
            ("YQ==", None),
            ("YWI=", None),
            ("YW\nJj", None),
            ("####", Some(0)),
            ("abcde", Some(4)),
            ("abc", Some(0)),
            ("ab=c", Some(2)),
            ("YQ==x", Some(4)),
            ("YQ=", Some(3)),
        ] {
            let told = error("", "Secret", &json!({"data": {"a": text}}));
            let expected = expected.map(|at| format!("illegal base64 data at input byte {at}"));
            assert_eq!(told, expected.unwrap_or_default(), "{text}");
        }
    }

    #[test]
    fn times_are_read_as_upstream_reads_them() {
        let as_layout = |rest: &str, part: &str| {
            format!(" as \"2006-01-02T15:04:05Z07:00\": cannot parse {rest:?} as {part:?}")
        };
        for (text, expected) in [
            ("2026-01-02T03:04:05Z", None),
            ("2026-01-02T03:04:05.123456789+01:00", None),
            ("yesterday", Some(as_layout("yesterday", "2006"))),
            ("2026-01-02", Some(as_layout("", "T"))),
            ("2026-1-02T03:04:05Z", Some(as_layout("1-02T03:04:05Z", "01"))),
            ("2026-01-02T03:04:05", Some(as_layout("", "Z07:00"))),
            ("2026-13-02T03:04:05Z", Some(": month out of range".to_owned())),
            ("2026-02-30T03:04:05Z", Some(": day out of range".to_owned())),
            ("9999-12-31T23:59:59-23:00", Some(": time out of range".to_owned())),
            ("2026-01-02T03:04:05+99:99", Some(": time out of range".to_owned())),
            ("2026-01-02T03:04:05Zx", Some(": extra text: \"x\"".to_owned())),
        ] {
            let told = error("", "Pod", &json!({"metadata": {"creationTimestamp": text}}));
            let expected = expected.map(|rest| format!("parsing time {text:?}{rest}")).unwrap_or_default();
            assert_eq!(told, expected);
        }
        let lease = |text: &str| error("coordination.k8s.io", "Lease", &json!({"spec": {"renewTime": text}}));
        assert_eq!(lease("2026-01-02T03:04:05.000006Z"), "");
        let told = lease("2026-01-02T03:04:05Z");
        assert!(told.ends_with("cannot parse \"Z\" as \".000000\""), "{told}");
    }
}
