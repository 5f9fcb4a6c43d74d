//! Conditions, as every newer status has them.

use std::collections::HashSet;

use super::FieldError;
use super::at::At;
use crate::names;

const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
const MAX_REASON: usize = 1024;
const MAX_MESSAGE: usize = 32 * 1024;

fn is_reason(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if first.is_ascii_alphabetic() && word(*last))
        && bytes.iter().all(|byte| word(*byte) || matches!(byte, b',' | b':'))
}

/// A list of conditions with `observedGeneration`, each type once.
pub(super) fn conditions(list: &At<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for it in list.items() {
        let (kind, status, reason) = (it.field("type"), it.field("status"), it.field("reason"));
        if !seen.insert(kind.text()) {
            errors.push(kind.duplicate());
        }
        kind.or_empty_for(names::qualified_name(kind.text()), errors);
        let known = ["False", "True", "Unknown"];
        if !known.contains(&status.text()) {
            errors.push(FieldError::not_supported(status.path.as_str(), status.text(), &known));
        }
        let generation = it.field("observedGeneration");
        if generation.number().is_some_and(|number| number < 0) {
            errors.push(generation.invalid("must be greater than or equal to zero"));
        }
        if it.field("lastTransitionTime").is_empty() {
            errors.push(it.field("lastTransitionTime").required("must be set"));
        }
        if reason.is_empty() {
            errors.push(reason.required("must be set"));
        } else if !is_reason(reason.text()) {
            errors.push(reason.invalid(REASON));
        }
        for (field, most) in [(reason, MAX_REASON), (it.field("message"), MAX_MESSAGE)] {
            if field.text().len() > most {
                errors.push(field.too_long(most));
            }
        }
    }
}
