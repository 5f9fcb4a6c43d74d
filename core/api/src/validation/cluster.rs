//! Quotas, limits, classes of priority and of runtimes, leases, nodes.

use std::collections::HashSet;

use serde_json::Value;

use super::FieldError;
use super::at::At;
use super::pod::resources::{amount, quantity};
use super::pod::scheduling::tolerations;
use super::selector::labels;
use crate::names;
use crate::object::Object;
use crate::quantity::Quantity;

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
const STANDARD: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "storage"];
const OBJECTS: [&str; 9] = [
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Whether a quota knows a resource without a group.
fn is_quota_name(name: &str) -> bool {
    let inner = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    OBJECTS.contains(&name) || STANDARD.contains(&inner) || inner.starts_with("hugepages-")
}

fn is_of_pods(name: &str) -> bool {
    let inner = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    name == "pods"
        || matches!(inner, "cpu" | "memory" | "ephemeral-storage")
        || inner.starts_with("hugepages-")
}

/// Amounts by the names that quotas know.
pub(super) fn quota_amounts(list: &At<'_>, errors: &mut Vec<FieldError>) {
    for (name, value) in list.entries() {
        let faults = names::qualified_name(name);
        if !faults.is_empty() {
            let faults = faults.into_iter();
            errors.extend(faults.map(|fault| FieldError::invalid(value.path.as_str(), name, fault)));
        } else if !name.contains('/') && !is_quota_name(name) {
            let detail = "must be a standard resource for quota";
            errors.push(FieldError::invalid(
                value.path.as_str(),
                name,
                "must be a standard resource type or fully qualified",
            ));
            errors.push(FieldError::invalid(value.path.as_str(), name, detail));
        }
        amount(&value, name, errors);
    }
}

pub(super) fn quota(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    let hard = spec.field("hard");
    quota_amounts(&hard, errors);
    let scopes = spec.field("scopes");
    let mut all: Vec<&str> = Vec::new();
    for scope in scopes.items() {
        scope_of(&scopes, scope.text(), &hard, errors);
        all.push(scope.text());
    }
    conflicts(&scopes, &scopes, &all, errors);
    let selector = spec.field("scopeSelector");
    let expressions =
        At { path: format!("{}.matchExpressions", selector.path), ..selector.field("matchExpressions") };
    let mut all = Vec::new();
    for expression in expressions.items() {
        requirement(&expressions, &expression, &hard, errors);
        all.push(expression.field("scopeName").text());
    }
    conflicts(&expressions, &scopes, &all, errors);
}

fn scope_of(at: &At<'_>, scope: &str, hard: &At<'_>, errors: &mut Vec<FieldError>) {
    if !SCOPES.contains(&scope) {
        errors.push(at.invalid("unsupported scope"));
    }
    let fits = |name: &str| match scope {
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
        _ => is_of_pods(name),
    };
    for (name, _) in hard.entries().filter(|(name, _)| is_quota_name(name) && !fits(name)) {
        let _ = name;
        errors.push(at.invalid("unsupported scope applied to resource"));
    }
}

fn conflicts(at: &At<'_>, shown: &At<'_>, scopes: &[&str], errors: &mut Vec<FieldError>) {
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            errors.push(FieldError::invalid(at.path.as_str(), shown.value.clone(), "conflicting scopes"));
        }
    }
}

fn requirement(list: &At<'_>, at: &At<'_>, hard: &At<'_>, errors: &mut Vec<FieldError>) {
    let (scope, operator, values) = (at.field("scopeName"), at.field("operator"), at.field("values"));
    let named = At { path: format!("{}.scopeName", list.path), value: scope.value };
    scope_of(&named, scope.text(), hard, errors);
    let place = format!("{}.operator", list.path);
    if !matches!(scope.text(), "PriorityClass" | "VolumeAttributesClass") && operator.text() != "Exists" {
        errors.push(FieldError::invalid(
            place.as_str(),
            operator.text(),
            "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
        ));
    }
    let place_of_values = format!("{}.values", list.path);
    match operator.text() {
        "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
            place_of_values,
            "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::invalid(
            place_of_values,
            values.value.clone(),
            "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.push(FieldError::invalid(place, other, "not a valid selector operator")),
    }
}

/// The scopes of a quota stay.
pub(super) fn quota_change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let scopes = |object: &Object| -> Vec<String> {
        let list = At::of(object, "spec").field("scopes");
        let mut texts: Vec<String> = list.items().map(|it| it.text().to_owned()).collect();
        texts.sort_unstable();
        texts
    };
    if scopes(new) != scopes(old) {
        errors.push(At::of(new, "spec").field("scopes").invalid("field is immutable"));
    }
}

