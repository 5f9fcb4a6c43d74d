//! What makes pods: Deployments, ReplicaSets, DaemonSets, StatefulSets, Jobs, CronJobs; and what guards them.

use serde_json::Value;

use super::FieldError;
use super::at::At;
use super::pod::template;
use super::selector::label_selector;
use crate::object::Object;
use crate::selector::LabelSelector;

pub(super) mod job;
pub(super) mod update;

const ALWAYS: [&str; 1] = ["Always"];

pub(super) fn replica_set(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    spec.field("replicas").not_negative(errors);
    spec.field("minReadySeconds").not_negative(errors);
    selected(&spec, "deployment", errors);
    lasting(&spec.field("template"), "ReplicaSet", errors);
}

pub(super) fn daemon_set(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    selected(&spec, "daemonset", errors);
    lasting(&spec.field("template"), "DaemonSet", errors);
    spec.field("minReadySeconds").not_negative(errors);
    spec.field("revisionHistoryLimit").not_negative(errors);
    let strategy = spec.field("updateStrategy");
    strategy.field("type").one_of(&["RollingUpdate", "OnDelete"], errors);
    let rolling = strategy.field("rollingUpdate");
    if strategy.field("type").text() == "RollingUpdate" {
        one_of_both(&rolling, errors);
    }
}

pub(super) fn stateful_set(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    spec.field("replicas").not_negative(errors);
    selected(&spec, "statefulset", errors);
    lasting(&spec.field("template"), "StatefulSet", errors);
    spec.field("podManagementPolicy").one_of(&["OrderedReady", "Parallel"], errors);
    let strategy = spec.field("updateStrategy");
    strategy.field("type").one_of(&["OnDelete", "RollingUpdate"], errors);
    let rolling = strategy.field("rollingUpdate");
    if strategy.field("type").text() == "OnDelete" && rolling.is_set() {
        let detail = format!("only allowed for updateStrategy '{}'", "RollingUpdate");
        errors.push(rolling.invalid(detail));
    }
    rolling.field("partition").not_negative(errors);
    if share(&rolling.field("maxUnavailable"), errors) == Some(0) {
        errors.push(rolling.field("maxUnavailable").invalid("cannot be 0"));
    }
    for field in ["minReadySeconds", "revisionHistoryLimit"] {
        spec.field(field).not_negative(errors);
    }
    spec.field("ordinals").field("start").not_negative(errors);
    let retention = spec.field("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"].map(|field| retention.field(field)) {
        if retention.is_set() {
            field.one_of(&["Delete", "Retain"], errors);
        }
    }
}

/// A template of pods that are meant to last.
fn lasting(at: &At<'_>, owner: &str, errors: &mut Vec<FieldError>) {
    template(at, &ALWAYS, errors);
    let deadline = at.field("spec").field("activeDeadlineSeconds");
    if deadline.is_set() {
        errors.push(deadline.forbidden(format!("activeDeadlineSeconds in {owner} is not Supported")));
    }
}

/// A selector that selects something, and the template's labels among it.
fn selected(spec: &At<'_>, owner: &str, errors: &mut Vec<FieldError>) {
    let selector = spec.field("selector");
    let labels = spec.field("template").field("metadata").field("labels");
    let differs = FieldError::invalid(
        labels.path.as_str(),
        labels.value.clone(),
        "`selector` does not match template `labels`",
    );
    if !selector.is_set() {
        errors.extend([selector.required(""), differs]);
        return;
    }
    let before = errors.len();
    label_selector(&selector, errors);
    if selector.field("matchLabels").is_empty() && selector.field("matchExpressions").is_empty() {
        errors.push(selector.invalid(format!("empty selector is invalid for {owner}")));
    }
    if errors.len() > before {
        return;
    }
    if let Ok(parsed) = LabelSelector::from_value(selector.value)
        && !parsed.matches(labels.value.as_object())
    {
        errors.push(differs);
    }
}

pub(super) fn deployment(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = &At::of(object, "spec");
    spec.field("replicas").not_negative(errors);
    selected(spec, "deployment", errors);
    lasting(&spec.field("template"), "ReplicaSet", errors);
    let strategy = spec.field("strategy");
    let (kind, update) = (strategy.field("type"), strategy.field("rollingUpdate"));
    match kind.text() {
        "Recreate" if update.is_set() => {
            errors.push(update.forbidden("may not be specified when strategy `type` is 'Recreate'"))
        }
        "RollingUpdate" if !update.is_set() => {
            errors.push(update.required("this should be defaulted and never be nil"))
        }
        _ => kind.one_of(&["Recreate", "RollingUpdate"], errors),
    }
    rolling(&update, errors);
    for field in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        spec.field(field).not_negative(errors);
    }
    let (deadline, ready) = (spec.field("progressDeadlineSeconds"), spec.field("minReadySeconds"));
    if deadline.number().is_some_and(|seconds| seconds <= ready.number().unwrap_or(0)) {
        errors.push(deadline.invalid("must be greater than minReadySeconds"));
    }
}

