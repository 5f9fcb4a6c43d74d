//! Roles and bindings.

use super::FieldError;
use super::at::At;
use super::selector::label_selector;
use crate::names;
use crate::object::Object;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn role(object: &Object, errors: &mut Vec<FieldError>) {
    rules(object, true, errors);
}

pub(super) fn cluster_role(object: &Object, errors: &mut Vec<FieldError>) {
    rules(object, false, errors);
    for selector in At::of(object, "aggregationRule").field("clusterRoleSelectors").items() {
        label_selector(&selector, errors);
    }
    let aggregation = At::of(object, "aggregationRule");
    if aggregation.is_set() && aggregation.field("clusterRoleSelectors").is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.push(aggregation.field("clusterRoleSelectors").required(detail));
    }
}

pub(super) fn role_binding(object: &Object, errors: &mut Vec<FieldError>) {
    binding(object, true, errors);
}

pub(super) fn cluster_role_binding(object: &Object, errors: &mut Vec<FieldError>) {
    binding(object, false, errors);
}

/// What is bound stays.
pub(super) fn binding_change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let role = At::of(new, "roleRef");
    if role.value != At::of(old, "roleRef").value {
        errors.push(role.invalid("cannot change roleRef"));
    }
}

fn rules(object: &Object, namespaced: bool, errors: &mut Vec<FieldError>) {
    for rule in At::of(object, "rules").items() {
        let (verbs, groups, resources, urls) = (
            rule.field("verbs"),
            rule.field("apiGroups"),
            rule.field("resources"),
            rule.field("nonResourceURLs"),
        );
        if verbs.is_empty() {
            errors.push(verbs.required("verbs must contain at least one value"));
        }
        if !urls.is_empty() {
            if namespaced {
                errors.push(urls.invalid("namespaced rules cannot apply to non-resource URLs"));
            }
            if !groups.is_empty() || !resources.is_empty() || !rule.field("resourceNames").is_empty() {
                errors
                    .push(urls.invalid("rules cannot apply to both regular resources and non-resource URLs"));
            }
            continue;
        }
        if groups.is_empty() {
            errors.push(groups.required("resource rules must supply at least one api group"));
        }
        if resources.is_empty() {
            errors.push(resources.required("resource rules must supply at least one resource"));
        }
    }
}

fn binding(object: &Object, namespaced: bool, errors: &mut Vec<FieldError>) {
    let reference = At::of(object, "roleRef");
    let (group, kind, name) = (reference.field("apiGroup"), reference.field("kind"), reference.field("name"));
    if group.text() != GROUP {
        errors.push(FieldError::not_supported(group.path.as_str(), group.text(), &[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["ClusterRole", "Role"] } else { &["ClusterRole"] };
    if !kinds.contains(&kind.text()) {
        errors.push(FieldError::not_supported(kind.path.as_str(), kind.text(), kinds));
    }
    if name.is_empty() {
        errors.push(name.required(""));
    } else {
        name.invalid_for(names::path_segment(name.text()), errors);
    }
    for subject in At::of(object, "subjects").items() {
        let (kind, name, group) = (subject.field("kind"), subject.field("name"), subject.field("apiGroup"));
        if name.is_empty() {
            errors.push(name.required(""));
        }
        match kind.text() {
            "ServiceAccount" => {
                if !name.is_empty() {
                    name.invalid_for(names::dns1123_subdomain(name.text()), errors);
                }
                if !group.is_empty() {
                    errors.push(FieldError::not_supported(group.path.as_str(), group.text(), &[""]));
                }
                if subject.field("namespace").is_empty() {
                    errors.push(subject.field("namespace").required(""));
                }
            }
            "User" | "Group" => {
                if name.is_empty() {
                    let detail = format!("{} name cannot be empty", kind.text().to_lowercase());
                    errors.push(FieldError::invalid(name.path.as_str(), "", detail));
                }
                if group.text() != GROUP {
                    errors.push(FieldError::not_supported(group.path.as_str(), group.text(), &[GROUP]));
                }
            }
            other => {
                let known = ["Group", "ServiceAccount", "User"];
                errors.push(FieldError::not_supported(kind.path.as_str(), other, &known));
            }
        }
    }
}