pub(super) fn limit_range(object: &Object, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for limit in At::of(object, "spec").field("limits").items() {
        let kind = limit.field("type");
        let known = ["Container", "PersistentVolumeClaim", "Pod"];
        if !known.contains(&kind.text()) && !kind.text().contains('/') {
            let detail = "must be a standard limit type or fully qualified";
            errors.push(FieldError::invalid(kind.path.as_str(), kind.text(), detail));
        }
        if !seen.insert(kind.text()) {
            errors.push(FieldError::duplicate(kind.path.as_str(), kind.text()));
        }
        bounds(&limit, kind.text(), errors);
    }
}

fn bounds(limit: &At<'_>, kind: &str, errors: &mut Vec<FieldError>) {
    let field = |name: &str| limit.field(name);
    if kind == "Pod" {
        for (name, text) in [
            ("default", "may not be specified when `type` is 'Pod'"),
            ("defaultRequest", "may not be specified when `type` is 'Pod'"),
        ] {
            if !field(name).is_empty() {
                errors.push(field(name).forbidden(text));
            }
        }
    }
    if kind == "PersistentVolumeClaim" {
        let (min, max) = (field("min"), field("max"));
        if min.value.get("storage").is_none() && max.value.get("storage").is_none() {
            errors.push(
                limit.required(
                    "either minimum or maximum storage value is required, but neither was provided",
                ),
            );
        }
    }
    let mut names: Vec<&str> = Vec::new();
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"].map(field) {
        for (name, value) in list.entries() {
            if !names.contains(&name) {
                names.push(name);
            }
            if list.path.ends_with("Ratio") {
                quantity(&value, errors);
            } else {
                amount(&value, name, errors);
            }
        }
    }
    let of = |list: &str, name: &str| {
        let text = field(list).value.get(name)?.as_str()?.to_owned();
        Quantity::parse(&text).ok().map(|quantity| (quantity, text))
    };
    for name in names {
        let order = [
            ("min", "min", "max", "max"),
            ("defaultRequest", "min", "defaultRequest", "default request"),
            ("defaultRequest", "default request", "max", "max"),
            ("defaultRequest", "default request", "default", "default"),
            ("default", "min", "default", "default"),
            ("default", "default", "max", "max"),
        ];
        for (shown, low_name, high, high_name) in order {
            let low = match low_name {
                "default request" => "defaultRequest",
                other => other,
            };
            let (Some((low_value, low_text)), Some((high_value, high_text))) =
                (of(low, name), of(high, name))
            else {
                continue;
            };
            if low_value > high_value {
                let path = format!("{}.{shown}[{name}]", limit.path);
                let (value, detail) = match shown {
                    "min" => {
                        (&low_text, format!("min value {low_text} is greater than max value {high_text}"))
                    }
                    _ if low_name == "min" => (
                        &high_text,
                        format!("min value {low_text} is greater than {high_name} value {high_text}"),
                    ),
                    _ => (
                        &low_text,
                        format!("{low_name} value {low_text} is greater than {high_name} value {high_text}"),
                    ),
                };
                errors.push(FieldError::invalid(path, value.as_str(), detail));
            }
        }
        if let Some((ratio, text)) = of("maxLimitRequestRatio", name)
            && ratio.milli_value() < 1000
        {
            let path = format!("{}.maxLimitRequestRatio[{name}]", limit.path);
            errors.push(FieldError::invalid(path, text.as_str(), format!("ratio {text} is less than 1")));
        }
    }
}

pub(super) fn priority_class(object: &Object, errors: &mut Vec<FieldError>) {
    const HIGHEST: i64 = 1_000_000_000;
    let name = object.name().unwrap_or_default();
    let value = At::of(object, "value");
    let number = value.number().unwrap_or(0);
    if name.starts_with("system-") {
        let known = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
        let error = match known.iter().find(|(known, _)| *known == name) {
            None => Some(format!("{name} is not a known system priority class")),
            Some((_, must)) if *must != number => {
                Some(format!("value of {name} PriorityClass must be {must}"))
            }
            Some(_) if At::of(object, "globalDefault").is_true() => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        if let Some(error) = error {
            let detail = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {error}"
            );
            errors.push(FieldError::forbidden("metadata.name", detail));
        }
    } else if number > HIGHEST {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        errors.push(FieldError::forbidden("value", detail));
    }
    let policy = At::of(object, "preemptionPolicy");
    if policy.is_set() {
        policy.one_of(&["PreemptLowerPriority", "Never"], errors);
    }
}

