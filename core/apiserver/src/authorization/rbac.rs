//! RBAC: a request is allowed if a rule of a role that is bound to the caller allows it.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::GroupResource;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Authorizer, Decision};
use crate::cache::{Cached, ResourceCache, WatchCache};
use crate::identity::Identity;
use crate::request_info::RequestInfo;

/// The group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// A rule of a role.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// API groups, or `*`.
    pub api_groups: Vec<String>,
    /// Resources, `resource/subresource`, `*`, `*/subresource`.
    pub resources: Vec<String>,
    /// Names; none for all.
    pub resource_names: Vec<String>,
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// Paths that are no resources; `*` at the end stands for anything.
    #[serde(rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<String>,
}

fn any(list: &[String], wanted: &str) -> bool {
    list.iter().any(|it| it == "*" || it == wanted)
}

impl Rule {
    /// Whether it allows a request.
    pub fn allows(&self, info: &RequestInfo) -> bool {
        if !any(&self.verbs, &info.verb) {
            return false;
        }
        if !info.is_resource {
            return self.non_resource_urls.iter().any(|url| match url.strip_suffix('*') {
                Some(prefix) => info.path.starts_with(prefix),
                None => *url == info.path,
            });
        }
        let resource = match info.subresource.as_str() {
            "" => info.resource.clone(),
            subresource => format!("{}/{subresource}", info.resource),
        };
        let fits = self.resources.iter().any(|it| {
            it == "*"
                || *it == resource
                || (!info.subresource.is_empty() && it.strip_prefix("*/") == Some(info.subresource.as_str()))
        });
        let named = self.resource_names.is_empty()
            || info.object_name().is_some_and(|name| self.resource_names.iter().any(|it| *it == name));
        fits && named && any(&self.api_groups, &info.group)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subject {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: Option<String>,
}

impl Subject {
    fn is(&self, who: &Identity) -> bool {
        match self.kind.as_str() {
            "User" => self.name == who.username,
            "Group" => who.is_in(&self.name),
            "ServiceAccount" => {
                let namespace = self.namespace.as_deref().unwrap_or_default();
                who.username == format!("system:serviceaccount:{namespace}:{}", self.name)
            }
            _ => false,
        }
    }
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

/// A binding with the rules that it grants.
struct Grant {
    namespace: Option<Box<str>>,
    subjects: Vec<Subject>,
    rules: Vec<Rule>,
}

/// The authorizer. Its index is made anew when a role or binding has changed.
pub struct Rbac {
    roles: Arc<ResourceCache>,
    cluster_roles: Arc<ResourceCache>,
    bindings: Arc<ResourceCache>,
    cluster_bindings: Arc<ResourceCache>,
    index: Mutex<Option<Index>>,
}

struct Index {
    at: [u64; 4],
    grants: Arc<Vec<Grant>>,
}

impl Rbac {
    /// An authorizer over the roles and bindings of a cache.
    pub fn new(cache: &WatchCache) -> Self {
        let of = |resource: &str| cache.resource(&GroupResource::new(GROUP, resource));
        Rbac {
            roles: of("roles"),
            cluster_roles: of("clusterroles"),
            bindings: of("rolebindings"),
            cluster_bindings: of("clusterrolebindings"),
            index: Mutex::new(None),
        }
    }

    fn grants(&self) -> Arc<Vec<Grant>> {
        let caches = [&self.roles, &self.cluster_roles, &self.bindings, &self.cluster_bindings];
        // The place is read before the objects: a change in between makes the next call read again.
        let at = caches.map(|cache| *cache.follow().borrow());
        let mut index = self.index.lock();
        if let Some(index) = index.as_ref().filter(|index| index.at == at) {
            return Arc::clone(&index.grants);
        }
        let grants = Arc::new(self.read());
        *index = Some(Index { at, grants: Arc::clone(&grants) });
        grants
    }

    fn read(&self) -> Vec<Grant> {
        let bindings = [&self.bindings, &self.cluster_bindings].map(|cache| cache.list());
        let mut grants = Vec::new();
        for object in bindings.iter().flat_map(|listing| listing.objects.values()) {
            let Ok(binding) = serde_json::from_slice::<Binding>(&object.bytes) else {
                tracing::warn!(object = %object.name, "a role binding cannot be read and grants nothing");
                continue;
            };
            let reference = &binding.role_ref;
            let rules = self.role_rules(&reference.kind, object.namespace.as_deref(), &reference.name);
            grants.push(Grant {
                namespace: object.namespace.clone(),
                subjects: binding.subjects.unwrap_or_default(),
                rules,
            });
        }
        grants
    }

    /// The rules of a cluster role; of an aggregated one, those of the roles that it selects, which may themselves
    /// be aggregated.
    fn cluster_role(&self, name: &str) -> Vec<Rule> {
        let mut seen = HashSet::new();
        let mut waiting: Vec<Arc<Cached>> = self.cluster_roles.get(name).into_iter().collect();
        let mut granted = Vec::new();
        while let Some(object) = waiting.pop() {
            if !seen.insert(object.name.clone()) {
                continue;
            }
            let Ok(role) = serde_json::from_slice::<Role>(&object.bytes) else {
                tracing::warn!(object = %object.name, "a cluster role cannot be read and grants nothing");
                continue;
            };
            let Some(aggregation) = role.aggregation_rule else {
                granted.extend(role.rules.unwrap_or_default());
                continue;
            };
            let selectors: Vec<_> = aggregation
                .cluster_role_selectors
                .iter()
                .filter_map(|it| keelson_api::selector::LabelSelector::from_value(it).ok())
                .collect();
            let listing = self.cluster_roles.list();
            let selected = listing
                .objects
                .values()
                .filter(|it| selectors.iter().any(|one| one.matches(it.labels.as_deref())));
            waiting.extend(selected.cloned());
        }
        granted
    }

    /// The rules of a role or cluster role.
    pub fn role_rules(&self, kind: &str, namespace: Option<&str>, name: &str) -> Vec<Rule> {
        match (kind, namespace) {
            ("ClusterRole", _) => self.cluster_role(name),
            ("Role", Some(namespace)) => rules(self.roles.get(&format!("{namespace}/{name}")).as_deref()),
            _ => Vec::new(),
        }
    }

    /// Whether the role or cluster role is there.
    pub fn has_role(&self, kind: &str, namespace: Option<&str>, name: &str) -> bool {
        match (kind, namespace) {
            ("ClusterRole", _) => self.cluster_roles.get(name).is_some(),
            ("Role", Some(namespace)) => self.roles.get(&format!("{namespace}/{name}")).is_some(),
            _ => false,
        }
    }

    /// All rules that the caller holds, in the cluster and in the namespace.
    pub fn rules_for(&self, who: &Identity, namespace: Option<&str>) -> Vec<Rule> {
        let grants = self.grants();
        let held = grants.iter().filter(|grant| {
            (grant.namespace.is_none() || grant.namespace.as_deref() == namespace)
                && grant.subjects.iter().any(|subject| subject.is(who))
        });
        held.flat_map(|grant| grant.rules.iter().cloned()).collect()
    }
}

fn rules(object: Option<&crate::cache::Cached>) -> Vec<Rule> {
    let role = object.and_then(|object| serde_json::from_slice::<Role>(&object.bytes).ok());
    role.and_then(|role| role.rules).unwrap_or_default()
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, who: &Identity, info: &RequestInfo) -> Decision {
        let allowed = self.grants().iter().any(|grant| {
            let reaches = grant.namespace.is_none()
                || (info.is_resource && grant.namespace.as_deref() == info.namespace.as_deref());
            reaches
                && grant.subjects.iter().any(|subject| subject.is(who))
                && grant.rules.iter().any(|rule| rule.allows(info))
        });
        if allowed { Decision::Allow } else { Decision::NoOpinion }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;

    fn rule(document: serde_json::Value) -> Rule {
        serde_json::from_value(document).unwrap()
    }

    fn asks(method: Method, path: &str) -> RequestInfo {
        RequestInfo::parse(&method, path, None)
    }

    #[test]
    fn a_rule_allows_what_it_names_and_nothing_else() {
        let pods =
            rule(json!({"apiGroups": [""], "resources": ["pods", "*/scale"], "verbs": ["get", "list"]}));
        assert!(pods.allows(&asks(Method::GET, "/api/v1/namespaces/a/pods/b")));
        assert!(!pods.allows(&asks(Method::GET, "/api/v1/namespaces/a/pods/b/log")));
        assert!(!pods.allows(&asks(Method::DELETE, "/api/v1/namespaces/a/pods/b")));
        assert!(!pods.allows(&asks(Method::GET, "/apis/apps/v1/deployments")));
        assert!(pods.allows(&asks(Method::GET, "/api/v1/namespaces/a/replicationcontrollers/b/scale")));
    }

    #[test]
    fn names_restrict_a_rule_to_requests_that_carry_them() {
        let one = rule(
            json!({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"], "verbs": ["*"]}),
        );
        assert!(one.allows(&asks(Method::GET, "/api/v1/namespaces/n/configmaps/a")));
        assert!(!one.allows(&asks(Method::GET, "/api/v1/namespaces/n/configmaps/b")));
        assert!(!one.allows(&asks(Method::GET, "/api/v1/namespaces/n/configmaps")));
    }

    #[test]
    fn paths_may_end_in_a_star() {
        let rule = rule(json!({"nonResourceURLs": ["/apis/*", "/api"], "verbs": ["get"]}));
        assert!(rule.allows(&asks(Method::GET, "/apis/apps")));
        assert!(rule.allows(&asks(Method::GET, "/api")));
        assert!(!rule.allows(&asks(Method::GET, "/metrics")));
    }
}
