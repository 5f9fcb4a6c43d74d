//! RBAC: what roles and their bindings allow. Bindings are indexed by subject; the index is made again at
//! the first question after a change.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::Object;
use keelson_api::selector::LabelSelector;
use parking_lot::Mutex;
use serde_json::Value;

use crate::authorization::rule::Rule;
use crate::authorization::{Authorizer, Decision};
use crate::identity::Identity;
use crate::reader::ObjectReader;
use crate::request_info::RequestInfo;

/// The group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// A binding's rules, and the namespace to which they are limited.
#[derive(Clone, Debug)]
struct Grant {
    namespace: Option<String>,
    rules: Arc<Vec<Rule>>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
}

/// Bindings by subject: a snapshot that does not change.
#[derive(Debug, Default)]
pub struct Index {
    grants: HashMap<Subject, Vec<Grant>>,
}

/// The rules of a role; malformed rules grant nothing.
pub fn rules_of(role: &Object) -> Vec<Rule> {
    let rules = role.get(&["rules"]).and_then(Value::as_array);
    rules.into_iter().flatten().filter_map(|rule| serde_json::from_value(rule.clone()).ok()).collect()
}

/// The rules of a ClusterRole, aggregated from others where it says so.
pub fn cluster_role_rules(role: &Object, all: &[Arc<Object>]) -> Vec<Rule> {
    fn add(role: &Object, all: &[Arc<Object>], depth: u8, rules: &mut Vec<Rule>) {
        let selectors = role.get(&["aggregationRule", "clusterRoleSelectors"]).and_then(Value::as_array);
        let Some(selectors) = selectors else {
            rules.extend(rules_of(role).into_iter().filter(|rule| !rules.contains(rule)).collect::<Vec<_>>());
            return;
        };
        // Roles may select each other in a ring: the depth ends it.
        if depth == 0 {
            return;
        }
        for selector in selectors.iter().filter_map(|selector| LabelSelector::from_value(selector).ok()) {
            for other in all.iter().filter(|other| other.name() != role.name()) {
                if selector.matches(other.labels()) {
                    add(other, all, depth - 1, rules);
                }
            }
        }
    }
    let mut rules = Vec::new();
    add(role, all, 8, &mut rules);
    rules
}

fn subjects(binding: &Object) -> Vec<Subject> {
    let text = |subject: &Value, field: &str| subject.get(field).and_then(Value::as_str).map(str::to_owned);
    let subjects = binding.get(&["subjects"]).and_then(Value::as_array);
    let subjects = subjects.into_iter().flatten().filter_map(|subject| {
        let name = text(subject, "name")?;
        match text(subject, "kind")?.as_str() {
            "User" => Some(Subject::User(name)),
            "Group" => Some(Subject::Group(name)),
            "ServiceAccount" => {
                let namespace =
                    text(subject, "namespace").or_else(|| binding.namespace().map(str::to_owned))?;
                Some(Subject::User(format!("system:serviceaccount:{namespace}:{name}")))
            }
            _ => None,
        }
    });
    subjects.collect()
}

impl Index {
    /// Reads all roles and bindings.
    pub fn build(reader: &dyn ObjectReader) -> Self {
        let cluster_roles = reader.list(GROUP, "clusterroles", None);
        let mut resolved: HashMap<String, Arc<Vec<Rule>>> = HashMap::new();
        for role in &cluster_roles {
            if let Some(name) = role.name() {
                resolved.insert(name.to_owned(), Arc::new(cluster_role_rules(role, &cluster_roles)));
            }
        }
        let mut roles: HashMap<(String, String), Arc<Vec<Rule>>> = HashMap::new();
        for role in reader.list(GROUP, "roles", None) {
            if let (Some(namespace), Some(name)) = (role.namespace(), role.name()) {
                roles.insert((namespace.to_owned(), name.to_owned()), Arc::new(rules_of(&role)));
            }
        }
        let mut index = Self::default();
        let cluster_bindings = reader.list(GROUP, "clusterrolebindings", None);
        let bindings = reader.list(GROUP, "rolebindings", None);
        for binding in cluster_bindings.iter().chain(&bindings) {
            let Some(name) = binding.get_str(&["roleRef", "name"]) else { continue };
            let rules = match (binding.get_str(&["roleRef", "kind"]), binding.namespace()) {
                (Some("ClusterRole"), _) => resolved.get(name),
                (Some("Role"), Some(namespace)) => roles.get(&(namespace.to_owned(), name.to_owned())),
                _ => None,
            };
            let Some(rules) = rules else { continue };
            for subject in subjects(binding) {
                let grant =
                    Grant { namespace: binding.namespace().map(str::to_owned), rules: Arc::clone(rules) };
                index.grants.entry(subject).or_default().push(grant);
            }
        }
        index
    }

    fn grants<'a>(&'a self, who: &Identity, namespace: Option<&'a str>) -> impl Iterator<Item = &'a Grant> {
        let user = std::iter::once(Subject::User(who.username.clone()));
        let groups: Vec<Subject> = who.groups.iter().cloned().map(Subject::Group).collect();
        user.chain(groups)
            .filter_map(|subject| self.grants.get(&subject))
            .flatten()
            .filter(move |grant| grant.namespace.is_none() || grant.namespace.as_deref() == namespace)
    }

    /// Whether a rule bound to `who` allows the request.
    pub fn allows(&self, who: &Identity, info: &RequestInfo) -> bool {
        self.grants(who, info.namespace.as_deref())
            .any(|grant| grant.rules.iter().any(|rule| rule.allows(info)))
    }

    /// All rules bound to `who`, for the cluster and for the namespace.
    pub fn rules_for(&self, who: &Identity, namespace: Option<&str>) -> Vec<Rule> {
        self.grants(who, namespace).flat_map(|grant| grant.rules.iter().cloned()).collect()
    }
}

/// The RBAC authorizer.
pub struct Rbac {
    reader: Arc<dyn ObjectReader>,
    index: Mutex<(u64, Option<Arc<Index>>)>,
}

impl Rbac {
    /// An authorizer over stored roles and bindings.
    pub fn new(reader: Arc<dyn ObjectReader>) -> Self {
        Self { reader, index: Mutex::new((0, None)) }
    }

    /// To be called after a role or binding changed, before the writer is answered.
    pub fn invalidate(&self) {
        let mut index = self.index.lock();
        index.0 += 1;
        index.1 = None;
    }

    /// The current index.
    pub fn index(&self) -> Arc<Index> {
        let epoch = {
            let index = self.index.lock();
            match &index.1 {
                Some(current) => return Arc::clone(current),
                None => index.0,
            }
        };
        // Built without the lock: the reader may itself wait for a write that invalidates.
        let built = Arc::new(Index::build(self.reader.as_ref()));
        let mut index = self.index.lock();
        if index.0 == epoch {
            index.1 = Some(Arc::clone(&built));
        }
        built
    }

    /// The reader of roles and bindings.
    pub fn reader(&self) -> &dyn ObjectReader {
        self.reader.as_ref()
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, who: &Identity, info: &RequestInfo) -> Decision {
        if self.index().allows(who, info) { Decision::Allow } else { Decision::NoOpinion }
    }
}
