//! Expressions about a request: what they see, and how they are evaluated.

use std::sync::Arc;

use keelson_api::Status;
use keelson_api::admission::Asked;
use keelson_cel::authorizer::{Authorizer as Asker, Check, Decision as Answer};
use keelson_cel::{Budget, Declaration, Environment, EvalError, Program, Value, compile};
use parking_lot::Mutex;
use serde_json::Value as Json;

use crate::authorization::{Authorizer, Decision};
use crate::identity::Identity;
use crate::request_info::RequestInfo;

/// What all match conditions of one webhook or policy may cost.
const CONDITIONS_LIMIT: u64 = 2_500_000;
/// Questions to the authorizer in one evaluation.
const QUESTIONS: usize = 256;

/// The variables of expressions, with `params` or without.
pub fn environment(has_params: bool) -> Environment {
    environment_of(Declaration::dynamic(), has_params)
}

/// The same variables, where something is known of the object.
pub fn environment_of(object: Arc<Declaration>, has_params: bool) -> Environment {
    let environment = Environment::new().authorizer();
    let environment = environment.variable("object", Arc::clone(&object)).variable("oldObject", object);
    let environment = environment.variable("request", Declaration::dynamic());
    let environment = environment.variable("namespaceObject", Declaration::dynamic());
    if has_params { environment.variable("params", Declaration::dynamic()) } else { environment }
}

/// Compiles an expression whose value is true or false; the text says what is wrong with it.
pub fn condition(source: &str, environment: &Environment) -> Result<Program, String> {
    let program = compile(source, environment).map_err(|error| format!("compilation failed: {error}"))?;
    if program.is_bool() { Ok(program) } else { Err("must evaluate to bool".to_owned()) }
}

/// Compiles an expression whose value is a text.
pub fn text(source: &str, environment: &Environment) -> Result<Program, String> {
    let program = compile(source, environment).map_err(|error| format!("compilation failed: {error}"))?;
    if program.is_text() { Ok(program) } else { Err("must evaluate to string".to_owned()) }
}

/// What expressions see of one request.
pub struct Facts<'a> {
    /// The new state.
    pub object: &'a Json,
    /// The old state.
    pub old: &'a Json,
    /// The request.
    pub request: &'a Json,
    /// The object of the namespace.
    pub namespace: &'a Json,
    /// The parameter; `None` where there are none.
    pub params: Option<&'a Json>,
    /// The authorizer.
    pub questions: &'a Questions<'a>,
}

impl<'a> Facts<'a> {
    /// The values of the variables.
    pub fn values(&self) -> Vec<(&'a str, Value<'a>)> {
        let mut values = vec![
            ("object", Value::dynamic(self.object)),
            ("oldObject", Value::dynamic(self.old)),
            ("request", Value::dynamic(self.request)),
            ("namespaceObject", Value::dynamic(self.namespace)),
            ("authorizer", Value::authorizer(self.questions)),
        ];
        values.extend(self.params.map(|params| ("params", Value::dynamic(params))));
        values
    }
}

/// The conditions under which a webhook or policy is asked.
#[derive(Debug, Default)]
pub struct Conditions(Vec<(String, Program)>);

impl Conditions {
    /// Compiles `matchConditions`.
    pub fn read(list: &Json, has_params: bool) -> Result<Self, String> {
        let environment = environment(has_params);
        let compiled = list.as_array().into_iter().flatten().map(|it| {
            let source = it["expression"].as_str().unwrap_or_default();
            Ok((source.trim().to_owned(), condition(source.trim(), &environment)?))
        });
        compiled.collect::<Result<_, String>>().map(Conditions)
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold; one that does not counts before any that cannot be evaluated.
    ///
    /// # Errors
    /// A question that the authorizer has yet to answer, or the text of what went wrong.
    pub fn hold(&self, facts: &Facts<'_>) -> Result<Result<bool, String>, Box<Check>> {
        let (values, budget) = (facts.values(), Budget::new(CONDITIONS_LIMIT));
        let mut faults = Vec::new();
        for (source, program) in &self.0 {
            match program.evaluate(&values, &budget) {
                Ok(value) if value.is_true() => {}
                Ok(_) => return Ok(Ok(false)),
                Err(EvalError::Undecided(check)) => return Err(check),
                Err(error) => faults.push(format!("expression '{source}' resulted in error: {error}")),
            }
        }
        Ok(match faults.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        })
    }
}

/// What the authorizer was asked for one request, and what it said.
#[derive(Debug)]
pub struct Questions<'a> {
    who: &'a Identity,
    resource: Check,
    known: Mutex<Vec<(Check, Answer)>>,
}

impl<'a> Questions<'a> {
    /// Questions about a request of a caller.
    pub fn new(who: &'a Identity, asked: &Asked<'_>) -> Self {
        let resource = Check {
            group: asked.subject.group.to_owned(),
            resource: asked.subject.resource.to_owned(),
            subresource: asked.subresource.to_owned(),
            namespace: asked.namespace.unwrap_or_default().to_owned(),
            name: asked.name.to_owned(),
            ..Check::default()
        };
        Questions { who, resource, known: Mutex::default() }
    }

    /// Has a question answered.
    pub async fn ask(&self, authorizer: &Arc<dyn Authorizer>, check: Check) -> Result<(), Status> {
        if self.known.lock().len() >= QUESTIONS {
            return Err(Status::internal("an expression asks the authorizer too often"));
        }
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let info = RequestInfo {
            verb: check.verb.clone(),
            is_resource: check.path.is_none(),
            path: check.path.clone().unwrap_or_default(),
            group: check.group.clone(),
            version: "*".to_owned(),
            resource: check.resource.clone(),
            subresource: check.subresource.clone(),
            namespace: some(&check.namespace),
            name: some(&check.name),
            ..RequestInfo::default()
        };
        let account = check
            .service_account
            .as_ref()
            .map(|(namespace, name)| Identity::service_account(namespace, name));
        let who = account.as_ref().unwrap_or(self.who);
        let answer = match authorizer.authorize(who, &info).await {
            Decision::Allow => Answer { allowed: true, ..Answer::default() },
            Decision::Deny { reason } => Answer { reason, ..Answer::default() },
            Decision::NoOpinion => Answer::default(),
        };
        self.known.lock().push((check, answer));
        Ok(())
    }
}

impl Asker for Questions<'_> {
    fn decide(&self, check: &Check) -> Option<Answer> {
        let known = self.known.lock();
        known.iter().find(|(asked, _)| asked == check).map(|(_, answer)| answer.clone())
    }

    fn request_resource(&self) -> Check {
        self.resource.clone()
    }
}
