//! What the configurations of admission say in expressions is compiled before it is stored, and a policy's status tells
//! what its expressions come to with the kinds that it is about.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::admission::GROUP;
use keelson_api::validation::FieldError;
use keelson_api::{Catalog, Object, Status};
use keelson_cel::Composition;
use keelson_cel::{Declaration, Environment, compile};
use serde_json::{Value, json};

use super::expression::{condition, environment, environment_of};
use super::mutating_policy::rules::Mutations;
use super::param_access;
use super::policies::{ExpressionFault, Rules, items as list, text};
use super::validating_policy::rules::Validations;
use crate::admission::{Admission, Attributes};
use crate::authorization::Authorizer;
use crate::registry::Registry;

/// Kinds with which the expressions of one policy are checked.
const MAX_KINDS: usize = 10;

/// The plugin. It cannot be turned off.
pub struct ExpressionCheck {
    authorizer: Arc<dyn Authorizer>,
}

impl ExpressionCheck {
    /// The plugin; it asks the authorizer whether writers may read what is to serve as a parameter.
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        ExpressionCheck { authorizer }
    }
}

/// The faults of a policy's expressions.
fn policy_faults(object: &Object) -> Option<Vec<ExpressionFault>> {
    let spec = object.get(&["spec"])?;
    match object.kind() {
        "MutatingAdmissionPolicy" => Mutations::read(spec).err(),
        "ValidatingAdmissionPolicy" => Validations::read(spec).err(),
        _ => None,
    }
}

fn faults(object: &Object) -> Vec<FieldError> {
    if let Some(found) = policy_faults(object) {
        let invalid = |(path, source, why)| FieldError::invalid(format!("spec.{path}"), source, why);
        return found.into_iter().map(invalid).collect();
    }
    let mut errors = Vec::new();
    let environment = environment(false);
    let hooks = object.get(&["webhooks"]).and_then(Value::as_array).into_iter().flatten().enumerate();
    for (at, hook) in hooks {
        for (place, it) in list(hook, "matchConditions") {
            let source = text(it, "expression").trim();
            if let Err(why) = condition(source, &environment) {
                let path = format!("webhooks[{at}].matchConditions[{place}].expression");
                errors.push(FieldError::invalid(path, source, why));
            }
        }
    }
    errors
}

/// The faults that a policy's expressions have with the kinds of its rules, as far as those are named.
fn type_check(catalog: &Catalog, spec: &Value) -> Vec<Value> {
    let mut kinds = Vec::new();
    for (_, rule) in list(&spec["matchConstraints"], "resourceRules") {
        for (_, group) in list(rule, "apiGroups") {
            for (_, version) in list(rule, "apiVersions") {
                for (_, resource) in list(rule, "resources") {
                    let name = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
                    let found = catalog.find(&name(group), &name(version), &name(resource));
                    kinds.extend(found.map(Arc::clone));
                }
            }
        }
    }
    kinds.truncate(MAX_KINDS);
    let environments: Vec<(String, Environment)> = kinds
        .iter()
        .filter_map(|it| {
            let declaration = Declaration::from_schema(it.schema()?.as_ref(), false, &it.kind)?;
            let base = environment_of(declaration, !spec["paramKind"].is_null());
            let mut variables = Composition::default();
            for (_, variable) in list(spec, "variables") {
                variables.add(text(variable, "name"), text(variable, "expression"), &base).ok()?;
            }
            let gvk = it.gvk();
            Some((format!("{}, Kind={}", gvk.api_version(), gvk.kind), variables.environment(&base)))
        })
        .collect();
    let mut warnings = Vec::new();
    for (at, validation) in list(spec, "validations") {
        for field in ["expression", "messageExpression"] {
            let source = text(validation, field);
            if source.is_empty() {
                continue;
            }
            let checked =
                environments.iter().map(|(kind, environment)| (kind, compile(source, environment).err()));
            let found: Vec<String> =
                checked.filter_map(|(kind, error)| Some(format!("{kind}: {}", error?))).collect();
            if !found.is_empty() {
                let place = format!("spec.validations[{at}].{field}");
                warnings.push(json!({"fieldRef": place, "warning": found.join("\n")}));
            }
        }
    }
    warnings
}

#[async_trait]
impl Admission for ExpressionCheck {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.resource.group == GROUP && attributes.is_write() && attributes.subresource.is_empty()
    }

    async fn mutate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        if !attributes.is(GROUP, "validatingadmissionpolicies") {
            return Ok(());
        }
        let Some(spec) = object.get(&["spec"]).cloned() else { return Ok(()) };
        let before = attributes.old.and_then(Object::generation).unwrap_or(0);
        let is_changed = attributes.old.is_none_or(|old| old.get(&["spec"]) != Some(&spec));
        if is_changed {
            let warnings = type_check(&registry.catalog(), &spec);
            let checked =
                if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
            object.set(&["status"], json!({"observedGeneration": before + 1, "typeChecking": checked}));
        }
        Ok(())
    }

    async fn validate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        let Some(object) = object else { return Ok(()) };
        let same = |field: &str| attributes.old.is_some_and(|old| old.get(&[field]) == object.get(&[field]));
        if same("spec") && same("webhooks") {
            return Ok(());
        }
        let mut errors = faults(object);
        errors.extend(param_access::fault(&self.authorizer, registry, attributes, object).await?);
        if errors.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(&attributes.resource.gvk(), attributes.name, &errors))
    }
}
