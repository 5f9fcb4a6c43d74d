//! ValidatingAdmissionPolicy: expressions that must hold for a request, by bindings and their parameters.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::{GroupResource, Object, Status, convert};
use keelson_cel::authorizer::Check;
use keelson_cel::{Budget, EvalError, OBJECT_LIMIT, Value as Cel};
use serde_json::{Value, json};

use super::expression::{Facts, Questions};
use super::is_spared;
use super::policies::{Binding, Params, Policies, Policy, Rules, Validation};
use super::request::Seen;
use crate::admission::{Admission, Attributes};
use crate::authorization::Authorizer;
use crate::cache;
use crate::registry::Registry;

/// The longest message that an expression may give, in bytes.
const MESSAGE_BYTES: usize = 5 << 10;

/// The plugin.
pub struct ValidatingPolicies {
    policies: Policies,
    authorizer: Arc<dyn Authorizer>,
}

/// A refusal: its reason (empty for `Invalid`) and text.
struct Denial {
    reason: String,
    message: String,
}

/// What the evaluation with one parameter gave.
#[derive(Default)]
struct Outcome {
    /// What does not hold, by the place of the validation.
    failed: Vec<(usize, Denial)>,
    annotations: Vec<(String, String)>,
    /// Annotations that could not be evaluated.
    faults: Vec<String>,
}

impl ValidatingPolicies {
    /// The plugin over these policies; expressions ask the authorizer.
    pub fn new(policies: Policies, authorizer: Arc<dyn Authorizer>) -> Self {
        ValidatingPolicies { policies, authorizer }
    }

    async fn evaluate(&self, policy: &Policy, rules: &Rules, facts: &Facts<'_>) -> Result<Outcome, Status> {
        loop {
            match outcome(policy, rules, facts) {
                Ok(outcome) => return Ok(outcome),
                Err(check) => facts.questions.ask(&self.authorizer, *check).await?,
            }
        }
    }
}

fn outcome(policy: &Policy, rules: &Rules, facts: &Facts<'_>) -> Result<Outcome, Box<Check>> {
    let mut outcome = Outcome::default();
    let fault = |message: String| Denial { reason: String::new(), message };
    match rules.conditions.hold(facts)? {
        Ok(true) => {}
        Ok(false) => return Ok(outcome),
        Err(why) => {
            if !policy.ignores_failure {
                outcome.failed.push((0, fault(why)));
            }
            return Ok(outcome);
        }
    }
    let budget = Budget::new(OBJECT_LIMIT);
    let variables = rules.variables.values(facts.values(), &budget);
    let values = variables.bindings();
    for (place, validation) in rules.validations.iter().enumerate() {
        match validation.program.evaluate(&values, &budget) {
            Ok(value) if value.is_true() => {}
            Ok(_) => {
                let message = message(validation, &values, &budget)?;
                outcome.failed.push((place, Denial { reason: validation.reason.clone(), message }));
            }
            Err(EvalError::Undecided(check)) => return Err(check),
            Err(_) if policy.ignores_failure => {}
            Err(error) => {
                let source = validation.source.trim();
                outcome
                    .failed
                    .push((place, fault(format!("expression '{source}' resulted in error: {error}"))));
            }
        }
    }
    for (key, source, program) in &rules.annotations {
        match program.evaluate(&values, &budget) {
            Ok(Cel::Null) => {}
            Ok(value) => match value.as_str().map(str::trim) {
                Some("") => {}
                Some(text) => outcome.annotations.push((key.clone(), text.to_owned())),
                None => outcome.faults.push(format!(
                    "valueExpression '{source}' resulted in unsupported return type: {}. Return type must be either string or null.",
                    value.type_of()
                )),
            },
            Err(EvalError::Undecided(check)) => return Err(check),
            Err(_) if policy.ignores_failure => {}
            Err(error) => {
                outcome.faults.push(format!("expression '{source}' resulted in error: {error}"));
            }
        }
    }
    Ok(outcome)
}

