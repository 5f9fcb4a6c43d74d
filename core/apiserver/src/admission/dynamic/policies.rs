//! Validating admission policies as they are configured, compiled.

use std::sync::Arc;

use keelson_api::admission::{GROUP, MatchResources};
use keelson_api::selector::LabelSelector;
use keelson_api::{GroupResource, GroupVersionKind, Object};
use keelson_cel::Composition;
use keelson_cel::{Program, compile};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use super::expression::{Conditions, condition, environment, text};
use crate::cache::{ResourceCache, WatchCache};

/// A policy with its bindings.
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Whether a request goes on when the policy cannot be evaluated.
    pub ignores_failure: bool,
    /// The requests that it is about.
    pub matches: MatchResources,
    /// The kind of its parameters.
    pub param_kind: Option<GroupVersionKind>,
    /// Its expressions; the text says why they cannot be used.
    pub rules: Result<Rules, String>,
    /// Where it applies.
    pub bindings: Vec<Binding>,
}

/// The expressions of a policy.
pub struct Rules {
    /// When it applies.
    pub conditions: Conditions,
    /// Named expressions.
    pub variables: Composition,
    /// What must hold.
    pub validations: Vec<Validation>,
    /// Key, source and expression of audit annotations.
    pub annotations: Vec<(String, String, Program)>,
}

/// One thing that must hold.
pub struct Validation {
    /// The expression as it was written.
    pub source: String,
    /// The expression.
    pub program: Program,
    /// What is told when it does not hold; empty for the expression itself.
    pub message: String,
    /// What is told instead, if it gives a text.
    pub message_program: Option<Program>,
    /// The reason of the refusal; empty for `Invalid`.
    pub reason: String,
}

/// Where a policy applies, and what follows.
pub struct Binding {
    /// Its name.
    pub name: String,
    /// The requests that it is about; `None` for all of the policy's.
    pub matches: Option<MatchResources>,
    /// Which parameters.
    pub params: Option<Params>,
    /// `Deny`, `Warn`, `Audit`.
    pub actions: Vec<String>,
}

/// Which objects are parameters.
pub struct Params {
    /// The one of this name.
    pub name: Option<String>,
    /// Or those with these labels.
    pub selector: LabelSelector,
    /// In this namespace; `None` for that of the request.
    pub namespace: Option<String>,
    /// Whether a request goes on when there are none.
    pub may_be_missing: bool,
}

/// All policies that have bindings.
pub struct Policies {
    policies: Arc<ResourceCache>,
    bindings: Arc<ResourceCache>,
    state: Mutex<State>,
}

struct State {
    newest: [watch::Receiver<u64>; 2],
    read: Vec<(Box<str>, u64)>,
    policies: Arc<[Policy]>,
}

impl Policies {
    /// The policies that the store holds.
    pub fn new(cache: &WatchCache) -> Self {
        let of = |plural| cache.resource(&GroupResource::new(GROUP, plural));
        let (policies, bindings) =
            (of("validatingadmissionpolicies"), of("validatingadmissionpolicybindings"));
        let mut newest = [policies.follow(), bindings.follow()];
        newest.iter_mut().for_each(watch::Receiver::mark_changed);
        let state = State { newest, read: Vec::new(), policies: Arc::new([]) };
        Policies { policies, bindings, state: Mutex::new(state) }
    }

    /// The policies that are configured now.
    pub fn current(&self) -> Arc<[Policy]> {
        let mut state = self.state.lock();
        if state.newest.iter().any(|it| it.has_changed().unwrap_or(true)) {
            for newest in &mut state.newest {
                newest.borrow_and_update();
            }
            let (policies, bindings) = (self.policies.list(), self.bindings.list());
            let all = || policies.objects.values().chain(bindings.objects.values());
            let seen = || all().map(|object| (&object.name, object.revision));
            if !state.read.iter().map(|(name, revision)| (name, *revision)).eq(seen()) {
                state.read = seen().map(|(name, revision)| (name.clone(), revision)).collect();
                let read = |object: &Arc<crate::cache::Cached>| Object::from_slice(&object.bytes).ok();
                let bindings: Vec<Object> = bindings.objects.values().filter_map(read).collect();
                let read = policies.objects.values().filter_map(read);
                state.policies = read.filter_map(|policy| compiled(&policy, &bindings)).collect();
            }
        }
        Arc::clone(&state.policies)
    }
}

