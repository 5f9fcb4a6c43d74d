//! Who may do what: the node authorizer, then RBAC.

pub mod escalation;
pub mod node;
pub mod rbac;
pub mod rule;

use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::{GroupResource, Status};

use crate::identity::{Identity, MASTERS};
use crate::request_info::RequestInfo;

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes; no one else is asked.
    Allow,
    /// No; no one else is asked.
    Deny {
        /// Why.
        reason: String,
    },
    /// Ask the next one.
    NoOpinion,
}

/// Decides about requests.
#[async_trait]
pub trait Authorizer: Send + Sync {
    /// Whether `who` may do what `info` says.
    async fn authorize(&self, who: &Identity, info: &RequestInfo) -> Decision;
}

/// Members of `system:masters` may do everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Masters;

#[async_trait]
impl Authorizer for Masters {
    async fn authorize(&self, who: &Identity, _info: &RequestInfo) -> Decision {
        if who.is_in(MASTERS) { Decision::Allow } else { Decision::NoOpinion }
    }
}

/// Asks authorizers in order; the first opinion counts.
#[derive(Clone)]
pub struct Chain(pub Vec<Arc<dyn Authorizer>>);

#[async_trait]
impl Authorizer for Chain {
    async fn authorize(&self, who: &Identity, info: &RequestInfo) -> Decision {
        for authorizer in &self.0 {
            match authorizer.authorize(who, info).await {
                Decision::NoOpinion => {}
                decision @ (Decision::Allow | Decision::Deny { .. }) => return decision,
            }
        }
        Decision::NoOpinion
    }
}

/// The 403 for a request that was not allowed.
pub fn forbidden(who: &Identity, info: &RequestInfo, reason: &str) -> Status {
    let user = &who.username;
    let suffix = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if !info.is_resource {
        let detail = format!("User {user:?} cannot {} path {:?}{suffix}", info.verb, info.path);
        return Status::forbidden(&GroupResource::new("", ""), "", &detail);
    }
    let mut resource = info.resource.clone();
    if !info.subresource.is_empty() {
        resource = format!("{resource}/{}", info.subresource);
    }
    let scope = match &info.namespace {
        Some(namespace) => format!("in the namespace {namespace:?}"),
        None => "at the cluster scope".to_owned(),
    };
    let verb = &info.verb;
    let group = &info.group;
    let detail =
        format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}{suffix}");
    let name = info.name.as_deref().unwrap_or("");
    Status::forbidden(&GroupResource::new(group, &info.resource), name, &detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_user_verb_resource_group_and_scope() {
        let info = RequestInfo {
            verb: "list".into(),
            resource: "pods".into(),
            namespace: Some("y".into()),
            is_resource: true,
            ..RequestInfo::default()
        };
        assert_eq!(
            forbidden(&Identity::user("x", &[]), &info, "").message,
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "y""#
        );
    }
}
