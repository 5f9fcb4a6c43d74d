//! HorizontalPodAutoscalers, in their newest version.

use super::FieldError;
use super::at::At;
use super::pod::resources::quantity;
use super::selector::label_selector;
use crate::names;
use crate::object::Object;
use crate::quantity::Quantity;

const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
    ("External", "external"),
];

pub(super) fn autoscaler(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    let (least, most) = (spec.field("minReplicas"), spec.field("maxReplicas"));
    if least.number().is_some_and(|number| number < 1) {
        errors.push(least.invalid("must be greater than or equal to 1"));
    }
    let number = most.number().unwrap_or(0);
    if number < 1 {
        errors.push(most.or_zero("must be greater than 0"));
    }
    if least.number().is_some_and(|least| number < least) {
        errors.push(most.or_zero("must be greater than or equal to `minReplicas`"));
    }
    let target = spec.field("scaleTargetRef");
    for field in ["kind", "name"].map(|field| target.field(field)) {
        if field.is_empty() {
            errors.push(field.required(""));
        } else {
            field.invalid_for(names::path_segment(field.text()), errors);
        }
    }
    for metric in spec.field("metrics").items() {
        self::metric(&metric, errors);
    }
    let behavior = spec.field("behavior");
    for rules in ["scaleUp", "scaleDown"].map(|field| behavior.field(field)) {
        scaling(&rules, errors);
    }
}

fn metric(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let kind = at.field("type");
    if kind.is_empty() {
        errors.push(kind.required("must specify a metric source type"));
    }
    let known = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    if !kind.is_empty() && !known.contains(&kind.text()) {
        errors.push(FieldError::not_supported(kind.path.as_str(), kind.text(), &known));
    }
    let expected = SOURCES.iter().find(|(name, _)| *name == kind.text()).map(|(_, field)| *field);
    if let Some(field) = expected
        && !at.field(field).is_set()
    {
        errors.push(at.field(field).required("must populate information for the given metric source"));
    }
    for (_, field) in SOURCES.iter().filter(|(_, field)| at.field(field).is_set()) {
        if expected.is_some_and(|expected| expected != *field) {
            let detail = "must populate the given metric source only";
            errors.push(at.field(field).forbidden(detail));
            continue;
        }
        source(field, &at.field(field), errors);
    }
}

fn source(name: &str, at: &At<'_>, errors: &mut Vec<FieldError>) {
    let target = at.field("target");
    match name {
        "resource" | "containerResource" => {
            if at.field("name").is_empty() {
                errors.push(at.field("name").required("must specify a resource name"));
            }
            if name == "containerResource" && at.field("container").is_empty() {
                errors.push(at.field("container").required("must specify a container"));
            }
            self::target(&target, errors);
            exactly_one(
                &target,
                "averageUtilization",
                "averageValue",
                "must set either a target raw value or a target utilization",
                errors,
            );
        }
        _ => {
            let metric = at.field("metric");
            if metric.field("name").is_empty() {
                errors.push(metric.field("name").required("must specify a metric name"));
            } else {
                let name = metric.field("name");
                name.invalid_for(names::path_segment(name.text()), errors);
            }
            label_selector(&metric.field("selector"), errors);
            if name == "object" {
                for field in ["kind", "name"].map(|field| at.field("describedObject").field(field)) {
                    if field.is_empty() {
                        errors.push(field.required(""));
                    }
                }
            }
            self::target(&target, errors);
            if name == "pods" {
                if !target.field("averageValue").is_set() {
                    let path = target.field("averageValue");
                    errors.push(path.required("must specify a positive target averageValue"));
                }
            } else {
                exactly_one(
                    &target,
                    "averageValue",
                    "value",
                    "must set either a target value for metric or a per-pod target",
                    errors,
                );
            }
        }
    }
}

fn exactly_one(target: &At<'_>, first: &str, second: &str, detail: &str, errors: &mut Vec<FieldError>) {
    let (one, other) = (target.field(first), target.field(second));
    if !one.is_set() && !other.is_set() {
        errors.push(one.required(detail));
    } else if one.is_set() && other.is_set() {
        errors.push(one.forbidden(if first == "averageUtilization" {
            "may not set both a target raw value and a target utilization"
        } else {
            "may not set both a target value for metric and a per-pod target"
        }));
    }
}

fn target(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let kind = at.field("type");
    if kind.is_empty() {
        errors.push(kind.required("must specify a metric target type"));
    } else if !matches!(kind.text(), "Utilization" | "Value" | "AverageValue") {
        errors.push(kind.invalid("must be either Utilization, Value, or AverageValue"));
    }
    for value in ["value", "averageValue"].map(|field| at.field(field)) {
        if value.is_set() && quantity(&value, errors).is_some_and(|amount| amount <= Quantity::ZERO) {
            errors.push(value.invalid("must be positive"));
        }
    }
    let share = at.field("averageUtilization");
    if share.number().is_some_and(|number| number < 1) {
        errors.push(share.invalid("must be greater than 0"));
    }
}

fn scaling(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if !at.is_set() {
        return;
    }
    let window = at.field("stabilizationWindowSeconds");
    window.not_negative(errors);
    if window.number().is_some_and(|seconds| seconds > 3600) {
        errors.push(window.invalid("must be less than or equal to 3600"));
    }
    let select = at.field("selectPolicy");
    let known = ["Disabled", "Max", "Min"];
    if select.is_set() && !known.contains(&select.text()) {
        errors.push(FieldError::not_supported(select.path.as_str(), select.value.clone(), &known));
    }
    let policies = at.field("policies");
    if policies.is_empty() {
        errors.push(policies.required("must specify at least one Policy"));
    }
    for policy in policies.items() {
        let (kind, value, period) =
            (policy.field("type"), policy.field("value"), policy.field("periodSeconds"));
        if !matches!(kind.text(), "Percent" | "Pods") {
            errors.push(FieldError::not_supported(kind.path.as_str(), kind.text(), &["Percent", "Pods"]));
        }
        if value.number().is_none_or(|number| number <= 0) {
            errors.push(value.or_zero("must be greater than zero"));
        }
        if period.number().is_none_or(|seconds| seconds <= 0) {
            errors.push(period.or_zero("must be greater than zero"));
        } else if period.number().is_some_and(|seconds| seconds > 1800) {
            errors.push(period.invalid("must be less than or equal to 1800"));
        }
    }
    let tolerance = at.field("tolerance");
    if tolerance.is_set() {
        quantity(&tolerance, errors);
    }
}