/// A number or a percentage, which is not negative.
fn share(at: &At<'_>, errors: &mut Vec<FieldError>) -> Option<i64> {
    match at.value {
        Value::Null => None,
        Value::String(text) => {
            let number = text.strip_suffix('%').and_then(|text| text.parse::<i64>().ok());
            if number.is_none_or(|number| number < 0) {
                errors.push(at.invalid(
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                ));
            }
            number
        }
        _ => {
            at.not_negative(errors);
            at.number()
        }
    }
}

/// Of each node's pod either the old one goes first, or the new one comes first.
fn one_of_both(update: &At<'_>, errors: &mut Vec<FieldError>) {
    if !update.is_set() {
        errors.push(update.required(""));
        return;
    }
    let fields = [update.field("maxUnavailable"), update.field("maxSurge")];
    let [lost, more] = [0, 1].map(|at: usize| {
        let found = share(&fields[at], errors);
        if fields[at].value.is_string() && found.is_some_and(|share| share > 100) {
            errors.push(fields[at].invalid("must not be greater than 100%"));
        }
        found.unwrap_or(0) != 0
    });
    match (lost, more) {
        (true, true) => {
            errors.push(fields[1].invalid("may not be set when maxUnavailable is non-zero"));
        }
        (false, false) => errors.push(fields[0].required("cannot be 0 when maxSurge is 0")),
        (true, false) | (false, true) => {}
    }
}

fn rolling(update: &At<'_>, errors: &mut Vec<FieldError>) {
    if !update.is_set() {
        return;
    }
    let (unavailable, surge) = (update.field("maxUnavailable"), update.field("maxSurge"));
    let (lost, more) = (share(&unavailable, errors), share(&surge, errors));
    if lost == Some(0) && more == Some(0) {
        errors.push(unavailable.invalid("may not be 0 when `maxSurge` is 0"));
    }
    if lost.is_some_and(|lost| unavailable.value.is_string() && lost > 100) {
        errors.push(unavailable.invalid("must not be greater than 100%"));
    }
}

pub(super) fn replication_controller(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    spec.field("minReadySeconds").not_negative(errors);
    spec.field("replicas").not_negative(errors);
    let (selector, inside) = (spec.field("selector"), spec.field("template"));
    if selector.is_empty() {
        errors.push(selector.required(""));
    }
    if !inside.is_set() {
        errors.push(inside.required(""));
        return;
    }
    let labels = inside.field("metadata").field("labels");
    if selector.entries().any(|(key, value)| labels.value.get(key) != Some(value.value)) {
        errors.push(labels.invalid("`selector` does not match template `labels`"));
    }
    lasting(&inside, "ReplicationController", errors);
}

pub(super) fn pod_template(object: &Object, errors: &mut Vec<FieldError>) {
    template(&At::of(object, "template"), &["Always", "OnFailure", "Never"], errors);
}

pub(super) fn controller_revision(object: &Object, errors: &mut Vec<FieldError>) {
    At::of(object, "revision").not_negative(errors);
    let data = At::of(object, "data");
    if !data.is_set() {
        errors.push(data.required("data is mandatory"));
    } else if !data.value.is_object() {
        errors.push(data.invalid("data must be a valid JSON object"));
    }
}

pub(super) fn disruption_budget(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    let (least, most) = (spec.field("minAvailable"), spec.field("maxUnavailable"));
    if least.is_set() && most.is_set() {
        errors.push(spec.invalid("minAvailable and maxUnavailable cannot be both set"));
    }
    for field in [&least, &most] {
        if share(field, errors).is_some_and(|number| field.value.is_string() && number > 100) {
            errors.push(field.invalid("must not be greater than 100%"));
        }
    }
    let policy = spec.field("unhealthyPodEvictionPolicy");
    if policy.is_set() {
        policy.one_of(&["AlwaysAllow", "IfHealthyBudget"], errors);
    }
    label_selector(&spec.field("selector"), errors);
}