/// What is told of a validation that does not hold.
fn message<'a>(
    validation: &'a Validation,
    values: &[(&str, Cel<'a>)],
    budget: &Budget,
) -> Result<String, Box<Check>> {
    if let Some(program) = &validation.message_program {
        match program.evaluate(values, budget) {
            Ok(value) => {
                let text = value.as_str().map(str::trim).unwrap_or_default();
                if !text.is_empty() && text.len() <= MESSAGE_BYTES && !text.contains('\n') {
                    return Ok(text.to_owned());
                }
            }
            Err(EvalError::Undecided(check)) => return Err(check),
            Err(error) => tracing::debug!(%error, "a messageExpression failed"),
        }
    }
    Ok(match validation.message.trim() {
        "" => format!("failed expression: {}", validation.source.trim()),
        message => message.to_owned(),
    })
}

/// The parameters of a binding; `None` stands for none at all. The text says why they cannot be had.
fn parameters(
    registry: &Registry,
    policy: &Policy,
    wanted: Option<&Params>,
    namespace: Option<&str>,
) -> Result<Vec<Option<Value>>, String> {
    let (Some(kind), Some(wanted)) = (&policy.param_kind, wanted) else { return Ok(vec![None]) };
    let catalog = registry.catalog();
    let resource = catalog.find_kind(kind).ok_or_else(|| {
        format!(
            "failed to find resource referenced by paramKind: '{}, Kind={}'",
            kind.api_version(),
            kind.kind
        )
    })?;
    let namespace = match (resource.namespaced, wanted.namespace.as_deref().or(namespace)) {
        (true, None) => {
            return Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                    .into(),
            );
        }
        (true, namespace) => namespace,
        (false, _) if wanted.namespace.is_some() => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into());
        }
        (false, _) => None,
    };
    let cache = registry.resource(&convert::storage_resource(resource));
    let found = match &wanted.name {
        Some(name) => {
            let key = namespace.map_or_else(|| name.clone(), |namespace| format!("{namespace}/{name}"));
            cache.get(&key).into_iter().collect()
        }
        None => {
            let all = cache.list();
            let own = all.objects.values().filter(|it| it.namespace.as_deref() == namespace);
            own.filter(|it| wanted.selector.matches(it.labels.as_deref())).cloned().collect::<Vec<_>>()
        }
    };
    if found.is_empty() && !wanted.may_be_missing {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    let read = found.iter().map(|object| {
        let mut object = cache::decode(&object.bytes).map_err(|error| error.to_string())?;
        convert::convert(&mut object, kind);
        Ok(Some(object.into_value()))
    });
    read.collect()
}

/// Who has denied a request, for messages.
fn by(policy: &Policy, binding: Option<&Binding>) -> String {
    match binding {
        Some(binding) => {
            format!("ValidatingAdmissionPolicy '{}' with binding '{}'", policy.name, binding.name)
        }
        None => format!("ValidatingAdmissionPolicy '{}'", policy.name),
    }
}

