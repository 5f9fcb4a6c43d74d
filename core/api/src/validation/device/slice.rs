//! The devices that a driver publishes.

use super::super::FieldError;
use super::super::at::At;
use super::super::pod::driver_name;
use super::super::pod::scheduling::node_selector;
use super::super::too_many;
use super::{
    binding_conditions, capacity, is_bounded, label_name, named, pool_name, qualified, taint, unique,
};
use crate::names;
use crate::object::Object;

/// The most devices of a slice, and of one in which any has taints or takes from counters.
const MAX_DEVICES: usize = 128;
const MAX_SPECIAL_DEVICES: usize = 64;
/// The most attributes and capacities of a device; the most counters of a set.
const MOST: usize = 32;
/// The most bytes of an attribute's text.
const MAX_TEXT: usize = 64;
const VALUES: [&str; 8] = ["bool", "bools", "int", "ints", "string", "strings", "version", "versions"];

/// A slice.
pub(in super::super) fn slice(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    driver_name(&spec.field("driver"), errors);
    pool(&spec.field("pool"), errors);
    nodes(&spec, errors);
    let (counters, devices) = (spec.field("sharedCounters"), spec.field("devices"));
    if counters.is_set() && devices.is_set() {
        let detail = "only one of `sharedCounters` or `devices` is allowed";
        errors.push(FieldError::invalid(spec.path.as_str(), "", detail));
    }
    let lists = |it: &At<'_>| {
        it.field("attributes")
            .entries()
            .any(|(_, it)| VALUES_OF_LISTS.iter().any(|name| it.field(name).is_set()))
    };
    let is_special = devices
        .items()
        .any(|it| !it.field("taints").is_empty() || !it.field("consumesCounters").is_empty() || lists(&it));
    let each = spec.field("perDeviceNodeSelection").is_true();
    if is_bounded(&devices, if is_special { MAX_SPECIAL_DEVICES } else { MAX_DEVICES }, errors) {
        devices.items().for_each(|it| device(&it, each, errors));
        unique(&devices, named, errors);
    }
    if is_bounded(&counters, 8, errors) {
        for set in counters.items() {
            counter_name(&set.field("name"), errors);
            self::counters(&set.field("counters"), errors);
        }
        unique(&counters, named, errors);
    }
}

const VALUES_OF_LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];

/// A slice stays with its driver, its pool and its node.
pub(in super::super) fn slice_change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let (spec, before) = (At::of(new, "spec"), At::of(old, "spec"));
    let pairs = [
        (spec.field("pool").field("name"), before.field("pool").field("name")),
        (spec.field("driver"), before.field("driver")),
        (spec.field("nodeName"), before.field("nodeName")),
    ];
    for (now, was) in pairs.into_iter().filter(|(now, was)| now.value != was.value) {
        let _ = was;
        errors.push(now.invalid("field is immutable"));
    }
}

fn pool(at: &At<'_>, errors: &mut Vec<FieldError>) {
    pool_name(&at.field("name"), errors);
    let (count, generation) = (at.field("resourceSliceCount"), at.field("generation"));
    if count.number().is_none_or(|count| count <= 0) {
        errors.push(count.or_zero("must be greater than zero"));
    }
    if generation.number().is_some_and(|number| number < 0) {
        errors.push(generation.invalid("must be greater than or equal to zero"));
    }
}

/// Which of some fields that say where devices are is set; a switch says so by being on.
fn places(at: &At<'_>, switches: &[&str], errors: &mut Vec<FieldError>) -> Vec<String> {
    let mut set = Vec::new();
    let (node, selector) = (at.field("nodeName"), at.field("nodeSelector"));
    if node.is_set() && !node.is_empty() {
        set.push("`nodeName`".to_owned());
        node.invalid_for(names::dns1123_subdomain(node.text()), errors);
    }
    if selector.is_set() {
        set.push("`nodeSelector`".to_owned());
        node_selector(&selector, errors);
    }
    for name in switches {
        let switch = at.field(name);
        if switch.is_true() {
            set.push(format!("`{name}`"));
        } else if switch.is_set() {
            errors.push(switch.invalid("must be either unset or set to true"));
        }
    }
    set
}

fn nodes(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    const ONE: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let (node, terms) = (spec.field("nodeName"), spec.field("nodeSelector").field("nodeSelectorTerms"));
    if node.is_set() && node.is_empty() {
        errors.push(node.invalid("must be either unset or set to a non-empty string"));
    }
    let set = places(spec, &["allNodes", "perDeviceNodeSelection"], errors);
    if spec.field("nodeSelector").is_set() && terms.items().count() != 1 {
        errors.push(terms.invalid("must have exactly one node selector term"));
    }
    match set.len() {
        0 => errors.push(spec.required(ONE)),
        1 => {}
        _ => {
            let detail = format!("{ONE}, but multiple fields are set");
            errors.push(FieldError::invalid(spec.path.as_str(), format!("{{{}}}", set.join(", ")), detail));
        }
    }
}

