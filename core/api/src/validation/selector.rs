//! Label selectors and label maps inside of specs.

use super::FieldError;
use super::at::At;
use crate::names;

/// A map of labels.
pub(super) fn labels(map: &At<'_>, errors: &mut Vec<FieldError>) {
    for (key, value) in map.entries() {
        let faults = names::qualified_name(key).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(map.path.as_str(), key, fault)));
        let faults = names::label_value(value.text()).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(map.path.as_str(), value.text(), fault)));
    }
}

/// A selector with `matchLabels` and `matchExpressions`.
pub(super) fn label_selector(selector: &At<'_>, errors: &mut Vec<FieldError>) {
    labels(&selector.field("matchLabels"), errors);
    for expression in selector.field("matchExpressions").items() {
        let (operator, values) = (expression.field("operator"), expression.field("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(
                    values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(operator.invalid("not a valid selector operator")),
        }
        let key = expression.field("key");
        key.invalid_for(names::qualified_name(key.text()), errors);
        for value in values.items() {
            value.invalid_for(names::label_value(value.text()), errors);
        }
    }
}
