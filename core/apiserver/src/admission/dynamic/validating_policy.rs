//! ValidatingAdmissionPolicy: expressions that must hold for a request, by bindings and their parameters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use keelson_api::{Object, Status};
use keelson_cel::authorizer::Check;
use keelson_cel::{Budget, EvalError, OBJECT_LIMIT, Value as Cel};
use serde_json::{Value, json};

use super::expression::{Facts, Questions};
use super::invocations::{Invocation, invocations, namespace_object};
use super::is_spared;
use super::metrics::{Failure, PolicyMetrics};
use super::policies::{Binding, Policies};
use super::request::{Seen, View};
use crate::admission::{Admission, Attributes};
use crate::authorization::Authorizer;
use crate::registry::Registry;

pub mod rules;

use rules::{Validation, Validations};

type Policy = super::policies::Policy<Validations>;

/// The longest message that an expression may give, in bytes.
const MESSAGE_BYTES: usize = 5 << 10;

/// The plugin.
pub struct ValidatingPolicies {
    policies: Policies<Validations>,
    authorizer: Arc<dyn Authorizer>,
    metrics: PolicyMetrics,
}

/// A refusal: its reason (empty for `Invalid`) and text.
struct Denial {
    reason: String,
    message: String,
    /// How the expression failed, if it did.
    failure: Option<Failure>,
    took: Duration,
}

/// What the evaluation with one parameter gave.
#[derive(Default)]
struct Outcome {
    /// What does not hold, by the place of the validation.
    failed: Vec<(usize, Denial)>,
    annotations: Vec<(String, String)>,
    /// Failures that the policy ignores.
    ignored: Vec<(Failure, Duration)>,
    /// Annotations that could not be evaluated.
    faults: Vec<String>,
}

impl ValidatingPolicies {
    /// The plugin over these policies; expressions ask the authorizer.
    pub fn new(
        policies: Policies<Validations>,
        authorizer: Arc<dyn Authorizer>,
        metrics: PolicyMetrics,
    ) -> Self {
        ValidatingPolicies { policies, authorizer, metrics }
    }

    /// Counts what follows from what does not hold.
    fn count(&self, policy: &Policy, binding: &Binding, outcome: &Outcome) {
        for (failure, took) in &outcome.ignored {
            self.metrics.enforced(&policy.name, &binding.name, Some(*failure), "allow", *took);
        }
        for (_, denial) in &outcome.failed {
            for action in &binding.actions {
                let action = action.to_ascii_lowercase();
                self.metrics.enforced(&policy.name, &binding.name, denial.failure, &action, denial.took);
            }
        }
    }

    async fn evaluate(
        &self,
        policy: &Policy,
        rules: &Validations,
        facts: &Facts<'_>,
    ) -> Result<Outcome, Status> {
        loop {
            match outcome(policy, rules, facts) {
                Ok(outcome) => return Ok(outcome),
                Err(check) => facts.questions.ask(&self.authorizer, *check).await?,
            }
        }
    }
}

fn outcome(policy: &Policy, rules: &Validations, facts: &Facts<'_>) -> Result<Outcome, Box<Check>> {
    let mut outcome = Outcome::default();
    let fault = |message: String, failure: Failure, took: Duration| Denial {
        reason: String::new(),
        message,
        failure: Some(failure),
        took,
    };
    match rules.conditions.hold(facts)? {
        Ok(true) => {}
        Ok(false) => return Ok(outcome),
        Err(why) => {
            if !policy.ignores_failure {
                outcome.failed.push((0, fault(why, Failure::Invalid, Duration::ZERO)));
            }
            return Ok(outcome);
        }
    }
    let budget = Budget::new(OBJECT_LIMIT);
    let variables = rules.variables.values(facts.values(), &budget);
    let values = variables.bindings();
    for (place, validation) in rules.validations.iter().enumerate() {
        let began = Instant::now();
        match validation.program.evaluate(&values, &budget) {
            Ok(value) if value.is_true() => {}
            Ok(_) => {
                let took = began.elapsed();
                let message = message(validation, &values, &budget)?;
                let reason = validation.reason.clone();
                outcome.failed.push((place, Denial { reason, message, failure: None, took }));
            }
            Err(EvalError::Undecided(check)) => return Err(check),
            Err(error) => {
                let failure = match error {
                    EvalError::Budget => Failure::OutOfBudget,
                    _ => Failure::Invalid,
                };
                if policy.ignores_failure {
                    outcome.ignored.push((failure, began.elapsed()));
                } else {
                    let source = validation.source.trim();
                    let text = format!("expression '{source}' resulted in error: {error}");
                    outcome.failed.push((place, fault(text, failure, began.elapsed())));
                }
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
        let found = invocations(registry, attributes, &seen, object, &policies)?;
        if found.is_empty() {
            return Ok(());
        }
        let questions = Questions::new(attributes.identity, &seen.asked);
        let namespace = namespace_object(registry, attributes)?;
        let mut verdict = Verdict::default();
        let mut annotations: BTreeMap<(&str, String), Vec<String>> = BTreeMap::new();
        let mut documents: Option<(View<'_>, Value, Value, Value)> = None;
        for Invocation { policy, binding, view, param } in &found {
            let rules = match &policy.rules {
                Ok(rules) => rules,
                Err(why) => {
                    verdict.misconfigured(attributes, policy, None, why);
                    continue;
                }
            };
            let param = match param {
                Ok(param) => param,
                Err(why) => {
                    verdict.misconfigured(attributes, policy, Some(binding), why);
                    continue;
                }
            };
            // Neighbours mostly see the request in the same version.
            let (_, new, old, request) = match documents.take().filter(|(known, ..)| known == view) {
                Some(known) => documents.insert(known),
                None => {
                    let (new, old) = (seen.document(object, view).await?, seen.old(view).await?);
                    documents.insert((view.clone(), new, old, seen.request(view).into()))
                }
            };
            let facts = Facts {
                object: new,
                old,
                request,
                namespace: &namespace,
                params: policy.param_kind.as_ref().map(|_| param),
                questions: &questions,
            };
            let outcome = self.evaluate(policy, rules, &facts).await?;
            verdict.take(attributes, policy, binding, &outcome);
            self.count(policy, binding, &outcome);
            for (key, value) in outcome.annotations {
                let values = annotations.entry((&policy.name, key)).or_default();
                if !values.contains(&value) {
                    values.push(value);
                }
            }
        }
        for ((policy, key), values) in annotations {
            attributes.remarks().annotate(&format!("{policy}/{key}"), values.join(", "));
        }
        verdict.denied.map_or(Ok(()), Err)
    }
}