fn refusal(attributes: &Attributes<'_>, message: &str, reason: &str) -> Status {
    let mut status = attributes.forbidden(message);
    let reason = if reason.is_empty() { "Invalid" } else { reason };
    status.reason = reason.to_owned();
    status.code = match reason {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    if status.details.is_null() {
        status.details = json!({});
    }
    status.details["causes"] = json!([{ "message": message }]);
    status
}

fn namespace_object(registry: &Registry, attributes: &Attributes<'_>) -> Result<Value, Status> {
    let Some(name) = attributes.namespace else { return Ok(Value::Null) };
    let namespaces = GroupResource::new("", "namespaces");
    match registry.resource(&namespaces).get(name) {
        Some(found) => Ok(cache::decode(&found.bytes)?.into_value()),
        None => Ok(Value::Null),
    }
}

/// What one request has come to so far.
#[derive(Default)]
struct Verdict {
    denied: Option<Status>,
}

impl Verdict {
    /// Deals with a policy that cannot be used as it says.
    fn misconfigured(
        &mut self,
        attributes: &Attributes<'_>,
        policy: &Policy,
        binding: Option<&Binding>,
        why: &str,
    ) {
        if policy.ignores_failure {
            return;
        }
        let what = if binding.is_some() { "binding" } else { "policy" };
        let message = format!("{} denied request: failed to configure {what}: {why}", by(policy, binding));
        self.denied.get_or_insert_with(|| refusal(attributes, &message, ""));
    }

    fn take(&mut self, attributes: &Attributes<'_>, policy: &Policy, binding: &Binding, outcome: &Outcome) {
        for (place, denial) in &outcome.failed {
            for action in &binding.actions {
                match action.as_str() {
                    "Deny" => {
                        let message =
                            format!("{} denied request: {}", by(policy, Some(binding)), denial.message);
                        self.denied.get_or_insert_with(|| refusal(attributes, &message, &denial.reason));
                    }
                    "Warn" => attributes.remarks().warn(format!(
                        "Validation failed for {}: {}",
                        by(policy, Some(binding)),
                        denial.message
                    )),
                    "Audit" => {
                        let note = json!([{"message": denial.message, "policy": policy.name, "binding": binding.name,
                            "expressionIndex": place, "validationActions": binding.actions}]);
                        let key = "validation.policy.admission.k8s.io/validation_failure";
                        attributes.remarks().annotate(key, note.to_string());
                    }
                    _ => {}
                }
            }
        }
        for why in &outcome.faults {
            let message = format!("{} denied request: {why}", by(policy, Some(binding)));
            self.denied.get_or_insert_with(|| refusal(attributes, &message, ""));
        }
    }
}

#[async_trait]
impl Admission for ValidatingPolicies {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        !self.policies.current().is_empty() && !is_spared(attributes)
    }

    async fn validate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        let policies = self.policies.current();
        let catalog = registry.catalog();
        let seen = Seen::new(registry, &catalog, attributes);
        let questions = Questions::new(attributes.identity, &seen.asked);
        let mut verdict = Verdict::default();
        for policy in policies.iter() {
            let Some(view) = seen.view(&policy.matches, object)? else { continue };
            let rules = match &policy.rules {
                Ok(rules) => rules,
                Err(why) => {
                    verdict.misconfigured(attributes, policy, None, why);
                    continue;
                }
            };
            let (new, old) = (seen.document(object, &view).await?, seen.old(&view).await?);
            let request = seen.request(&view).into();
            let namespace = namespace_object(registry, attributes)?;
            let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for binding in &policy.bindings {
                if let Some(matches) = &binding.matches
                    && !seen.is_bound(matches, object)?
                {
                    continue;
                }
                let params = parameters(registry, policy, binding.params.as_ref(), attributes.namespace);
                let params = match params {
                    Ok(params) => params,
                    Err(why) => {
                        verdict.misconfigured(attributes, policy, Some(binding), &why);
                        continue;
                    }
                };
                for param in params {
                    let param = param.unwrap_or_default();
                    let facts = Facts {
                        object: &new,
                        old: &old,
                        request: &request,
                        namespace: &namespace,
                        params: policy.param_kind.as_ref().map(|_| &param),
                        questions: &questions,
                    };
                    let outcome = self.evaluate(policy, rules, &facts).await?;
                    verdict.take(attributes, policy, binding, &outcome);
                    for (key, value) in outcome.annotations {
                        let values = annotations.entry(key).or_default();
                        if !values.contains(&value) {
                            values.push(value);
                        }
                    }
                }
            }
            for (key, values) in annotations {
                attributes.remarks().annotate(&format!("{}/{key}", policy.name), values.join(", "));
            }
        }
        verdict.denied.map_or(Ok(()), Err)
    }
}
