//! ConfigMaps and Secrets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::at::At;
use super::{ErrorKind, FieldError};
use crate::document::json_text;
use crate::names;
use crate::object::Object;

const MOST: usize = 1 << 20;

fn keys(map: &At<'_>, errors: &mut Vec<FieldError>) {
    for (key, at) in map.entries() {
        let faults = names::config_key(key).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(at.path.as_str(), key, fault)));
    }
}

/// The size of what base64 stands for.
fn decoded_length(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

fn too_long(path: &str, errors: &mut Vec<FieldError>) {
    let detail = format!("may not be more than {MOST} bytes");
    let value = serde_json::Value::Null;
    errors.push(FieldError { path: path.into(), kind: ErrorKind::TooLong, value, detail });
}

fn base64(map: &At<'_>, errors: &mut Vec<FieldError>) {
    for (_, at) in map.entries() {
        if STANDARD.decode(at.text()).is_err() {
            errors.push(at.invalid("illegal base64 data"));
        }
    }
}

pub(super) fn config_map(object: &Object, errors: &mut Vec<FieldError>) {
    let (data, binary) = (At::of(object, "data"), At::of(object, "binaryData"));
    keys(&data, errors);
    keys(&binary, errors);
    base64(&binary, errors);
    for (key, at) in data.entries() {
        if binary.value.get(key).is_some() {
            errors.push(FieldError::invalid(at.path, key, "duplicate of key present in binaryData"));
        }
    }
    let texts: usize = data.entries().map(|(_, at)| at.text().len()).sum();
    let bytes: usize = binary.entries().map(|(_, at)| decoded_length(at.text())).sum();
    if texts + bytes > MOST {
        too_long("", errors);
    }
}

pub(super) fn secret(object: &Object, errors: &mut Vec<FieldError>) {
    let data = At::of(object, "data");
    keys(&data, errors);
    base64(&data, errors);
    if data.entries().map(|(_, at)| decoded_length(at.text())).sum::<usize>() > MOST {
        too_long("data", errors);
    }
    let mut needs = |key: &str, detail: &str| {
        if data.value.get(key).is_none() {
            errors.push(FieldError::required(format!("data[{key}]"), detail));
        }
    };
    match object.get_str(&["type"]).unwrap_or("") {
        "kubernetes.io/dockerconfigjson" => {
            needs(".dockerconfigjson", "");
            json_within(&data, ".dockerconfigjson", errors);
        }
        "kubernetes.io/dockercfg" => {
            needs(".dockercfg", "");
            json_within(&data, ".dockercfg", errors);
        }
        "kubernetes.io/ssh-auth" => needs("ssh-privatekey", ""),
        "kubernetes.io/tls" => {
            needs("tls.crt", "");
            needs("tls.key", "");
        }
        "kubernetes.io/basic-auth" if data.value.get("password").is_none() => needs("username", ""),
        "kubernetes.io/service-account-token" => {
            const NAME: &str = "kubernetes.io/service-account.name";
            if object.annotation(NAME).is_none_or(str::is_empty) {
                errors.push(FieldError::required(format!("metadata.annotations[{NAME}]"), ""));
            }
        }
        _ => {}
    }
}

/// Refuses what is no JSON object under a key; its content is not told.
fn json_within(data: &At<'_>, key: &str, errors: &mut Vec<FieldError>) {
    let Some(text) = data.value.get(key).and_then(Value::as_str) else { return };
    let Ok(bytes) = STANDARD.decode(text) else { return };
    let fault = match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(_) | Value::Null) => return,
        Ok(other) => {
            let have = crate::patch::kind_of(&other);
            format!("json: cannot unmarshal {have} into Go value of type map[string]interface {{}}")
        }
        Err(error) => json_text::fault(&bytes, &error),
    };
    errors.push(FieldError::invalid(format!("data[{key}]"), "<secret contents redacted>", fault));
}

const SEALED: &str = "field is immutable when `immutable` is set";

/// What is sealed stays sealed, and as it is.
pub(super) fn sealed(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    if !At::of(old, "immutable").is_true() {
        return;
    }
    if !At::of(new, "immutable").is_true() {
        errors.push(FieldError::forbidden("immutable", SEALED));
    }
    for field in ["data", "binaryData"] {
        let (now, before) = (At::of(new, field), At::of(old, field));
        if now.value != before.value && !(now.is_empty() && before.is_empty()) {
            errors.push(now.forbidden(SEALED));
        }
    }
}

/// The type of a Secret stays.
pub(super) fn secret_change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let kind = At::of(new, "type");
    if kind.value != At::of(old, "type").value {
        errors.push(kind.invalid("field is immutable"));
    }
    sealed(new, old, errors);
}
