//! Who is granted what, by subject: made from roles and bindings when one of them has changed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Rule;
use crate::cache::{Cached, ResourceCache};
use crate::identity::Identity;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subject {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct RoleRef {
    kind: String,
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Binding {
    #[serde(default)]
    subjects: Option<Vec<Subject>>,
    role_ref: RoleRef,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Role {
    rules: Option<Vec<Rule>>,
    aggregation_rule: Option<AggregationRule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AggregationRule {
    cluster_role_selectors: Vec<serde_json::Value>,
}

/// Objects as they were read, by key, with the revision at which that was.
type Read<T> = HashMap<Arc<str>, (u64, Arc<T>)>;

/// Reads what is new; what cannot be read grants nothing.
fn refresh<T: DeserializeOwned>(read: &mut Read<T>, cache: &ResourceCache, what: &'static str) {
    let listing = cache.list();
    read.retain(|key, _| listing.objects.contains_key(key));
    for (key, object) in &listing.objects {
        if read.get(key).is_some_and(|(revision, _)| *revision == object.revision) {
            continue;
        }
        match serde_json::from_slice(&object.bytes) {
            Ok(it) => drop(read.insert(Arc::clone(key), (object.revision, Arc::new(it)))),
            Err(error) => {
                tracing::warn!(%error, object = %key, kind = what, "it cannot be read and grants nothing");
                read.remove(key);
            }
        }
    }
}

/// The rules that a subject has by one binding.
pub(super) struct Grant {
    /// The binding's namespace; `None` for the whole cluster.
    namespace: Option<Arc<str>>,
    binding: Arc<str>,
    role_kind: Arc<str>,
    role: Arc<str>,
    /// The rules.
    pub(super) rules: Arc<[Rule]>,
}

impl Grant {
    fn reaches(&self, namespace: Option<&str>) -> bool {
        self.namespace.is_none() || (namespace.is_some() && self.namespace.as_deref() == namespace)
    }

    /// Why something is allowed, as upstream says it.
    pub(super) fn reason(&self, subject: &str) -> String {
        let kind = if self.namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" };
        let binding = match &self.namespace {
            Some(namespace) => format!("{}/{namespace}", self.binding),
            None => self.binding.to_string(),
        };
        format!("RBAC: allowed by {kind} {binding:?} of {} {:?} to {subject}", self.role_kind, self.role)
    }
}

/// What is granted to whom.
#[derive(Default)]
pub(super) struct Index {
    users: HashMap<Box<str>, Vec<Arc<Grant>>>,
    groups: HashMap<Box<str>, Vec<Arc<Grant>>>,
}

impl Index {
    /// What a caller is granted that reaches a namespace; without one, what reaches the cluster. With the subject by
    /// which it is granted: a group, or nothing for the caller.
    pub(super) fn of<'a>(
        &'a self,
        who: &'a Identity,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (Option<&'a str>, &'a Grant)> {
        let user = self.users.get(who.username.as_str()).into_iter().flatten().map(|grant| (None, grant));
        let groups = who.groups.iter().flat_map(|group| {
            self.groups.get(group.as_str()).into_iter().flatten().map(|grant| (Some(group.as_str()), grant))
        });
        let all = user.chain(groups).map(|(group, grant)| (group, &**grant));
        all.filter(move |(_, grant)| grant.reaches(namespace))
    }

    fn add(&mut self, subject: &Subject, grant: &Arc<Grant>) {
        let (map, name) = match subject.kind.as_str() {
            "User" => (&mut self.users, subject.name.clone()),
            "Group" => (&mut self.groups, subject.name.clone()),
            "ServiceAccount" => {
                let namespace = subject.namespace.as_deref().unwrap_or_default();
                (&mut self.users, format!("system:serviceaccount:{namespace}:{}", subject.name))
            }
            // Validation lets no other kind in.
            other => return tracing::warn!(kind = other, "a subject of an unknown kind is granted nothing"),
        };
        map.entry(name.into()).or_default().push(Arc::clone(grant));
    }
}

/// What has been read of roles and bindings, so that a change costs what has changed.
#[derive(Default)]
pub(super) struct Reader {
    roles: Read<Role>,
    cluster_roles: Read<Role>,
    bindings: Read<Binding>,
    cluster_bindings: Read<Binding>,
}

/// The caches of roles, cluster roles, role bindings and cluster role bindings.
pub(super) struct Caches<'a> {
    pub(super) roles: &'a ResourceCache,
    pub(super) cluster_roles: &'a ResourceCache,
    pub(super) bindings: &'a ResourceCache,
    pub(super) cluster_bindings: &'a ResourceCache,
}

impl Reader {
    /// Reads what has changed and makes the index.
    pub(super) fn index(&mut self, caches: &Caches<'_>) -> Index {
        refresh(&mut self.roles, caches.roles, "Role");
        refresh(&mut self.cluster_roles, caches.cluster_roles, "ClusterRole");
        refresh(&mut self.bindings, caches.bindings, "RoleBinding");
        refresh(&mut self.cluster_bindings, caches.cluster_bindings, "ClusterRoleBinding");
        let mut index = Index::default();
        let mut rules: HashMap<(bool, String), Arc<[Rule]>> = HashMap::new();
        for (key, (_, binding)) in self.bindings.iter().chain(&self.cluster_bindings) {
            let (namespace, name) = match key.split_once('/') {
                Some((namespace, name)) => (Some(Arc::from(namespace)), name),
                None => (None, &**key),
            };
            let reference = &binding.role_ref;
            let role = match (reference.kind.as_str(), &namespace) {
                ("ClusterRole", _) => (true, reference.name.clone()),
                ("Role", Some(namespace)) => (false, format!("{namespace}/{}", reference.name)),
                _ => continue,
            };
            let rules = rules.entry(role).or_insert_with_key(|(cluster, key)| {
                if *cluster { self.cluster_role(key, caches.cluster_roles) } else { self.role(key) }
            });
            let grant = Arc::new(Grant {
                namespace,
                binding: name.into(),
                role_kind: reference.kind.as_str().into(),
                role: reference.name.as_str().into(),
                rules: Arc::clone(rules),
            });
            for subject in binding.subjects.iter().flatten() {
                index.add(subject, &grant);
            }
        }
        index
    }

    fn role(&self, key: &str) -> Arc<[Rule]> {
        let rules = self.roles.get(key).and_then(|(_, role)| role.rules.clone());
        rules.unwrap_or_default().into()
    }

    /// The rules of a cluster role; of an aggregated one, those of the roles that it selects, which may themselves
    /// be aggregated.
    fn cluster_role(&self, name: &str, cache: &ResourceCache) -> Arc<[Rule]> {
        let mut seen = HashSet::new();
        let mut waiting: Vec<String> = vec![name.to_owned()];
        let mut granted: Vec<Rule> = Vec::new();
        while let Some(name) = waiting.pop() {
            let Some((_, role)) = self.cluster_roles.get(name.as_str()) else { continue };
            if !seen.insert(name) {
                continue;
            }
            match &role.aggregation_rule {
                None => granted.extend(role.rules.iter().flatten().cloned()),
                Some(aggregation) => waiting.extend(selected(aggregation, cache)),
            }
        }
        granted.into()
    }
}

fn selected(aggregation: &AggregationRule, cache: &ResourceCache) -> Vec<String> {
    let selectors = aggregation.cluster_role_selectors.iter();
    let selectors: Vec<_> =
        selectors.filter_map(|it| keelson_api::selector::LabelSelector::from_value(it).ok()).collect();
    let fits = |it: &&Arc<Cached>| selectors.iter().any(|one| one.matches(it.labels.as_ref()));
    cache.list().objects.values().filter(fits).map(|it| it.name.to_string()).collect()
}

/// The rules of one role or cluster role as it stands now.
pub(super) fn role_rules(caches: &Caches<'_>, cluster: bool, key: &str) -> Vec<Rule> {
    let mut reader = Reader::default();
    if !cluster {
        let read = |object: Arc<Cached>| serde_json::from_slice::<Role>(&object.bytes).ok()?.rules;
        return caches.roles.get(key).and_then(read).unwrap_or_default();
    }
    refresh(&mut reader.cluster_roles, caches.cluster_roles, "ClusterRole");
    reader.cluster_role(key, caches.cluster_roles).to_vec()
}
