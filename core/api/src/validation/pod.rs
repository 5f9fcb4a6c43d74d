//! Pods and pod templates.

use std::collections::HashSet;

use super::FieldError;
use super::at::At;
use super::selector::{label_selector, labels};
use crate::names;
use crate::object::Object;

pub(super) mod container;
mod env;
pub(super) mod ephemeral;
mod probe;
pub(super) mod update;
mod volume;

/// What the rules of a container need to know of its pod.
struct Pod<'a> {
    volumes: HashSet<&'a str>,
    host_network: bool,
}

/// A pod.
pub(super) fn pod(object: &Object, errors: &mut Vec<FieldError>) {
    spec(&At::of(object, "spec"), errors);
}

/// A template, with the restart policies that its owner allows.
pub(super) fn template(at: &At<'_>, policies: &[&str], errors: &mut Vec<FieldError>) {
    labels(&at.field("metadata").field("labels"), errors);
    let inside = at.field("spec");
    spec(&inside, errors);
    let policy = inside.field("restartPolicy");
    if ["Always", "Never", "OnFailure"].contains(&policy.text()) && !policies.contains(&policy.text()) {
        errors.push(FieldError::not_supported(policy.path.as_str(), policy.text(), policies));
    }
    if inside.field("ephemeralContainers").is_set() && !inside.field("ephemeralContainers").is_empty() {
        errors.push(
            inside.field("ephemeralContainers").forbidden("ephemeral containers not allowed in pod template"),
        );
    }
    let deadline = inside.field("activeDeadlineSeconds");
    if deadline.is_set() && policies == ["Always"] {
        errors.push(deadline.forbidden("activeDeadlineSeconds in ReplicaSet is not Supported"));
    }
}

