//! What claims ask for, and the classes and templates of claims.

use std::collections::HashMap;

use super::super::FieldError;
use super::super::at::At;
use super::super::selector::labels;
use super::{
    configuration, fully_qualified, is_bounded, label_name, named, own_text, qualified, tolerations, unique,
};
use crate::names;
use crate::object::Object;

/// The most requests, constraints, configurations and selectors of each.
pub(super) const MOST: usize = 32;
/// The most alternatives of a request.
const MAX_ALTERNATIVES: usize = 8;
/// The most bytes of an expression.
const MAX_EXPRESSION: usize = 10 * 1024;
const NO_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// The names of a claim's requests, each with those of its alternatives.
pub(super) type Requests<'a> = HashMap<&'a str, Vec<&'a str>>;

pub(super) fn requests<'a>(devices: &At<'a>) -> Requests<'a> {
    let below = |request: &At<'a>| {
        request.field("firstAvailable").items().map(|it| it.field("name").text()).collect::<Vec<_>>()
    };
    devices.field("requests").items().map(|it| (it.field("name").text(), below(&it))).collect()
}

/// A claim that is new. Its spec never changes.
pub(in super::super) fn claim(object: &Object, errors: &mut Vec<FieldError>) {
    devices(&At::of(object, "spec").field("devices"), errors);
}

/// A template of claims that is new. Its spec never changes.
pub(in super::super) fn template(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    let metadata = spec.field("metadata");
    labels(&metadata.field("labels"), errors);
    for (key, _) in metadata.field("annotations").entries() {
        let path = format!("{}.annotations", metadata.path);
        let faults = names::qualified_name(&key.to_lowercase()).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(path.as_str(), key, fault)));
    }
    devices(&spec.field("spec").field("devices"), errors);
}

/// A class of devices.
pub(in super::super) fn class(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    selectors(&spec.field("selectors"), errors);
    let list = spec.field("config");
    if is_bounded(&list, MOST, errors) {
        list.items().for_each(|it| configuration(&it, errors));
    }
    let extended = spec.field("extendedResourceName");
    if extended.is_set() && !is_extended(extended.text()) {
        errors.push(extended.invalid("must be a valid extended resource name"));
    }
}

/// Whether a name is that of a resource that Kubernetes does not define.
fn is_extended(name: &str) -> bool {
    let own = !name.contains('/') || name.contains("kubernetes.io/");
    !own && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

fn devices(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let known = requests(at);
    let list = at.field("requests");
    if is_bounded(&list, MOST, errors) {
        list.items().for_each(|it| request(&it, errors));
        unique(&list, named, errors);
    }
    let list = at.field("constraints");
    if is_bounded(&list, MOST, errors) {
        list.items().for_each(|it| constraint(&it, &known, errors));
    }
    let list = at.field("config");
    if is_bounded(&list, MOST, errors) {
        for it in list.items() {
            references(&it.field("requests"), &known, errors);
            configuration(&it, errors);
        }
    }
}

fn request(at: &At<'_>, errors: &mut Vec<FieldError>) {
    label_name(&at.field("name"), errors);
    let (exactly, list) = (at.field("exactly"), at.field("firstAvailable"));
    match (exactly.is_set(), list.is_empty()) {
        (false, true) => {
            errors.push(at.required("exactly one of `exactly` or `firstAvailable` is required"));
        }
        (true, false) => {
            let detail =
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(FieldError::invalid(at.path.as_str(), serde_json::Value::Null, detail));
        }
        (true, true) => wanted(&exactly, errors),
        (false, false) => {
            if is_bounded(&list, MAX_ALTERNATIVES, errors) {
                for it in list.items() {
                    label_name(&it.field("name"), errors);
                    wanted(&it, errors);
                }
                unique(&list, named, errors);
            }
        }
    }
}

/// Which devices of a class, and how many.
fn wanted(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let (class, mode, count) = (at.field("deviceClassName"), at.field("allocationMode"), at.field("count"));
    if class.is_empty() {
        errors.push(class.required(""));
    } else {
        class.invalid_for(names::dns1123_subdomain(class.text()), errors);
    }
    selectors(&at.field("selectors"), errors);
    match mode.text() {
        "All" => {
            if count.number().is_some_and(|count| count != 0) {
                errors.push(count.invalid("must not be specified when allocationMode is 'All'"));
            }
        }
        // What says nothing asks for one device.
        "" | "ExactCount" => {
            if count.number().is_some_and(|count| count <= 0) {
                errors.push(count.invalid("must be greater than zero"));
            }
        }
        other => errors.push(FieldError::not_supported(mode.path.as_str(), other, &["All", "ExactCount"])),
    }
    tolerations(&at.field("tolerations"), errors);
    let capacities = at.field("capacity").field("requests");
    for (name, _) in capacities.entries() {
        qualified(&capacities.path, name, errors);
    }
}

/// Expressions, as far as they are judged without being compiled.
fn selectors(list: &At<'_>, errors: &mut Vec<FieldError>) {
    if !is_bounded(list, MOST, errors) {
        return;
    }
    for it in list.items() {
        let cel = it.field("cel");
        if !cel.is_set() {
            errors.push(cel.required(""));
        } else if cel.field("expression").text().len() > MAX_EXPRESSION {
            errors.push(cel.field("expression").too_long(MAX_EXPRESSION));
        }
    }
}

fn constraint(at: &At<'_>, known: &Requests<'_>, errors: &mut Vec<FieldError>) {
    references(&at.field("requests"), known, errors);
    let (same, distinct) = (at.field("matchAttribute"), at.field("distinctAttribute"));
    match (same.is_set(), distinct.is_set()) {
        (true, false) => fully_qualified(&same, errors),
        (false, true) => fully_qualified(&distinct, errors),
        (true, true) => errors.push(at.invalid(
            r#"exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set"#,
        )),
        (false, false) => {
            errors.push(at.required(
                r#"exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set"#,
            ));
        }
    }
}

/// The names of requests that something is about.
pub(super) fn references(list: &At<'_>, known: &Requests<'_>, errors: &mut Vec<FieldError>) {
    if !is_bounded(list, MOST, errors) {
        return;
    }
    list.items().for_each(|it| reference(&it, known, errors));
    unique(list, own_text, errors);
}

/// The name of a request, or of one and its alternative.
pub(super) fn reference(at: &At<'_>, known: &Requests<'_>, errors: &mut Vec<FieldError>) {
    let parts: Vec<&str> = at.text().split('/').collect();
    let is_known = match parts.as_slice() {
        [name] => known.contains_key(name),
        [name, below] => known.get(name).is_some_and(|all| all.contains(below)),
        _ => {
            errors.push(at.invalid(NO_REQUEST));
            return;
        }
    };
    for part in parts {
        let faults = names::dns1123_label(part).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(at.path.as_str(), part, fault)));
    }
    if !is_known {
        errors.push(FieldError::invalid(at.path.as_str(), at.text(), NO_REQUEST));
    }
}
