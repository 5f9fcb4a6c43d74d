//! Expressions about a request: what they see, and how they are evaluated.

use std::sync::{Arc, LazyLock};

use keelson_api::Status;
use keelson_api::admission::Asked;
use keelson_cel::authorizer::{Authorizer as Asker, Check, Decision as Answer};
use keelson_cel::{Budget, Declaration, Environment, EvalError, Program, Type, Value, compile_as};
use parking_lot::Mutex;
use serde_json::Value as Json;

use crate::authorization::{Authorizer, Decision};
use crate::expression::{record, text, texts, user_info};
use crate::identity::Identity;
use crate::request_info::RequestInfo;

/// What all match conditions of one webhook or policy may cost.
const CONDITIONS_LIMIT: u64 = 2_500_000;
/// Questions to the authorizer in one evaluation.
const QUESTIONS: usize = 256;

/// The `request` of expressions. Its object, its old object and its UID are not among its fields.
static REQUEST: LazyLock<Arc<Declaration>> = LazyLock::new(|| {
    let three =
        |name: &str, last: &str| record(name, [("group", text()), ("version", text()), (last, text())]);
    let kind = || three("kubernetes.GroupVersionKind", "kind");
    let resource = || three("kubernetes.GroupVersionResource", "resource");
    record(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind()),
            ("resource", resource()),
            ("subResource", text()),
            ("requestKind", kind()),
            ("requestResource", resource()),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user_info()),
            ("dryRun", Declaration::of(Type::Bool)),
            ("options", Declaration::dynamic()),
        ],
    )
});

/// The `namespaceObject` of expressions.
static NAMESPACE: LazyLock<Arc<Declaration>> = LazyLock::new(|| {
    let labels = || Declaration::map(text());
    let (time, number) = (|| Declaration::of(Type::Timestamp), || Declaration::of(Type::Int));
    let metadata = record(
        "kubernetes.NamespaceMetadata",
        [
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", labels()),
            ("annotations", labels()),
            ("UID", text()),
            ("creationTimestamp", time()),
            ("deletionGracePeriodSeconds", number()),
            ("deletionTimestamp", time()),
            ("generation", number()),
            ("resourceVersion", text()),
            ("finalizers", texts()),
        ],
    );
    let condition = record(
        "kubernetes.NamespaceCondition",
        [
            ("status", text()),
            ("type", text()),
            ("lastTransitionTime", time()),
            ("message", text()),
            ("reason", text()),
        ],
    );
    let status = record(
        "kubernetes.NamespaceStatus",
        [("conditions", Declaration::list(condition)), ("phase", text())],
    );
    let spec = record("kubernetes.NamespaceSpec", [("finalizers", texts())]);
    record("kubernetes.Namespace", [("metadata", metadata), ("spec", spec), ("status", status)])
});

/// The variables of expressions, with `params` or without.
pub fn environment(has_params: bool) -> Environment {
    environment_of(Declaration::dynamic(), has_params)
}

/// The same variables, where something is known of the object.
pub fn environment_of(object: Arc<Declaration>, has_params: bool) -> Environment {
    let environment = Environment::new().authorizer();
    let environment = environment.variable("object", Arc::clone(&object)).variable("oldObject", object);
    let environment = environment.variable("request", Arc::clone(&REQUEST));
    let environment = environment.variable("namespaceObject", Arc::clone(&NAMESPACE));
    if has_params { environment.variable("params", Declaration::dynamic()) } else { environment }
}

/// Compiles an expression whose value is of one of some types; the text says what is wrong with it.
pub fn typed(source: &str, environment: &Environment, wanted: &[Type]) -> Result<Program, String> {
    compile_as(source, environment, wanted).map_err(|error| error.to_string())
}

/// Compiles an expression whose value is true or false.
pub fn condition(source: &str, environment: &Environment) -> Result<Program, String> {
    typed(source, environment, &[Type::Bool])
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
            ("request", Value::from_json(self.request, &REQUEST)),
            ("namespaceObject", Value::from_json(self.namespace, &NAMESPACE)),
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
        let mut conditions = Conditions::default();
        for it in list.as_array().into_iter().flatten() {
            conditions.add(it["expression"].as_str().unwrap_or_default(), &environment)?;
        }
        Ok(conditions)
    }

    /// Compiles one more; the text says what is wrong with it.
    pub fn add(&mut self, source: &str, environment: &Environment) -> Result<(), String> {
        let source = source.trim();
        self.0.push((source.to_owned(), condition(source, environment)?));
        Ok(())
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
