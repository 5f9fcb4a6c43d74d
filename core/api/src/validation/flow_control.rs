//! FlowSchemas and PriorityLevelConfigurations.

use serde_json::Value;

use super::FieldError;
use super::at::At;
use crate::names;
use crate::object::Object;

const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const MOST_QUEUES: i64 = 10_000_000;
/// The bits of a hash from which a flow's queues are dealt.
const HASH_BITS: u32 = 60;
const LAST_PRECEDENCE: i64 = 10_000;

fn fixed(kind: &str, object: &Object, errors: &mut Vec<FieldError>) {
    let name = object.name().unwrap_or_default();
    let Some(wanted) = crate::flow_control::mandatory(kind, name) else { return };
    let spec = At::of(object, "spec");
    // What an exempt level lends may be changed.
    if spec.value != wanted && !(kind == "PriorityLevelConfiguration" && name == "exempt") {
        errors.push(spec.invalid(format!("spec of '{name}' must equal the fixed value")));
    }
}

pub(super) fn schema(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    let precedence = spec.field("matchingPrecedence");
    match precedence.number().unwrap_or(0) {
        ..=0 => errors.push(precedence.invalid("must be a positive value")),
        1 if object.name() != Some("exempt") => {
            errors.push(precedence.invalid("only the schema named 'exempt' may have matchingPrecedence 1"));
        }
        1..=LAST_PRECEDENCE => {}
        _ => errors.push(precedence.invalid(format!("must not be greater than {LAST_PRECEDENCE}"))),
    }
    let method = spec.field("distinguisherMethod");
    let known = ["ByNamespace", "ByUser"];
    if method.is_set() && !known.contains(&method.field("type").text()) {
        let path = method.field("type").path;
        errors.push(FieldError::not_supported(path, method.value.clone(), &known));
    }
    let level = spec.field("priorityLevelConfiguration").field("name");
    if level.is_empty() {
        errors.push(level.required("must reference a priority level"));
    } else {
        level.invalid_for(names::dns1123_subdomain(level.text()), errors);
    }
    for rule in spec.field("rules").items() {
        self::rule(&rule, errors);
    }
    fixed("FlowSchema", object, errors);
    conditions(object, errors);
}

