//! Which requests a FlowSchema is about.

use http::HeaderValue;
use serde::Deserialize;

use crate::identity::Identity;
use crate::request_info::RequestInfo;

const ALL: &str = "*";

/// `spec` of a FlowSchema.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowSchemaSpec {
    /// The level of its requests.
    pub priority_level_configuration: Reference,
    /// Schemas are asked by this, the smallest first.
    #[serde(default)]
    pub matching_precedence: i32,
    distinguisher_method: Option<DistinguisherMethod>,
    #[serde(default)]
    rules: Vec<Rule>,
}

/// The name of another object.
#[derive(Clone, Debug, Deserialize)]
pub struct Reference {
    /// Its name.
    pub name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct DistinguisherMethod {
    r#type: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    subjects: Vec<Subject>,
    #[serde(default)]
    resource_rules: Vec<ResourceRule>,
    #[serde(default)]
    non_resource_rules: Vec<NonResourceRule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind")]
enum Subject {
    User {
        user: Reference,
    },
    Group {
        group: Reference,
    },
    #[serde(rename_all = "camelCase")]
    ServiceAccount {
        service_account: Account,
    },
}

#[derive(Clone, Debug, Deserialize)]
struct Account {
    namespace: String,
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceRule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default)]
    cluster_scope: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct NonResourceRule {
    verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    urls: Vec<String>,
}

/// A FlowSchema.
#[derive(Clone, Debug)]
pub struct FlowSchema {
    /// Its name.
    pub name: String,
    /// Its UID, for an answer's header.
    pub uid: HeaderValue,
    /// What it says.
    pub spec: FlowSchemaSpec,
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == ALL || item == wanted)
}

impl Subject {
    fn is(&self, who: &Identity) -> bool {
        match self {
            Subject::User { user } => user.name == ALL || user.name == who.username,
            Subject::Group { group } => group.name == ALL || who.is_in(&group.name),
            Subject::ServiceAccount { service_account } => {
                who.as_service_account().is_some_and(|(namespace, name)| {
                    namespace == service_account.namespace
                        && (service_account.name == ALL || service_account.name == name)
                })
            }
        }
    }
}

impl ResourceRule {
    fn covers(&self, info: &RequestInfo) -> bool {
        let scope = match info.namespace.as_deref() {
            None | Some("") => self.cluster_scope,
            Some(namespace) => has(&self.namespaces, namespace),
        };
        scope && has(&self.verbs, &info.verb) && has(&self.api_groups, &info.group) && self.names(info)
    }

    fn names(&self, info: &RequestInfo) -> bool {
        if info.subresource.is_empty() {
            return has(&self.resources, &info.resource);
        }
        self.resources.iter().any(|item| {
            item == ALL
                || item
                    .split_once('/')
                    .is_some_and(|(resource, part)| resource == info.resource && part == info.subresource)
        })
    }
}

impl NonResourceRule {
    fn covers(&self, info: &RequestInfo) -> bool {
        has(&self.verbs, &info.verb)
            && self.urls.iter().any(|url| {
                url == ALL
                    || *url == info.path
                    || url.strip_suffix("/*").is_some_and(|start| {
                        info.path.strip_prefix(start).is_some_and(|rest| rest.starts_with('/'))
                    })
            })
    }
}

impl FlowSchema {
    /// Whether a request is of this schema.
    pub fn matches(&self, who: &Identity, info: &RequestInfo) -> bool {
        self.spec.rules.iter().any(|rule| {
            rule.subjects.iter().any(|subject| subject.is(who))
                && if info.is_resource {
                    rule.resource_rules.iter().any(|rule| rule.covers(info))
                } else {
                    rule.non_resource_rules.iter().any(|rule| rule.covers(info))
                }
        })
    }

    /// What tells the flows of this schema apart.
    pub fn distinguisher<'a>(&self, who: &'a Identity, info: &'a RequestInfo) -> &'a str {
        match self.spec.distinguisher_method.as_ref().map(|method| method.r#type.as_str()) {
            Some("ByUser") => &who.username,
            Some("ByNamespace") => info.namespace.as_deref().unwrap_or_default(),
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;

    fn schema(rules: serde_json::Value) -> FlowSchema {
        let spec =
            json!({"priorityLevelConfiguration": {"name": "l"}, "matchingPrecedence": 1, "rules": [rules]});
        let uid = HeaderValue::from_static("u");
        FlowSchema { name: "s".to_owned(), uid, spec: serde_json::from_value(spec).unwrap() }
    }

    #[test]
    fn a_request_matches_by_subject_verb_resource_and_scope() {
        let schema = schema(json!({
            "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}}],
            "resourceRules": [{"verbs": ["get", "update"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["a"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/livez/*", "/version"]}],
        }));
        let own = Identity::service_account("kube-system", "x");
        let is = |who: &Identity, method: Method, path: &str| {
            schema.matches(who, &RequestInfo::parse(&method, path, None))
        };
        let leases = "/apis/coordination.k8s.io/v1/namespaces/a/leases";
        assert!(is(&own, Method::GET, &format!("{leases}/x")));
        assert!(!is(&own, Method::DELETE, &format!("{leases}/x")));
        assert!(!is(&own, Method::GET, "/apis/coordination.k8s.io/v1/namespaces/b/leases/x"));
        assert!(!is(&own, Method::GET, "/apis/coordination.k8s.io/v1/leases"));
        assert!(!is(&Identity::service_account("default", "x"), Method::GET, &format!("{leases}/x")));
        assert!(is(&own, Method::GET, "/version") && is(&own, Method::GET, "/livez/ping"));
        assert!(!is(&own, Method::GET, "/livez"));
    }
}
