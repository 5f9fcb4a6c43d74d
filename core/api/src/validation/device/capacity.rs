//! How much of a device that several share may be asked for.

use super::super::FieldError;
use super::super::at::At;
use super::is_bounded;
use crate::quantity::{Amount, Quantity};

fn read(at: &At<'_>) -> Option<Quantity> {
    match at.value {
        serde_json::Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => Quantity::parse(at.text()).ok(),
    }
}

/// The policy of a capacity: some values, or a range of them.
pub(super) fn policy(capacity: &At<'_>, at: &At<'_>, errors: &mut Vec<FieldError>) {
    let (values, range, default) = (at.field("validValues"), at.field("validRange"), at.field("default"));
    let Some(whole) = read(&capacity.field("value")) else { return };
    match (values.is_empty(), range.is_set()) {
        (false, true) => errors.push(at.forbidden(
            r#"exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time"#,
        )),
        (true, false) => {}
        (false, false) => match read(&default) {
            None => errors.push(default.required("required when validValues is defined")),
            Some(value) => one_of(&values, (value, &default), (whole, capacity), errors),
        },
        (true, true) => match read(&default) {
            None => errors.push(default.required("required when validRange is defined")),
            Some(value) => between(&range, (value, &default), (whole, capacity), errors),
        },
    }
}

type Sized<'s, 'a> = (Quantity, &'s At<'a>);

fn one_of(
    list: &At<'_>,
    (default, shown): Sized<'_, '_>,
    (whole, capacity): Sized<'_, '_>,
    errors: &mut Vec<FieldError>,
) {
    let values: Vec<(At<'_>, Quantity)> =
        list.items().filter_map(|it| read(&it).map(|value| (it, value))).collect();
    for pair in values.windows(2) {
        if let [(_, first), (at, second)] = pair
            && first > second
        {
            errors.push(at.invalid("values must be sorted in ascending order"));
        }
    }
    let mut seen: Vec<Quantity> = Vec::new();
    if is_bounded(list, 10, errors) {
        let text = capacity.field("value");
        for (at, value) in &values {
            if *value > whole {
                errors.push(at.invalid(format!("option is larger than capacity value: {}", text.text())));
            }
            if seen.contains(value) {
                errors.push(at.duplicate());
            }
            seen.push(*value);
        }
    }
    if !seen.contains(&default) {
        let detail = "default value is not valid according to the requestPolicy";
        errors.push(FieldError::invalid(list.path.as_str(), shown.value.clone(), detail));
    }
}

fn between(
    range: &At<'_>,
    (default, shown): Sized<'_, '_>,
    (whole, capacity): Sized<'_, '_>,
    errors: &mut Vec<FieldError>,
) {
    let (low, high, step) = (range.field("min"), range.field("max"), range.field("step"));
    let (text, whole_text) = (shown.text(), capacity.field("value").text());
    let Some(least) = read(&low) else {
        errors.push(low.required("required when validRange is defined"));
        return;
    };
    let at_default =
        |detail: String| FieldError::invalid(range.field("default").path, shown.value.clone(), detail);
    if least > whole {
        errors.push(low.invalid(format!("min is larger than capacity value: {whole_text}")));
    }
    if default < least {
        errors.push(at_default(format!("default is less than min: {}", low.text())));
    }
    let most = read(&high);
    if let Some(most) = most {
        if least > most {
            let detail = format!("min is larger than max: {}", high.text());
            errors.push(FieldError::invalid(high.path.as_str(), low.value.clone(), detail));
        }
        if most > whole {
            errors.push(high.invalid(format!("max is larger than capacity value: {whole_text}")));
        }
        if default > most {
            errors.push(at_default(format!("default is more than max: {}", high.text())));
        }
    }
    let Some(by) = read(&step) else { return };
    if by <= Quantity::ZERO {
        errors.push(step.invalid("must be greater than zero"));
        return;
    }
    if let (Ok(first), Ok(own)) = (Amount::parse(low.text()), Amount::parse(step.text())) {
        let next = first.plus(own);
        if next.quantity() > whole {
            let detail = format!("one step {next} is larger than capacity value: {whole_text}");
            errors.push(step.invalid(detail));
        }
    }
    let ends = [Some((default, text)), most.map(|most| (most, high.text()))];
    for (value, text) in ends.into_iter().flatten() {
        let distance = value.nano().saturating_sub(least.nano());
        if distance % by.nano() != 0 {
            let detail =
                format!("value is not a multiple of a given step ({}) from ({})", step.text(), low.text());
            errors.push(FieldError::invalid(step.path.as_str(), text, detail));
        }
    }
}