fn rule(rule: &At<'_>, errors: &mut Vec<FieldError>) {
    let (subjects, resources, paths) =
        (rule.field("subjects"), rule.field("resourceRules"), rule.field("nonResourceRules"));
    if subjects.is_empty() {
        errors.push(subjects.required("subjects must contain at least one value"));
    }
    subjects.items().for_each(|item| subject(&item, errors));
    if resources.is_empty() && paths.is_empty() {
        errors.push(rule.required("at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    for item in resources.items() {
        verbs(&item, errors);
        list(
            &item.field("apiGroups"),
            "resource rules must supply at least one api group",
            "api groups",
            errors,
        );
        list(
            &item.field("resources"),
            "resource rules must supply at least one resource",
            "resources",
            errors,
        );
        let namespaces = item.field("namespaces");
        if !namespaces.is_empty() {
            let intro = "each member of this list must be '*' or a DNS-1123 label; ";
            if !list(&namespaces, "", "namespaces", errors) {
                for namespace in namespaces.items() {
                    let faults = names::dns1123_label(namespace.text());
                    errors
                        .extend(faults.into_iter().map(|fault| namespace.invalid(format!("{intro}{fault}"))));
                }
            }
        } else if !item.field("clusterScope").is_true() {
            let text = "resource rules that are not cluster scoped must supply at least one namespace";
            errors.push(namespaces.required(text));
        }
    }
    for item in paths.items() {
        verbs(&item, errors);
        let urls = item.field("nonResourceURLs");
        if !list(&urls, "nonResourceURLs must contain at least one value", "non-resource URLs", errors) {
            urls.items().for_each(|url| path(&url, errors));
        }
    }
}

/// A list that is not empty, in which `*` stands alone. Tells whether it is there.
fn list(list: &At<'_>, missing: &str, what: &str, errors: &mut Vec<FieldError>) -> bool {
    if list.is_empty() {
        errors.push(list.required(missing));
    }
    let (count, all) =
        list.items().fold((0, false), |(count, all), item| (count + 1, all || item.text() == "*"));
    if all && count > 1 {
        errors.push(list.invalid(format!("if '*' is present, must not specify other {what}")));
    }
    all
}

fn verbs(rule: &At<'_>, errors: &mut Vec<FieldError>) {
    let verbs = rule.field("verbs");
    if !list(&verbs, "verbs must contain at least one value", "verbs", errors)
        && verbs.items().any(|verb| !VERBS.contains(&verb.text()))
    {
        errors.push(FieldError::not_supported(verbs.path.as_str(), verbs.value.clone(), &VERBS));
    }
}

fn path(url: &At<'_>, errors: &mut Vec<FieldError>) {
    let text = url.text();
    let fault = match text {
        "/" => return,
        "" => "must not be empty",
        _ if !text.starts_with('/') => "must start with slash",
        _ if text.contains(' ') => "must not contain white-space",
        _ if text.contains("//") => "must not contain double slash",
        _ if text.matches('*').count() > 1 || (text.contains('*') && !text.ends_with("/*")) => {
            "wildcard can only do suffix matching"
        }
        _ => return,
    };
    errors.push(url.invalid(fault));
}

fn subject(subject: &At<'_>, errors: &mut Vec<FieldError>) {
    let kinds = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = subject.field("kind");
    let Some((own, field)) = kinds.into_iter().find(|(own, _)| *own == kind.text()) else {
        let known = ["Group", "ServiceAccount", "User"];
        errors.push(FieldError::not_supported(kind.path.as_str(), kind.value.clone(), &known));
        return;
    };
    let named = subject.field(field);
    if named.is_set() {
        let name = named.field("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else if own == "ServiceAccount" && name.text() != "*" {
            name.invalid_for(names::dns1123_subdomain(name.text()), errors);
        }
        if own == "ServiceAccount" {
            let namespace = named.field("namespace");
            if namespace.is_empty() {
                errors.push(namespace.required("must specify namespace for service account"));
            } else {
                namespace.invalid_for(names::dns1123_label(namespace.text()), errors);
            }
        }
    } else {
        errors.push(named.required(format!("{field} is required when subject kind is '{own}'")));
    }
    for (other, field) in kinds.into_iter().filter(|(other, _)| *other != own) {
        let at = subject.field(field);
        if at.is_set() {
            errors.push(at.forbidden(format!("{field} is forbidden when subject kind is not '{other}'")));
        }
    }
}

pub(super) fn level(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    let (kind, limited, exempt) = (spec.field("type"), spec.field("limited"), spec.field("exempt"));
    if (object.name() == Some("exempt")) != (kind.text() == "Exempt") {
        errors.push(kind.invalid("type must be 'Exempt' if and only if name is 'exempt'"));
    }
    match kind.text() {
        "Exempt" => {
            if limited.is_set() {
                errors.push(limited.forbidden("must be nil if the type is not Limited"));
            }
            shares(&exempt, 0, errors);
        }
        "Limited" => {
            if exempt.is_set() {
                errors.push(exempt.forbidden("must be nil if the type is Limited"));
            }
            if limited.is_set() {
                self::limited(&limited, errors);
            } else {
                errors.push(limited.required("must not be empty when type is Limited"));
            }
        }
        _ => {
            let known = ["Exempt", "Limited"];
            errors.push(FieldError::not_supported(kind.path.as_str(), kind.value.clone(), &known));
        }
    }
    fixed("PriorityLevelConfiguration", object, errors);
    conditions(object, errors);
}

fn shares(of: &At<'_>, least: i64, errors: &mut Vec<FieldError>) {
    let (shares, lendable) = (of.field("nominalConcurrencyShares"), of.field("lendablePercent"));
    if shares.number().is_some_and(|number| number < least) {
        let text = if least > 0 { "must be positive" } else { "must be a non-negative integer" };
        errors.push(shares.invalid(text));
    }
    if lendable.number().is_some_and(|number| !(0..=100).contains(&number)) {
        errors.push(lendable.invalid("must be between 0 and 100, inclusive"));
    }
}

fn limited(limited: &At<'_>, errors: &mut Vec<FieldError>) {
    // Nought is a number of shares too: such a level lives on what it borrows.
    shares(limited, 0, errors);
    let borrowing = limited.field("borrowingLimitPercent");
    if borrowing.number().is_some_and(|number| number < 0) {
        errors.push(borrowing.invalid("if specified, must be a non-negative integer"));
    }
    let response = limited.field("limitResponse");
    let (kind, queuing) = (response.field("type"), response.field("queuing"));
    match (kind.text(), queuing.is_set()) {
        ("Reject", true) => {
            errors.push(queuing.forbidden("must be nil if limited.limitResponse.type is not Limited"));
        }
        ("Reject", false) => {}
        ("Queue", true) => self::queuing(&queuing, errors),
        ("Queue", false) => {
            errors.push(queuing.required("must not be empty if limited.limitResponse.type is Limited"));
        }
        _ => {
            let known = ["Queue", "Reject"];
            errors.push(FieldError::not_supported(kind.path.as_str(), kind.value.clone(), &known));
        }
    }
}

fn queuing(queuing: &At<'_>, errors: &mut Vec<FieldError>) {
    let (queues, hand, length) =
        (queuing.field("queues"), queuing.field("handSize"), queuing.field("queueLengthLimit"));
    let number = |at: &At<'_>| at.number().unwrap_or(0);
    for at in [&length, &queues, &hand].into_iter().filter(|at| number(at) <= 0) {
        errors.push(at.invalid("must be positive"));
    }
    let (deck, size) = (number(&queues), number(&hand));
    if deck > MOST_QUEUES {
        errors.push(queues.invalid(format!("must not be greater than {MOST_QUEUES}")));
    }
    if size > deck && deck > 0 {
        errors.push(hand.invalid(format!("should not be greater than queues ({deck})")));
    } else if size > 0 && deck > 0 && entropy(deck, size) > HASH_BITS {
        errors.push(hand.invalid(format!(
            "required entropy bits of deckSize {deck} and handSize {size} should not be greater than {HASH_BITS}"
        )));
    }
}

/// The bits of a hash that choose an ordered hand from a deck.
fn entropy(deck: i64, size: i64) -> u32 {
    let mut bits = 0.0;
    for dealt in 0..size {
        #[allow(clippy::cast_precision_loss)]
        let left = (deck - dealt) as f64;
        bits += left.log2();
        if bits > f64::from(HASH_BITS) {
            return HASH_BITS + 1;
        }
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = bits.ceil() as u32;
    whole
}

/// The rules of a status, of either kind: each condition has a type of its own.
fn conditions(object: &Object, errors: &mut Vec<FieldError>) {
    let mut seen: Vec<&Value> = Vec::new();
    for condition in At::of(object, "status").field("conditions").items() {
        let kind = condition.field("type");
        if kind.is_empty() {
            errors.push(kind.required("must not be empty"));
        } else if seen.contains(&kind.value) {
            errors.push(kind.duplicate());
        }
        seen.push(kind.value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(of: fn(&Object, &mut Vec<FieldError>), spec: Value) -> Vec<String> {
        let object = Object::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap();
        let mut errors = Vec::new();
        of(&object, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_level_has_a_type_and_queues_that_can_be_dealt() {
        let limited = |response: Value| json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "limitResponse": response}});
        let queue = |queues: i64, hand: i64, length: i64| {
            limited(
                json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}}),
            )
        };
        assert!(faults(level, queue(64, 6, 50)).is_empty());
        assert_eq!(
            faults(level, queue(512, 8, 50)),
            [
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60"
            ]
        );
        assert!(faults(level, queue(4, 6, 1))[0].ends_with("should not be greater than queues (4)"));
        assert!(faults(level, json!({"type": "Exempt"}))[0].ends_with("if and only if name is 'exempt'"));
        assert_eq!(faults(level, json!({"type": "Limited"})).len(), 1);
    }

    #[test]
    fn a_schema_names_a_level_and_whom_it_is_about() {
        let good = json!({"subjects": [{"kind": "User", "user": {"name": "ann"}}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/a/*"]}]});
        let spec = |rule: &Value| json!({"matchingPrecedence": 5, "priorityLevelConfiguration": {"name": "l"}, "rules": [rule]});
        assert!(faults(schema, spec(&good)).is_empty());
        let bad = json!({"subjects": [{"kind": "User", "group": {"name": "g"}}],
            "nonResourceRules": [{"verbs": ["*", "get"], "nonResourceURLs": ["a"]}]});
        assert_eq!(faults(schema, spec(&bad)).len(), 4);
        let first = json!({"matchingPrecedence": 1, "priorityLevelConfiguration": {"name": "l"}});
        assert!(faults(schema, first)[0].contains("only the schema named 'exempt'"));
    }
}
