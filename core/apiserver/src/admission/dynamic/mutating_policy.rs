//! MutatingAdmissionPolicy: expressions that change the object of a request, by bindings and their parameters.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use keelson_api::{Catalog, Object, Schema, Status};
use keelson_cel::authorizer::Check;
use keelson_cel::{Budget, EvalError, OBJECT_LIMIT};
use serde_json::{Value, json};

use super::expression::{Facts, Questions};
use super::invocations::{Invocation, invocations, namespace_object};
use super::is_spared;
use super::metrics::{Failure, PolicyMetrics};
use super::policies::{Binding, Policies};
use super::request::{Seen, View};
use super::rounds::Rounds;
use crate::admission::{Admission, Attributes, Operation};
use crate::authorization::Authorizer;
use crate::registry::Registry;

mod patch;
pub mod rules;

use rules::{Mutation, Mutations};

type Policy = super::policies::Policy<Mutations>;

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// The plugin.
pub struct MutatingPolicies {
    policies: Policies<Mutations>,
    authorizer: Arc<dyn Authorizer>,
    metrics: PolicyMetrics,
}

impl MutatingPolicies {
    /// The plugin over these policies; expressions ask the authorizer.
    pub fn new(
        policies: Policies<Mutations>,
        authorizer: Arc<dyn Authorizer>,
        metrics: PolicyMetrics,
    ) -> Self {
        MutatingPolicies { policies, authorizer, metrics }
    }
}

/// What is wrong with policies that do not ignore it.
#[derive(Default)]
struct Faults {
    messages: Vec<String>,
    /// The reason of the first one.
    reason: Option<&'static str>,
}

impl Faults {
    fn note(&mut self, policy: &Policy, binding: &Binding, reason: Option<&'static str>, why: &str) {
        if policy.ignores_failure {
            return;
        }
        if self.messages.is_empty() {
            self.reason = reason;
        }
        let by = format!("policy '{}' with binding '{}'", policy.name, binding.name);
        self.messages.push(format!("{by} denied request: {why}"));
    }

    fn refuse(self, attributes: &Attributes<'_>) -> Result<(), Status> {
        let Some(first) = self.messages.first() else { return Ok(()) };
        let mut status = attributes.forbidden("admission request denied by policy");
        status.message = first.clone();
        if let Some(reason) = self.reason {
            status.reason = reason.to_owned();
        }
        if status.details.is_null() {
            status.details = json!({});
        }
        let causes = self.messages.iter().map(|message| json!({"message": message}));
        status.details["causes"] = causes.collect();
        Err(status)
    }
}

/// What of a request stays the same for all policies.
struct Pass<'a> {
    attributes: &'a Attributes<'a>,
    catalog: &'a Catalog,
    seen: &'a Seen<'a>,
    questions: Questions<'a>,
    namespace: Value,
    faults: Faults,
}

/// The object as a policy sees it.
struct Sight {
    object: Value,
    old: Value,
    request: Value,
}

impl Sight {
    fn facts<'s>(&'s self, pass: &'s Pass<'_>, policy: &Policy, param: &'s Value) -> Facts<'s> {
        Facts {
            object: &self.object,
            old: &self.old,
            request: &self.request,
            namespace: &pass.namespace,
            params: policy.param_kind.as_ref().map(|_| param),
            questions: &pass.questions,
        }
    }
}

/// What an expression makes of the object; the text says why nothing.
fn mutated(
    rules: &Mutations,
    mutation: &Mutation,
    facts: &Facts<'_>,
    schema: &Schema,
) -> Result<Result<Value, String>, Box<Check>> {
    let budget = Budget::new(OBJECT_LIMIT);
    let variables = rules.variables.values(facts.values(), &budget);
    Ok(match mutation.program.evaluate(&variables.bindings(), &budget) {
        Ok(value) => patch::changed(mutation.patch, &value, facts.object, schema),
        Err(EvalError::Undecided(check)) => return Err(check),
        Err(EvalError::Budget) => Err(OUT_OF_BUDGET.to_owned()),
        Err(error) => Err(format!("expression '{}' resulted in error: {error}", mutation.source)),
    })
}

/// The schema of the documents of a view.
fn schema(catalog: &Catalog, view: &View<'_>) -> Result<Arc<Schema>, Status> {
    let found = catalog.find_kind(&view.kind).and_then(|resource| resource.schema());
    found.or_else(|| Schema::builtin(&view.kind)).ok_or_else(|| {
        let kind = format!("{}/{}, Kind={}", view.kind.group, view.kind.version, view.kind.kind);
        Status::unavailable(format!(
            "Resource kind {kind} not found. There can be a delay between when CustomResourceDefinitions are created and when they are available."
        ))
    })
}

