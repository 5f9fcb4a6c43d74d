//! RBAC: a request is allowed if a rule of a role that is bound to the caller allows it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use keelson_api::GroupResource;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Authorizer, Decision, Opinion};
use crate::cache::{ResourceCache, WatchCache};
use crate::identity::Identity;
use crate::request_info::RequestInfo;

mod index;

use index::{Caches, Index, Reader};

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
        let fits = self.resources.iter().any(|it| match it.split_once('/') {
            _ if it == "*" => true,
            None => info.subresource.is_empty() && *it == info.resource,
            Some((resource, subresource)) => {
                subresource == info.subresource && (resource == "*" || resource == info.resource)
            }
        });
        let named = self.resource_names.is_empty()
            || info.object_name().is_some_and(|name| self.resource_names.iter().any(|it| *it == name));
        fits && named && any(&self.api_groups, &info.group)
    }
}

/// The authorizer. Its index is made anew when a role or binding has changed.
pub struct Rbac {
    roles: Arc<ResourceCache>,
    cluster_roles: Arc<ResourceCache>,
    bindings: Arc<ResourceCache>,
    cluster_bindings: Arc<ResourceCache>,
    /// The newest change of each of them.
    newest: [watch::Receiver<u64>; 4],
    known: ArcSwap<Known>,
    reader: Mutex<Reader>,
}

/// The index, and where the caches stood when it was made.
#[derive(Default)]
struct Known {
    at: Option<[u64; 4]>,
    index: Index,
}

impl Rbac {
    /// An authorizer over the roles and bindings of a cache.
    pub fn new(cache: &WatchCache) -> Self {
        let of = |resource: &str| cache.resource(&GroupResource::new(GROUP, resource));
        let (roles, cluster_roles) = (of("roles"), of("clusterroles"));
        let (bindings, cluster_bindings) = (of("rolebindings"), of("clusterrolebindings"));
        let newest = [&roles, &cluster_roles, &bindings, &cluster_bindings].map(|cache| cache.follow());
        let (known, reader) = (ArcSwap::default(), Mutex::default());
        Rbac { roles, cluster_roles, bindings, cluster_bindings, newest, known, reader }
    }

    fn caches(&self) -> Caches<'_> {
        Caches {
            roles: &self.roles,
            cluster_roles: &self.cluster_roles,
            bindings: &self.bindings,
            cluster_bindings: &self.cluster_bindings,
        }
    }

    /// The places up to which the caches have taken up changes.
    fn places(&self) -> [u64; 4] {
        let [roles, cluster_roles, bindings, cluster_bindings] = &self.newest;
        [*roles.borrow(), *cluster_roles.borrow(), *bindings.borrow(), *cluster_bindings.borrow()]
    }

    fn known(&self) -> arc_swap::Guard<Arc<Known>> {
        let known = self.known.load();
        if known.at == Some(self.places()) {
            return known;
        }
        let mut reader = self.reader.lock();
        // The places are read before the objects: a change in between makes the next call read again.
        let at = Some(self.places());
        if self.known.load().at != at {
            self.known.store(Arc::new(Known { at, index: reader.index(&self.caches()) }));
        }
        self.known.load()
    }

    /// The rules of a role or cluster role.
    pub fn role_rules(&self, kind: &str, namespace: Option<&str>, name: &str) -> Vec<Rule> {
        match (kind, namespace) {
            ("ClusterRole", _) => index::role_rules(&self.caches(), true, name),
            ("Role", Some(namespace)) => {
                index::role_rules(&self.caches(), false, &format!("{namespace}/{name}"))
            }
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
        let known = self.known();
        known.index.of(who, namespace).flat_map(|(_, grant)| grant.rules.iter().cloned()).collect()
    }
}

/// The namespace whose bindings reach a request.
fn reached(info: &RequestInfo) -> Option<&str> {
    info.namespace.as_deref().filter(|_| info.is_resource)
}

fn subject(who: &Identity, group: Option<&str>) -> String {
    match (group, who.as_service_account()) {
        (Some(group), _) => format!("Group {group:?}"),
        (None, Some((namespace, name))) => format!("ServiceAccount \"{name}/{namespace}\""),
        (None, None) => format!("User {:?}", who.username),
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, who: &Identity, info: &RequestInfo) -> Decision {
        let known = self.known();
        let mut grants = known.index.of(who, reached(info));
        let allowed = grants.any(|(_, grant)| grant.rules.iter().any(|rule| rule.allows(info)));
        if allowed { Decision::Allow } else { Decision::NoOpinion }
    }

    async fn explain(&self, who: &Identity, info: &RequestInfo) -> Opinion {
        let known = self.known();
        let mut grants = known.index.of(who, reached(info));
        match grants.find(|(_, grant)| grant.rules.iter().any(|rule| rule.allows(info))) {
            Some((group, grant)) => Opinion::new(Decision::Allow, grant.reason(&subject(who, group))),
            None => Decision::NoOpinion.into(),
        }
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
