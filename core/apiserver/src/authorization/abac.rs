//! ABAC: policies from a file, a JSON document on each line.

use async_trait::async_trait;
use serde::Deserialize;

use super::{Authorizer, Decision, Opinion};
use crate::identity::Identity;
use crate::request_info::RequestInfo;

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum AbacError {
    /// A line is no policy.
    #[error("line {line} is no policy")]
    Line {
        /// Which line.
        line: usize,
        /// Why not.
        source: serde_json::Error,
    },
    /// A line is of another version.
    #[error("line {line} is no Policy of abac.authorization.kubernetes.io/v1beta1")]
    Version {
        /// Which line.
        line: usize,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    api_version: String,
    kind: String,
    spec: Policy,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    non_resource_path: String,
}

fn fits(policy: &str, asked: &str) -> bool {
    policy == "*" || policy == asked
}

impl Policy {
    fn is_about(&self, who: &Identity) -> bool {
        let user = self.user.is_empty() || fits(&self.user, &who.username);
        let group = self.group.is_empty() || self.group == "*" || who.is_in(&self.group);
        user && group && !(self.user.is_empty() && self.group.is_empty())
    }

    fn allows(&self, info: &RequestInfo) -> bool {
        let verb = info.verb.as_str();
        if self.readonly && !(verb == "get" || info.is_resource && matches!(verb, "list" | "watch")) {
            return false;
        }
        if !info.is_resource {
            return match self.non_resource_path.strip_suffix('*') {
                Some(prefix) => info.path.starts_with(prefix),
                None => self.non_resource_path == info.path,
            };
        }
        fits(&self.namespace, info.namespace.as_deref().unwrap_or_default())
            && fits(&self.resource, &info.resource)
            && fits(&self.api_group, &info.group)
    }
}

/// The authorizer.
#[derive(Debug)]
pub struct Abac(Vec<Policy>);

impl Abac {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Self, AbacError> {
        let mut policies = Vec::new();
        for (place, text) in text.lines().enumerate() {
            let line = place + 1;
            if text.trim().is_empty() || text.starts_with('#') {
                continue;
            }
            let read: Line = serde_json::from_str(text).map_err(|source| AbacError::Line { line, source })?;
            if read.api_version != "abac.authorization.kubernetes.io/v1beta1" || read.kind != "Policy" {
                return Err(AbacError::Version { line });
            }
            policies.push(read.spec);
        }
        Ok(Abac(policies))
    }
}

#[async_trait]
impl Authorizer for Abac {
    async fn authorize(&self, who: &Identity, info: &RequestInfo) -> Decision {
        let allowed = self.0.iter().any(|policy| policy.is_about(who) && policy.allows(info));
        if allowed { Decision::Allow } else { Decision::NoOpinion }
    }

    async fn explain(&self, who: &Identity, info: &RequestInfo) -> Opinion {
        match self.authorize(who, info).await {
            Decision::NoOpinion => Opinion::new(Decision::NoOpinion, "No policy matched."),
            decided => decided.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[tokio::test]
    async fn a_line_allows_what_it_names_and_nothing_else() {
        let text = "# readers\n{\"apiVersion\": \"abac.authorization.kubernetes.io/v1beta1\", \"kind\": \"Policy\", \"spec\": {\"user\": \"ann\", \"namespace\": \"shop\", \"resource\": \"pods\", \"apiGroup\": \"\", \"readonly\": true}}\n{\"apiVersion\": \"abac.authorization.kubernetes.io/v1beta1\", \"kind\": \"Policy\", \"spec\": {\"group\": \"ops\", \"nonResourcePath\": \"/metrics*\"}}\n";
        let abac = Abac::parse(text).unwrap();
        let asks = async |who: Identity, method: Method, path: &str| {
            abac.authorize(&who, &RequestInfo::parse(&method, path, None)).await == Decision::Allow
        };
        let ann = || Identity::user("ann", &[]);
        assert!(asks(ann(), Method::GET, "/api/v1/namespaces/shop/pods").await);
        assert!(!asks(ann(), Method::POST, "/api/v1/namespaces/shop/pods").await);
        assert!(!asks(ann(), Method::GET, "/api/v1/namespaces/other/pods").await);
        assert!(!asks(ann(), Method::GET, "/metrics").await);
        let told = abac.explain(&ann(), &RequestInfo::parse(&Method::GET, "/metrics", None)).await;
        assert_eq!(told.reason, "No policy matched.");
        assert!(asks(Identity::user("bob", &["ops"]), Method::GET, "/metrics/slis").await);
    }

    #[test]
    fn a_line_that_is_no_policy_is_named() {
        assert!(matches!(Abac::parse("\n{}"), Err(AbacError::Line { line: 2, .. })));
        let other = r#"{"apiVersion": "v1", "kind": "Policy", "spec": {}}"#;
        assert!(matches!(Abac::parse(other), Err(AbacError::Version { line: 1 })));
    }
}
