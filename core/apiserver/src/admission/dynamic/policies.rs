//! Admission policies as they are configured, compiled. What their expressions are for depends on their kind.

use std::sync::Arc;

use keelson_api::admission::{GROUP, MatchResources};
use keelson_api::selector::LabelSelector;
use keelson_api::{GroupResource, GroupVersionKind, Object};
use keelson_cel::{Composition, Environment};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use super::expression::{Conditions, environment};
use crate::cache::{ResourceCache, WatchCache};

/// The expressions of policies of one kind.
pub trait Rules: Sized {
    /// The resource of the policies.
    const POLICIES: &'static str;
    /// The resource of their bindings.
    const BINDINGS: &'static str;

    /// Compiles the expressions of a policy's spec.
    ///
    /// # Errors
    /// The faults of all of them.
    fn read(spec: &Value) -> Result<Self, Vec<ExpressionFault>>;
}

/// A policy with its bindings.
pub struct Policy<R> {
    /// Its name.
    pub name: String,
    /// Whether a request goes on when the policy cannot be evaluated.
    pub ignores_failure: bool,
    /// The requests that it is about.
    pub matches: MatchResources,
    /// The kind of its parameters.
    pub param_kind: Option<GroupVersionKind>,
    /// Its expressions; the text says why they cannot be used.
    pub rules: Result<R, String>,
    /// Where it applies.
    pub bindings: Vec<Binding>,
}

/// Where a policy applies, and what follows.
pub struct Binding {
    /// Its name.
    pub name: String,
    /// The requests that it is about; `None` for all of the policy's.
    pub matches: Option<MatchResources>,
    /// Which parameters.
    pub params: Option<Params>,
    /// `Deny`, `Warn`, `Audit`, where the policy validates.
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

/// All policies of a kind that have bindings.
pub struct Policies<R> {
    policies: Arc<ResourceCache>,
    bindings: Arc<ResourceCache>,
    state: Mutex<State<R>>,
}

struct State<R> {
    newest: [watch::Receiver<u64>; 2],
    read: Vec<(Box<str>, u64)>,
    policies: Arc<[Policy<R>]>,
}

impl<R: Rules> Policies<R> {
    /// The policies that the store holds.
    pub fn new(cache: &WatchCache) -> Self {
        let of = |plural| cache.resource(&GroupResource::new(GROUP, plural));
        let (policies, bindings) = (of(R::POLICIES), of(R::BINDINGS));
        let mut newest = [policies.follow(), bindings.follow()];
        newest.iter_mut().for_each(watch::Receiver::mark_changed);
        let state = State { newest, read: Vec::new(), policies: Arc::new([]) };
        Policies { policies, bindings, state: Mutex::new(state) }
    }

    /// The policies that are configured now.
    pub fn current(&self) -> Arc<[Policy<R>]> {
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
fn compiled<R: Rules>(policy: &Object, bindings: &[Object]) -> Option<Policy<R>> {
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
        rules: R::read(spec)
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

/// The items of a list in a spec, with their places.
pub(super) fn items<'a>(spec: &'a Value, field: &str) -> impl Iterator<Item = (usize, &'a Value)> + use<'a> {
    spec[field].as_array().into_iter().flatten().enumerate()
}

/// A text in a spec; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// What the expressions of all kinds of policies have in common: when a policy applies, and its variables.
pub(super) struct Common {
    pub(super) conditions: Conditions,
    pub(super) variables: Composition,
    /// For the expressions that may use the variables.
    pub(super) environment: Environment,
    pub(super) faults: Vec<ExpressionFault>,
}

impl Common {
    /// Compiles them.
    pub(super) fn read(spec: &Value) -> Self {
        let base = environment(!spec["paramKind"].is_null());
        let (mut conditions, mut variables) = (Conditions::default(), Composition::default());
        let mut faults = Vec::new();
        for (at, it) in items(spec, "matchConditions") {
            let source = text(it, "expression").trim();
            if let Err(why) = conditions.add(source, &base) {
                faults.push((format!("matchConditions[{at}].expression"), source.to_owned(), why));
            }
        }
        for (at, it) in items(spec, "variables") {
            let source = text(it, "expression");
            if let Err(error) = variables.add(text(it, "name"), source, &base) {
                let why = format!("compilation failed: {error}");
                faults.push((format!("variables[{at}].expression"), source.to_owned(), why));
            }
        }
        let environment = variables.environment(&base);
        Common { conditions, variables, environment, faults }
    }

    /// Takes down what is wrong with an expression.
    pub(super) fn note(&mut self, path: String, source: &str, why: String) {
        self.faults.push((path, source.to_owned(), why));
    }
}