fn spec(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let pod = Pod {
        volumes: volume::all(&at.field("volumes"), errors),
        host_network: at.field("hostNetwork").is_true(),
    };
    container::all(at, &pod, errors);
    ephemeral::all(at, &pod, errors);
    at.field("restartPolicy").one_of(&["Always", "OnFailure", "Never"], errors);
    dns(at, errors);
    labels(&at.field("nodeSelector"), errors);
    for secret in at.field("imagePullSecrets").items() {
        if secret.field("name").is_empty() {
            errors.push(secret.field("name").required(""));
        }
    }
    affinity(&at.field("affinity"), errors);
    gates(at, errors);
    spread(at, errors);
    let subdomains = ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"];
    for name in subdomains.map(|field| at.field(field)) {
        if !name.is_empty() {
            name.invalid_for(names::dns1123_subdomain(name.text()), errors);
        }
    }
    for name in ["hostname", "subdomain"].map(|field| at.field(field)) {
        if !name.is_empty() {
            name.invalid_for(names::dns1123_label(name.text()), errors);
        }
    }
    let deadline = at.field("activeDeadlineSeconds");
    if deadline.number().is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds)) {
        errors.push(deadline.invalid("must be between 1 and 2147483647, inclusive"));
    }
    tolerations(&at.field("tolerations"), errors);
    let grace = at.field("terminationGracePeriodSeconds");
    if grace.number().is_some_and(|seconds| seconds < 0) {
        errors.push(grace.invalid("must be greater than or equal to 0"));
    }
    for alias in at.field("hostAliases").items() {
        let ip = alias.field("ip");
        if ip.text().parse::<std::net::IpAddr>().is_err() {
            errors.push(ip.invalid("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
        }
        for name in alias.field("hostnames").items() {
            name.invalid_for(names::dns1123_subdomain(name.text()), errors);
        }
    }
    let policy = at.field("preemptionPolicy");
    if policy.is_set() {
        policy.one_of(&["Never", "PreemptLowerPriority"], errors);
    }
    security(&at.field("securityContext"), errors);
}

fn dns(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let policy = at.field("dnsPolicy");
    policy.one_of(&["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"], errors);
    let config = at.field("dnsConfig");
    let servers = config.field("nameservers");
    if policy.text() == "None" && servers.is_empty() {
        let what = if config.is_set() { servers.clone() } else { config.clone() };
        errors.push(what.required("must provide at least one DNS nameserver when `dnsPolicy` is None"));
    }
    if servers.items().count() > 3 {
        errors.push(servers.invalid("must not have more than 3 nameservers"));
    }
    for server in servers.items() {
        if server.text().parse::<std::net::IpAddr>().is_err() {
            errors.push(server.invalid("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
        }
    }
    for option in config.field("options").items() {
        if option.field("name").is_empty() {
            errors.push(FieldError::required(option.path, "must not be empty"));
        }
    }
}

fn gates(at: &At<'_>, errors: &mut Vec<FieldError>) {
    for gate in at.field("readinessGates").items() {
        let kind = gate.field("conditionType");
        kind.invalid_for(names::qualified_name(kind.text()), errors);
    }
    let mut seen = HashSet::new();
    for gate in at.field("schedulingGates").items() {
        let name = gate.field("name");
        name.invalid_for(names::qualified_name(name.text()), errors);
        if !seen.insert(name.text()) {
            errors.push(FieldError::duplicate(gate.path, name.text()));
        }
    }
    if !seen.is_empty() && !at.field("nodeName").is_empty() {
        errors.push(
            at.field("nodeName").forbidden("cannot be set until all schedulingGates have been cleared"),
        );
    }
}

fn node_terms(list: &At<'_>, errors: &mut Vec<FieldError>) {
    for term in list.items() {
        node_term(&term, errors);
    }
}

fn node_term(term: &At<'_>, errors: &mut Vec<FieldError>) {
    for expression in term.field("matchExpressions").items() {
        let (operator, values) = (expression.field("operator"), expression.field("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => errors
                .push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'")),
            "Gt" | "Lt" if values.items().count() != 1 => {
                errors
                    .push(values.required("must be specified single value when `operator` is 'Lt' or 'Gt'"));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => errors.push(operator.invalid("not a valid selector operator")),
        }
        let key = expression.field("key");
        key.invalid_for(names::qualified_name(key.text()), errors);
    }
}

fn weight(term: &At<'_>, errors: &mut Vec<FieldError>) {
    let weight = term.field("weight");
    if !weight.number().is_some_and(|weight| (1..=100).contains(&weight)) {
        errors.push(weight.invalid("must be in the range 1-100"));
    }
}

fn affinity(at: &At<'_>, errors: &mut Vec<FieldError>) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = at.field("nodeAffinity");
    if node.field(REQUIRED).is_set() {
        let terms = node.field(REQUIRED).field("nodeSelectorTerms");
        if terms.is_empty() {
            errors.push(terms.required("must have at least one node selector term"));
        }
        node_terms(&terms, errors);
    }
    for preferred in node.field(PREFERRED).items() {
        weight(&preferred, errors);
        node_term(&preferred.field("preference"), errors);
    }
    let pod_term = |term: &At<'_>, errors: &mut Vec<FieldError>| {
        let key = term.field("topologyKey");
        if key.is_empty() {
            errors.push(key.required("can not be empty"));
        } else {
            key.invalid_for(names::qualified_name(key.text()), errors);
        }
        label_selector(&term.field("labelSelector"), errors);
    };
    for kind in ["podAffinity", "podAntiAffinity"].map(|kind| at.field(kind)) {
        for term in kind.field(REQUIRED).items() {
            pod_term(&term, errors);
        }
        for term in kind.field(PREFERRED).items() {
            weight(&term, errors);
            pod_term(&term.field("podAffinityTerm"), errors);
        }
    }
}

fn spread(at: &At<'_>, errors: &mut Vec<FieldError>) {
    for constraint in at.field("topologySpreadConstraints").items() {
        let skew = constraint.field("maxSkew");
        if skew.number().is_none_or(|skew| skew <= 0) {
            errors.push(skew.invalid("must be greater than zero"));
        }
        let key = constraint.field("topologyKey");
        if key.is_empty() {
            errors.push(key.required("can not be empty"));
        }
        let action = constraint.field("whenUnsatisfiable");
        let known = ["DoNotSchedule", "ScheduleAnyway"];
        if !known.contains(&action.text()) {
            errors.push(FieldError::not_supported(action.path.as_str(), action.text(), &known));
        }
        label_selector(&constraint.field("labelSelector"), errors);
    }
}

pub(super) fn tolerations(list: &At<'_>, errors: &mut Vec<FieldError>) {
    for it in list.items() {
        let (key, operator, effect) = (it.field("key"), it.field("operator"), it.field("effect"));
        if !key.is_empty() {
            key.invalid_for(names::qualified_name(key.text()), errors);
        } else if operator.text() != "Exists" {
            errors.push(operator.invalid(
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ));
        }
        if it.field("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            errors.push(effect.invalid("effect must be 'NoExecute' when `tolerationSeconds` is set"));
        }
        match operator.text() {
            "" | "Equal" => {
                let value = it.field("value");
                value.invalid_for(names::label_value(value.text()), errors);
            }
            "Exists" if !it.field("value").is_empty() => {
                errors.push(operator.invalid("value must be empty when `operator` is 'Exists'"));
            }
            "Exists" => {}
            _ => errors.push(FieldError::not_supported(
                operator.path.as_str(),
                operator.text(),
                &["Equal", "Exists"],
            )),
        }
        if !effect.is_empty() {
            effect.one_of(&["NoExecute", "NoSchedule", "PreferNoSchedule"], errors);
        }
    }
}

fn security(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let ids = ["runAsUser", "runAsGroup", "fsGroup"].map(|field| at.field(field));
    for id in ids.into_iter().chain(at.field("supplementalGroups").items()) {
        if id.number().is_some_and(|id| !(0..=i64::from(i32::MAX)).contains(&id)) {
            errors.push(id.invalid("must be between 0 and 2147483647, inclusive"));
        }
    }
    for control in at.field("sysctls").items() {
        if control.field("name").is_empty() {
            errors.push(control.field("name").required(""));
        }
    }
}