/// The value of a class stays.
pub(super) fn priority_class_change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let value = |object: &Object| At::of(object, "value").number().unwrap_or(0);
    if value(new) != value(old) {
        errors.push(FieldError::forbidden("value", "may not be changed in an update."));
    }
    let policy = At::of(new, "preemptionPolicy");
    if policy.value != At::of(old, "preemptionPolicy").value {
        errors.push(policy.invalid("field is immutable"));
    }
}

pub(super) fn runtime_class(object: &Object, errors: &mut Vec<FieldError>) {
    let handler = At::of(object, "handler");
    handler.or_empty_for(names::dns1123_label(handler.text()), errors);
    super::pod::resources::overhead(
        &At { path: "overhead.podFixed".into(), ..At::of(object, "overhead").field("podFixed") },
        errors,
    );
    let scheduling = At::of(object, "scheduling");
    labels(&scheduling.field("nodeSelector"), errors);
    tolerations(&scheduling.field("tolerations"), errors);
    let list = scheduling.field("tolerations");
    for (place, one) in list.items().enumerate() {
        if list.items().take(place).any(|earlier| earlier.value == one.value) {
            errors.push(one.duplicate());
        }
    }
}

pub(super) fn lease(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    let seconds = spec.field("leaseDurationSeconds");
    if seconds.number().is_some_and(|seconds| seconds <= 0) {
        errors.push(seconds.invalid("must be greater than 0"));
    }
    spec.field("leaseTransitions").not_negative(errors);
    let strategy = spec.field("strategy");
    if strategy.is_set() {
        if strategy.text() != "OldestEmulationVersion" && !strategy.text().contains('/') {
            errors.push(FieldError::not_supported(
                strategy.path.as_str(),
                strategy.value.clone(),
                &["OldestEmulationVersion"],
            ));
        }
    } else if spec.field("preferredHolder").is_set() {
        let detail = "may only be specified if `strategy` is defined";
        errors.push(spec.field("preferredHolder").forbidden(detail));
    }
}

pub(super) fn node(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    let mut seen = HashSet::new();
    for taint in spec.field("taints").items() {
        let (key, value, effect) = (taint.field("key"), taint.field("value"), taint.field("effect"));
        key.or_empty_for(names::qualified_name(key.text()), errors);
        let faults = names::label_value(value.text());
        if !faults.is_empty() {
            errors.push(value.invalid(faults.join(";")));
        }
        effect.one_of(&["NoSchedule", "PreferNoSchedule", "NoExecute"], errors);
        if !seen.insert((key.text(), effect.text())) {
            let mut duplicate = taint.duplicate();
            duplicate.detail = "taints must be unique by key and effect pair".into();
            errors.push(duplicate);
        }
    }
    let ranges = spec.field("podCIDRs");
    let mut sixes = 0;
    for range in ranges.items() {
        match super::network::range(range.text()) {
            None => errors.push(range.invalid(super::network::CIDR)),
            Some((address, _)) => sixes += usize::from(address.is_ipv6()),
        }
    }
    let count = ranges.items().count();
    if count > 2 || (count == 2 && sixes != 1) {
        errors.push(ranges.invalid("may specify no more than one CIDR for each IP family"));
    }
}

/// A node keeps who provides it and the addresses of its pods.
pub(super) fn node_change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let (spec, before) = (At::of(new, "spec"), At::of(old, "spec"));
    let (provider, was) = (spec.field("providerID"), before.field("providerID"));
    if !was.is_empty() && provider.value != was.value {
        errors.push(FieldError::forbidden(
            provider.path,
            "node updates may not change providerID except from \"\" to valid",
        ));
    }
    let (ranges, was) = (spec.field("podCIDRs"), before.field("podCIDRs"));
    if !was.is_empty() && ranges.value != was.value {
        errors.push(FieldError::forbidden(
            ranges.path,
            "node updates may not change podCIDR except from \"\" to valid",
        ));
    }
}

/// A namespace may not name finalizers that nobody knows.
pub(super) fn namespace(object: &Object, errors: &mut Vec<FieldError>) {
    for finalizer in At::of(object, "spec").field("finalizers").items() {
        let text = finalizer.text();
        let path = "spec.finalizers";
        let faults = names::qualified_name(text).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(path, text, fault)));
        if !text.contains('/') && !matches!(text, "kubernetes" | "orphan" | "foregroundDeletion") {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(path, Value::from(text), detail));
        }
    }
}
