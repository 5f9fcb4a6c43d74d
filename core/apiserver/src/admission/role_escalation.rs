//! Nobody grants what they do not hold, unless they may `escalate` the role or `bind` it.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::{GroupResource, Object, Status};
use serde_json::Value;

use super::{Admission, Attributes, Operation};
use crate::authorization::coverage::missing;
use crate::authorization::rbac::{GROUP, Rbac, Rule};
use crate::authorization::{Authorizer, Decision};
use crate::identity::{Identity, MASTERS};
use crate::registry::Registry;
use crate::request_info::RequestInfo;

/// The most permissions, of one verb on one thing each, that one write may grant.
const MOST_PERMISSIONS: usize = 10_000;

/// The plugin.
pub struct RoleEscalation {
    rbac: Arc<Rbac>,
    authorizer: Arc<dyn Authorizer>,
}

impl RoleEscalation {
    /// Compares with what `rbac` grants; asks `authorizer` for `escalate` and `bind`.
    pub fn new(rbac: Arc<Rbac>, authorizer: Arc<dyn Authorizer>) -> Self {
        RoleEscalation { rbac, authorizer }
    }

    async fn may(&self, who: &Identity, verb: &str, resource: &str, ns: Option<&str>, name: &str) -> bool {
        let info = RequestInfo {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            namespace: ns.map(str::to_owned),
            name: Some(name.to_owned()),
            is_resource: true,
            ..RequestInfo::default()
        };
        self.authorizer.authorize(who, &info).await == Decision::Allow
    }

    /// The rules that the write newly grants; `None` where the caller needs to hold nothing.
    async fn granted(
        &self,
        attributes: &Attributes<'_>,
        object: &Object,
    ) -> Result<Option<Vec<Rule>>, Status> {
        let (who, namespace) = (attributes.identity, attributes.namespace);
        let same = |field: &str| attributes.old.is_some_and(|old| old.get(&[field]) == object.get(&[field]));
        match attributes.resource.plural.as_str() {
            resource @ ("roles" | "clusterroles") => {
                if same("rules") && same("aggregationRule") {
                    return Ok(None);
                }
                if self.may(who, "escalate", resource, namespace, attributes.name).await {
                    return Ok(None);
                }
                let mut rules = Vec::new();
                for rule in object.get(&["rules"]).and_then(Value::as_array).into_iter().flatten() {
                    let read = serde_json::from_value(rule.clone());
                    rules.push(read.map_err(|error| Status::bad_request(format!("rules: {error}")))?);
                }
                // Whoever aggregates, grants whatever anybody may add later.
                if !same("aggregationRule")
                    && object.get(&["aggregationRule"]).is_some_and(|it| !it.is_null())
                {
                    let all = || vec!["*".to_owned()];
                    rules.push(Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() });
                    rules.push(Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() });
                }
                Ok(Some(rules))
            }
            "rolebindings" | "clusterrolebindings" => {
                if same("subjects") && same("roleRef") {
                    return Ok(None);
                }
                let kind = object.get_str(&["roleRef", "kind"]).unwrap_or_default();
                let role = object.get_str(&["roleRef", "name"]).unwrap_or_default();
                let plural = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
                if self.may(who, "bind", plural, namespace, role).await {
                    return Ok(None);
                }
                if !self.rbac.has_role(kind, namespace, role) {
                    return Err(Status::not_found(&GroupResource::new(GROUP, plural), role));
                }
                Ok(Some(self.rbac.role_rules(kind, namespace, role)))
            }
            _ => Ok(None),
        }
    }
}

#[async_trait]
impl Admission for RoleEscalation {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is_write() && attributes.resource.group == GROUP
    }

    async fn validate(
        &self,
        _registry: &Registry,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
        let Some(object) = object.filter(|_| writes && attributes.resource.group == GROUP) else {
            return Ok(());
        };
        let who = attributes.identity;
        if who.is_in(MASTERS) {
            return Ok(());
        }
        let Some(wanted) = self.granted(attributes, object).await? else { return Ok(()) };
        let size = wanted.iter().map(Rule::size).fold(0_usize, usize::saturating_add);
        if size > MOST_PERMISSIONS {
            let detail = format!(
                "the rules come to {size} permissions, of which each would be looked at; at most {MOST_PERMISSIONS} can be"
            );
            return Err(Status::forbidden(&attributes.resource.group_resource(), attributes.name, &detail));
        }
        let lacking = missing(&self.rbac.rules_for(who, attributes.namespace), &wanted);
        if lacking.is_empty() {
            return Ok(());
        }
        let list: Vec<String> = lacking.iter().map(Rule::describe).collect();
        let detail = format!(
            "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
            who.username,
            who.groups,
            list.join("\n")
        );
        Err(Status::forbidden(&attributes.resource.group_resource(), attributes.name, &detail))
    }
}