fn device(at: &At<'_>, each: bool, errors: &mut Vec<FieldError>) {
    label_name(&at.field("name"), errors);
    let (attributes, capacities) = (at.field("attributes"), at.field("capacity"));
    let count = attributes.entries().count() + capacities.entries().count();
    if count > MOST {
        let detail = format!("the total number of attributes and capacities must not exceed {MOST}");
        errors.push(FieldError::invalid(at.path.as_str(), count, detail));
    }
    for (name, it) in attributes.entries() {
        qualified(&attributes.path, name, errors);
        attribute(&it, errors);
    }
    let shared = at.field("allowMultipleAllocations").is_true();
    for (name, it) in capacities.entries() {
        qualified(&capacities.path, name, errors);
        let policy = it.field("requestPolicy");
        if policy.is_set() && shared {
            capacity::policy(&it, &policy, errors);
        } else if policy.is_set() {
            errors.push(policy.forbidden("allowMultipleAllocations must be true"));
        }
    }
    let taints = at.field("taints");
    if is_bounded(&taints, 16, errors) {
        taints.items().for_each(|it| taint(&it, errors));
    }
    let consumed = at.field("consumesCounters");
    if is_bounded(&consumed, 2, errors) {
        for it in consumed.items() {
            counter_name(&it.field("counterSet"), errors);
            counters(&it.field("counters"), errors);
        }
        unique(&consumed, |it| it.field("counterSet").text().to_owned(), errors);
    }
    place(at, each, errors);
    binding_conditions(at, errors);
}

fn place(at: &At<'_>, each: bool, errors: &mut Vec<FieldError>) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    const NONE: &str = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    if !each {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|name| at.field(name).is_set()) {
            errors.push(FieldError::invalid(at.path.as_str(), serde_json::Value::Null, NONE));
        }
        return;
    }
    let node = at.field("nodeName");
    if node.is_set() && node.is_empty() {
        errors.push(node.invalid("must not be empty"));
    }
    let set = places(at, &["allNodes"], errors);
    match set.len() {
        0 => errors.push(at.required(ONE)),
        1 => {}
        _ => errors.push(FieldError::invalid(at.path.as_str(), format!("{{{}}}", set.join(", ")), ONE)),
    }
}

fn counter_name(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if at.is_empty() {
        errors.push(at.required(""));
    } else {
        at.invalid_for(names::dns1123_label(at.text()), errors);
    }
}

fn counters(map: &At<'_>, errors: &mut Vec<FieldError>) {
    let count = map.entries().count();
    if count == 0 {
        errors.push(map.required(""));
    } else if count > MOST {
        errors.push(too_many(map, count, MOST));
        return;
    }
    for (name, _) in map.entries() {
        let faults = names::dns1123_label(name).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(map.path.as_str(), name, fault)));
    }
}

fn attribute(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let set: Vec<At<'_>> = VALUES.map(|name| at.field(name)).into_iter().filter(At::is_set).collect();
    for value in &set {
        if value.value.is_array() && value.is_empty() {
            errors.push(value.invalid("must not be empty if specified"));
        }
    }
    let texts = |one: &str, many: &str| {
        let all = at.field(many).items().collect::<Vec<_>>();
        [at.field(one)].into_iter().filter(At::is_set).chain(all).collect::<Vec<_>>()
    };
    for value in texts("version", "versions") {
        if !is_version(value.text()) {
            errors.push(value.invalid("must be a string compatible with semver.org spec 2.0.0"));
        }
    }
    for value in texts("string", "strings").into_iter().chain(texts("version", "versions")) {
        if value.text().len() > MAX_TEXT {
            errors.push(value.too_long(MAX_TEXT));
        }
    }
    if set.len() != 1 {
        let value = if set.is_empty() { "".into() } else { at.value.clone() };
        errors.push(FieldError::invalid(at.path.as_str(), value, "exactly one value must be specified"));
    }
}

/// Whether a text is a semantic version.
fn is_version(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (numbers, pre) = text.split_once('-').map_or((text, None), |(text, pre)| (text, Some(pre)));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let number = |part: &str| digits(part) && (part == "0" || !part.starts_with('0'));
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let numbers: Vec<&str> = numbers.split('.').collect();
    numbers.len() == 3
        && numbers.into_iter().all(number)
        && pre.is_none_or(|pre| pre.split('.').all(|part| word(part) && (!digits(part) || number(part))))
        && build.is_none_or(|build| build.split('.').all(word))
}

#[cfg(test)]
mod tests {
    use super::is_version;

    #[test]
    fn versions_are_semantic_ones() {
        for good in ["0.0.1", "1.2.3-alpha.1", "1.0.0+build.007", "1.0.0-0a+5"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["", "1", "1.2", "v1.2.3", "01.2.3", "1.2.3-01", "1.2.3-", "1.2.3+", "1.2.3.4"] {
            assert!(!is_version(bad), "{bad}");
        }
    }
}