impl MutatingPolicies {
    /// Evaluates a policy for one parameter; whether it has changed the object.
    async fn invoke(
        &self,
        pass: &mut Pass<'_>,
        rounds: &mut Rounds<'_>,
        invocation: &Invocation<'_, Mutations>,
        object: &mut Object,
    ) -> Result<bool, Status> {
        let Invocation { policy, binding, view, param } = invocation;
        let (Ok(rules), Ok(param)) = (&policy.rules, param) else { return Ok(false) };
        let mut sight = Sight {
            object: pass.seen.document(Some(object), view).await?,
            old: pass.seen.old(view).await?,
            request: pass.seen.request(view).into(),
        };
        let holds = loop {
            match rules.conditions.hold(&sight.facts(pass, policy, param)) {
                Ok(outcome) => break outcome,
                Err(check) => pass.questions.ask(&self.authorizer, *check).await?,
            }
        };
        match holds {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(why) => {
                pass.faults.note(policy, binding, Some("Invalid"), &why);
                return Ok(false);
            }
        }
        let id = id(policy, binding, param);
        if !rounds.has_turn(&id) {
            return Ok(false);
        }
        let mut is_changed = false;
        for mutation in &rules.mutations {
            // A connection may have no object.
            if sight.object.is_null() {
                continue;
            }
            let schema = schema(pass.catalog, view)?;
            let began = Instant::now();
            let outcome = loop {
                match mutated(rules, mutation, &sight.facts(pass, policy, param), &schema) {
                    Ok(outcome) => break outcome,
                    Err(check) => pass.questions.ask(&self.authorizer, *check).await?,
                }
            };
            let failure = outcome.as_ref().err().map(|why| match why.as_str() {
                OUT_OF_BUDGET => Failure::OutOfBudget,
                _ => Failure::Invalid,
            });
            self.metrics.mutated(&policy.name, &binding.name, failure, began.elapsed());
            match outcome {
                Ok(changed) if changed == sight.object => {}
                Ok(changed) => {
                    let before = object.clone();
                    pass.seen.take(object, changed, view).await?;
                    is_changed |= *object != before;
                    sight.object = pass.seen.document(Some(object), view).await?;
                }
                Err(why) => pass.faults.note(policy, binding, Some("Invalid"), &why),
            }
        }
        if is_changed {
            rounds.changed();
        }
        if rules.reinvokes {
            rounds.asked(&id);
        }
        Ok(is_changed)
    }
}

/// What tells an invocation from all others of a request.
fn id(policy: &Policy, binding: &Binding, param: &Value) -> String {
    let text = |field: &str| param["metadata"][field].as_str().unwrap_or_default();
    format!("{}/{}/{}/{}", policy.name, binding.name, text("namespace"), text("name"))
}

#[async_trait]
impl Admission for MutatingPolicies {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        // What is deleted has no object that could be changed.
        attributes.operation != Operation::Delete
            && !self.policies.current().is_empty()
            && !is_spared(attributes)
    }

    async fn mutate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        let policies = self.policies.current();
        let catalog = registry.catalog();
        let seen = Seen::new(registry, &catalog, attributes);
        let found = invocations(registry, attributes, &seen, Some(object), &policies)?;
        if found.is_empty() {
            return Ok(());
        }
        let mut pass = Pass {
            attributes,
            catalog: &catalog,
            seen: &seen,
            questions: Questions::new(attributes.identity, &seen.asked),
            namespace: namespace_object(registry, attributes)?,
            faults: Faults::default(),
        };
        for Invocation { policy, binding, param, .. } in &found {
            if let Err(why) = param {
                pass.faults.note(policy, binding, None, &format!("failed to configure binding: {why}"));
            }
        }
        let mut rounds = Rounds::begin("policies", attributes.reinvocation, object);
        let mut is_changed = false;
        for invocation in &found {
            if let (Err(why), Ok(_)) = (&invocation.policy.rules, &invocation.param) {
                pass.faults.note(invocation.policy, invocation.binding, Some("Invalid"), why);
            }
            is_changed |= self.invoke(&mut pass, &mut rounds, invocation, object).await?;
        }
        if is_changed {
            // A change concerns whoever has made it, too.
            rounds.changed();
        }
        rounds.end(object);
        pass.faults.refuse(pass.attributes)
    }
}