/// A policy with its bindings; `None` where it has none.
fn compiled(policy: &Object, bindings: &[Object]) -> Option<Policy> {
    let name = policy.name().unwrap_or_default();
    let own = bindings.iter().filter(|it| it.get_str(&["spec", "policyName"]) == Some(name));
    let bindings: Vec<Binding> = own.filter_map(binding).collect();
    if bindings.is_empty() {
        return None;
    }
    let spec = policy.get(&["spec"])?;
    let matches = match MatchResources::read(&spec["matchConstraints"]) {
        Ok(matches) => matches,
        Err(error) => {
            tracing::error!(%error, policy = name, "the selectors of a policy cannot be read");
            return None;
        }
    };
    let kind = spec["paramKind"].as_object().map(|_| {
        let text = |field: &str| spec["paramKind"][field].as_str().unwrap_or_default();
        GroupVersionKind::from_api_version(text("apiVersion"), text("kind"))
    });
    Some(Policy {
        name: name.to_owned(),
        ignores_failure: spec["failurePolicy"].as_str() == Some("Ignore"),
        matches,
        param_kind: kind,
        rules: Rules::read(spec)
            .map_err(|faults| faults.into_iter().map(|(_, _, why)| why).collect::<Vec<_>>().join(", ")),
        bindings,
    })
}

fn binding(binding: &Object) -> Option<Binding> {
    let spec = binding.get(&["spec"])?;
    let resources = &spec["matchResources"];
    let matches = match resources.is_null() {
        true => None,
        false => Some(MatchResources::read(resources).ok()?),
    };
    let reference = &spec["paramRef"];
    let text = |field: &str| reference[field].as_str().map(str::to_owned);
    let params = match reference.is_null() {
        true => None,
        false => Some(Params {
            name: text("name").filter(|name| !name.is_empty()),
            selector: LabelSelector::from_value(&reference["selector"]).ok()?,
            namespace: text("namespace").filter(|namespace| !namespace.is_empty()),
            may_be_missing: reference["parameterNotFoundAction"].as_str() == Some("Allow"),
        }),
    };
    let actions = spec["validationActions"].as_array().into_iter().flatten();
    let actions = actions.filter_map(Value::as_str).map(str::to_owned).collect();
    Some(Binding { name: binding.name().unwrap_or_default().to_owned(), matches, params, actions })
}

/// A fault of an expression: its path below the spec, the expression, and what is wrong.
pub type ExpressionFault = (String, String, String);

impl Rules {
    /// Compiles the expressions of a policy's spec.
    pub fn read(spec: &Value) -> Result<Self, Vec<ExpressionFault>> {
        let mut faults = Vec::new();
        let has_params = !spec["paramKind"].is_null();
        let base = environment(has_params);
        let mut note = |path: String, source: &str, why: String| faults.push((path, source.to_owned(), why));
        let items = |field: &str| spec[field].as_array().into_iter().flatten().enumerate();
        fn source<'a>(it: &'a Value, field: &str) -> &'a str {
            it[field].as_str().unwrap_or_default()
        }
        for (at, it) in items("matchConditions") {
            if let Err(why) = condition(source(it, "expression").trim(), &base) {
                note(format!("matchConditions[{at}].expression"), source(it, "expression"), why);
            }
        }
        let mut variables = Composition::default();
        for (at, it) in items("variables") {
            if let Err(error) = variables.add(source(it, "name"), source(it, "expression"), &base) {
                let why = format!("compilation failed: {error}");
                note(format!("variables[{at}].expression"), source(it, "expression"), why);
            }
        }
        let composed = variables.environment(&base);
        let mut validations = Vec::new();
        for (at, it) in items("validations") {
            let message_source = source(it, "messageExpression");
            let message_program = match message_source {
                "" => None,
                written => text(written, &composed)
                    .map_err(|why| note(format!("validations[{at}].messageExpression"), written, why))
                    .ok(),
            };
            match condition(source(it, "expression"), &composed) {
                Ok(program) => validations.push(Validation {
                    source: source(it, "expression").to_owned(),
                    program,
                    message: source(it, "message").to_owned(),
                    message_program,
                    reason: source(it, "reason").to_owned(),
                }),
                Err(why) => note(format!("validations[{at}].expression"), source(it, "expression"), why),
            }
        }
        let mut annotations = Vec::new();
        for (at, it) in items("auditAnnotations") {
            let written = source(it, "valueExpression");
            match compile(written, &composed) {
                Ok(program) => annotations.push((source(it, "key").to_owned(), written.to_owned(), program)),
                Err(error) => {
                    let why = format!("compilation failed: {error}");
                    note(format!("auditAnnotations[{at}].valueExpression"), written, why);
                }
            }
        }
        let conditions = match Conditions::read(&spec["matchConditions"], has_params) {
            Ok(conditions) if faults.is_empty() => conditions,
            Ok(_) | Err(_) => return Err(faults),
        };
        Ok(Rules { conditions, variables, validations, annotations })
    }
}
