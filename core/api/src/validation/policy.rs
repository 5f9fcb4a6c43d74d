//! Admission policies and their bindings, but for their expressions: those are compiled where they are evaluated.

use std::collections::BTreeSet;

use super::FieldError;
use super::at::At;
use super::selector::label_selector;
use super::webhook::{operations, resources_of};
use crate::names;
use crate::object::Object;

const MAX_ANNOTATIONS: usize = 20;
const MAX_CONDITIONS: usize = 64;

/// What a policy may be about: one that changes objects sees no deletions.
const MUTABLE: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];

/// A ValidatingAdmissionPolicy.
pub(super) fn validating(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    beginning(&spec, None, errors);
    let (validations, annotations) = (spec.field("validations"), spec.field("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.extend([validations.required(detail), annotations.required(detail)]);
    }
    for validation in validations.items() {
        named(&validation, "expression", "expression is not specified", errors);
        let message = validation.field("message");
        if !message.is_empty() && message.text().trim().is_empty() {
            errors.push(message.invalid("message must be non-empty if specified"));
        } else if message.text().trim().contains('\n') {
            errors.push(message.invalid("message must not contain line breaks"));
        }
        let reason = validation.field("reason");
        if reason.is_set() {
            reason.one_of(&["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"], errors);
        }
    }
    let mut keys = BTreeSet::new();
    if annotations.items().count() > MAX_ANNOTATIONS {
        errors
            .push(annotations.invalid(format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations")));
    }
    for annotation in annotations.items() {
        named(&annotation, "valueExpression", "", errors);
        let key = annotation.field("key");
        let full = format!("{}/{}", object.name().unwrap_or_default(), key.text());
        key.invalid_for(names::qualified_name(&full), errors);
        if !keys.insert(key.text()) {
            errors.push(key.duplicate());
        }
    }
}

/// A MutatingAdmissionPolicy.
pub(super) fn mutating(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    beginning(&spec, Some(&MUTABLE), errors);
    let mutations = spec.field("mutations");
    if mutations.is_empty() {
        errors.push(mutations.required("mutations must contain at least one item"));
    }
    mutations.items().for_each(|it| mutation(&it, errors));
    spec.field("reinvocationPolicy").one_of(&["IfNeeded", "Never"], errors);
}

/// A patch is in the field that its type says, and no other one is there.
fn mutation(mutation: &At<'_>, errors: &mut Vec<FieldError>) {
    let kind = mutation.field("patchType");
    let (wanted, other) = match kind.text() {
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        _ => return kind.one_of(&["ApplyConfiguration", "JSONPatch"], errors),
    };
    let patch = mutation.field(wanted);
    if patch.is_set() {
        named(&patch, "expression", "", errors);
    } else {
        errors.push(patch.required(format!("must be specified when patchType is {}", kind.text())));
    }
    let (other, shown) = (mutation.field(other), format!("{{{other}}}"));
    if other.is_set() {
        let detail = format!("must not be specified when patchType is {}", kind.text());
        errors.push(FieldError::invalid(other.path.as_str(), shown, detail));
    }
}

/// What policies of all kinds begin with. `operations` are those that a rule may name, if not all.
fn beginning(spec: &At<'_>, operations: Option<&[&str]>, errors: &mut Vec<FieldError>) {
    spec.field("failurePolicy").one_of(&["Fail", "Ignore"], errors);
    let kind = spec.field("paramKind");
    if kind.is_set() {
        errors.extend(
            ["apiVersion", "kind"]
                .into_iter()
                .map(|field| kind.field(field))
                .filter(At::is_empty)
                .map(|it| it.required("")),
        );
    }
    let constraints = spec.field("matchConstraints");
    if constraints.is_set() {
        match_resources(&constraints, operations, errors);
        let rules = constraints.field("resourceRules");
        if rules.is_empty() {
            errors.push(rules.required(""));
        }
    } else {
        errors.push(constraints.required(""));
    }
    conditions(&spec.field("matchConditions"), errors);
    for variable in spec.field("variables").items() {
        named(&variable, "name", "name is not specified", errors);
        let name = variable.field("name");
        if !name.text().trim().is_empty() && !names::is_cel_identifier(name.text()) {
            errors.push(name.invalid("name is not a valid CEL identifier"));
        }
        named(&variable, "expression", "expression is not specified", errors);
    }
}

fn named(at: &At<'_>, field: &str, detail: &str, errors: &mut Vec<FieldError>) {
    let field = at.field(field);
    if field.text().trim().is_empty() {
        errors.push(field.required(detail));
    }
}

/// Conditions under which a webhook or policy is asked.
pub(super) fn conditions(list: &At<'_>, errors: &mut Vec<FieldError>) {
    let count = list.items().count();
    if count > MAX_CONDITIONS {
        errors.push(FieldError {
            kind: super::ErrorKind::TooMany,
            ..FieldError::invalid(
                list.path.as_str(),
                count,
                format!("must have at most {MAX_CONDITIONS} items"),
            )
        });
    }
    let mut seen = BTreeSet::new();
    for condition in list.items() {
        named(&condition, "expression", "", errors);
        let name = condition.field("name");
        if name.is_empty() {
            errors.push(name.required(""));
            continue;
        }
        name.invalid_for(names::qualified_name(name.text()), errors);
        if !seen.insert(name.text()) {
            errors.push(name.duplicate());
        }
    }
}

fn match_resources(at: &At<'_>, allowed: Option<&[&str]>, errors: &mut Vec<FieldError>) {
    at.field("matchPolicy").one_of(&["Equivalent", "Exact"], errors);
    label_selector(&at.field("namespaceSelector"), errors);
    label_selector(&at.field("objectSelector"), errors);
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in at.field(list).items() {
            operations(&rule, errors);
            resources_of(&rule, errors);
        }
    }
    let Some(allowed) = allowed else { return };
    let rules = at.field("resourceRules");
    for operation in rules.items().flat_map(|rule| rule.field("operations").items().collect::<Vec<_>>()) {
        if !allowed.contains(&operation.text()) {
            let path = format!("{}.operations", rules.path);
            errors.push(FieldError::not_supported(path, operation.value.clone(), allowed));
        }
    }
}

/// A ValidatingAdmissionPolicyBinding.
pub(super) fn validating_binding(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    binding(&spec, None, errors);
    actions(&spec.field("validationActions"), errors);
}

/// A MutatingAdmissionPolicyBinding.
pub(super) fn mutating_binding(object: &Object, errors: &mut Vec<FieldError>) {
    binding(&At::of(object, "spec"), Some(&MUTABLE), errors);
}

fn binding(spec: &At<'_>, operations: Option<&[&str]>, errors: &mut Vec<FieldError>) {
    let policy = spec.field("policyName");
    if policy.is_empty() {
        errors.push(policy.required(""));
    } else {
        policy.invalid_for(names::dns1123_subdomain(policy.text()), errors);
    }
    let reference = spec.field("paramRef");
    if reference.is_set() {
        match (reference.field("name").is_set(), reference.field("selector").is_set()) {
            (true, false) | (false, true) => {}
            (true, true) => {
                errors.push(reference.field("name").forbidden("name and selector are mutually exclusive"));
            }
            (false, false) => errors.push(reference.required("one of name or selector must be specified")),
        }
        label_selector(&reference.field("selector"), errors);
        reference.field("parameterNotFoundAction").one_of(&["Allow", "Deny"], errors);
    }
    let resources = spec.field("matchResources");
    if resources.is_set() {
        match_resources(&resources, operations, errors);
    }
}

fn actions(list: &At<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for action in list.items() {
        action.one_of(&["Audit", "Deny", "Warn"], errors);
        if !seen.insert(action.text()) {
            errors.push(action.duplicate());
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        errors.push(list.invalid("must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"));
    }
    if seen.is_empty() {
        errors.push(list.required("at least one validation action is required"));
    }
}
