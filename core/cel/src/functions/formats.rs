//! The named formats of texts: `format.dns1123Label().validate(self.name)`.

use std::sync::Arc;

use keelson_api::names;

use super::{Arguments, Outcome, regex};
use crate::error::EvalError;
use crate::value::{Opaque, Value, parse_timestamp};

/// The format of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A DNS label.
    Dns1123Label,
    /// DNS labels joined by dots.
    Dns1123Subdomain,
    /// A DNS label that begins with a letter.
    Dns1035Label,
    /// A name with a prefix that may be left out.
    QualifiedName,
    /// What a generated DNS label begins with.
    Dns1123LabelPrefix,
    /// What a generated subdomain begins with.
    Dns1123SubdomainPrefix,
    /// What a generated label that begins with a letter begins with.
    Dns1035LabelPrefix,
    /// The value of a label.
    LabelValue,
    /// A URI.
    Uri,
    /// A UUID.
    Uuid,
    /// Bytes in base64.
    Byte,
    /// A date.
    Date,
    /// A point in time.
    Datetime,
}

const NAMED: [(&str, Format); 13] = [
    ("dns1123Label", Format::Dns1123Label),
    ("dns1123Subdomain", Format::Dns1123Subdomain),
    ("dns1035Label", Format::Dns1035Label),
    ("qualifiedName", Format::QualifiedName),
    ("dns1123LabelPrefix", Format::Dns1123LabelPrefix),
    ("dns1123SubdomainPrefix", Format::Dns1123SubdomainPrefix),
    ("dns1035LabelPrefix", Format::Dns1035LabelPrefix),
    ("labelValue", Format::LabelValue),
    ("uri", Format::Uri),
    ("uuid", Format::Uuid),
    ("byte", Format::Byte),
    ("date", Format::Date),
    ("datetime", Format::Datetime),
];

pub(super) fn named<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let name = args.first().and_then(Value::as_str).ok_or(EvalError::NoSuchOverload)?;
    let found = NAMED.iter().find(|(known, _)| *known == name);
    Ok(Value::optional(found.map(|(_, format)| Value::Opaque(Opaque::Format(*format)))))
}

macro_rules! constants {
    ($($name:ident => $format:ident),+ $(,)?) => {
        $(pub(super) fn $name<'a>(_: Arguments<'a, '_>) -> Outcome<'a> {
            Ok(Value::Opaque(Opaque::Format(Format::$format)))
        })+
    };
}

constants! {
    dns1123_label => Dns1123Label,
    dns1123_subdomain => Dns1123Subdomain,
    dns1035_label => Dns1035Label,
    qualified_name => QualifiedName,
    dns1123_label_prefix => Dns1123LabelPrefix,
    dns1123_subdomain_prefix => Dns1123SubdomainPrefix,
    dns1035_label_prefix => Dns1035LabelPrefix,
    label_value => LabelValue,
    uri => Uri,
    uuid => Uuid,
    byte => Byte,
    date => Date,
    datetime => Datetime,
}

/// A prefix may end with a dash, as a name may not.
fn prefix(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) => format!("{rest}a"),
        None => text.to_owned(),
    }
}

fn faults(format: Format, text: &str) -> Result<Vec<String>, EvalError> {
    let unless = |fits: bool, fault: &str| if fits { Vec::new() } else { vec![fault.to_owned()] };
    Ok(match format {
        Format::Dns1123Label => names::dns1123_label(text),
        Format::Dns1123Subdomain => names::dns1123_subdomain(text),
        Format::Dns1035Label => names::dns1035_label(text),
        Format::QualifiedName => names::qualified_name(text),
        Format::Dns1123LabelPrefix => names::dns1123_label(&prefix(text)),
        Format::Dns1123SubdomainPrefix => names::dns1123_subdomain(&prefix(text)),
        Format::Dns1035LabelPrefix => names::dns1035_label(&prefix(text)),
        Format::LabelValue => names::label_value(text),
        Format::Uri => {
            let is_path = text.starts_with('/');
            unless(is_path || url::Url::parse(text).is_ok(), "parse error: invalid URI for request")
        }
        Format::Uuid => {
            let pattern = "^(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
            unless(regex(pattern)?.is_match(text), "does not match the UUID format")
        }
        Format::Byte => {
            let pattern = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$";
            unless(regex(pattern)?.is_match(text), "invalid base64")
        }
        Format::Date => unless(text.len() == 10 && parse_timestamp(text).is_some(), "invalid date"),
        Format::Datetime => unless(text.len() > 10 && parse_timestamp(text).is_some(), "invalid datetime"),
    })
}

pub(super) fn validate<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let [Value::Opaque(Opaque::Format(format)), Value::String(text)] = args else {
        return Err(EvalError::NoSuchOverload);
    };
    let faults = faults(*format, text.as_str())?;
    if faults.is_empty() {
        return Ok(Value::Optional(None));
    }
    let faults = faults.into_iter().map(Value::text).collect();
    Ok(Value::Optional(Some(Arc::new(Value::list(faults)))))
}
