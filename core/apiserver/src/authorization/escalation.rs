//! Nobody grants what they do not hold, unless they may `escalate` the role or `bind` it.

use std::sync::Arc;

use keelson_api::{GroupResource, Object, Status};

use crate::authorization::rbac::{self, Rbac};
use crate::authorization::rule::{Rule, missing};
use crate::authorization::{Authorizer, Decision};
use crate::identity::{Identity, MASTERS};
use crate::request_info::RequestInfo;

/// Checks writes of roles and bindings.
#[derive(Clone)]
pub struct Escalation {
    rbac: Arc<Rbac>,
    authorizer: Arc<dyn Authorizer>,
}

impl Escalation {
    /// Compares with the rules of `rbac`; asks `authorizer` for `escalate` and `bind`.
    pub fn new(rbac: Arc<Rbac>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { rbac, authorizer }
    }

    async fn may(&self, who: &Identity, verb: &str, resource: &str, ns: Option<&str>, name: &str) -> bool {
        let info = RequestInfo {
            verb: verb.to_owned(),
            group: rbac::GROUP.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            namespace: ns.map(str::to_owned),
            name: Some(name.to_owned()),
            is_resource: true,
            ..RequestInfo::default()
        };
        self.authorizer.authorize(who, &info).await == Decision::Allow
    }

    /// Whether `who` may store this role or binding. `resource` is its plural name; other resources pass.
    pub async fn check(
        &self,
        who: &Identity,
        resource: &str,
        namespace: Option<&str>,
        object: &Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        if who.is_in(MASTERS) {
            return Ok(());
        }
        let name = object.name().unwrap_or_default();
        let wanted = match resource {
            "roles" | "clusterroles" => {
                let unchanged =
                    |field: &str| old.is_some_and(|old| old.get(&[field]) == object.get(&[field]));
                if unchanged("rules") && unchanged("aggregationRule") {
                    return Ok(());
                }
                if self.may(who, "escalate", resource, namespace, name).await {
                    return Ok(());
                }
                let mut wanted = rbac::rules_of(object);
                let aggregates = object.get(&["aggregationRule"]).is_some_and(|rule| !rule.is_null());
                if resource == "clusterroles" && aggregates && !unchanged("aggregationRule") {
                    wanted.push(everything());
                }
                wanted
            }
            "rolebindings" | "clusterrolebindings" => {
                if old.is_some_and(|old| old.get(&["subjects"]) == object.get(&["subjects"])) {
                    return Ok(());
                }
                let role = object.get_str(&["roleRef", "name"]).unwrap_or_default();
                let of_cluster = object.get_str(&["roleRef", "kind"]) == Some("ClusterRole");
                let plural = if of_cluster { "clusterroles" } else { "roles" };
                if self.may(who, "bind", plural, namespace, role).await {
                    return Ok(());
                }
                self.referenced_rules(plural, namespace.filter(|_| !of_cluster), role)?
            }
            _ => return Ok(()),
        };
        let held = self.rbac.index().rules_for(who, namespace);
        let lacking = missing(&held, &wanted);
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
        Err(Status::forbidden(&GroupResource::new(rbac::GROUP, resource), name, &detail))
    }

    fn referenced_rules(&self, plural: &str, ns: Option<&str>, name: &str) -> Result<Vec<Rule>, Status> {
        let reader = self.rbac.reader();
        let role = reader
            .get(rbac::GROUP, plural, ns, name)
            .ok_or_else(|| Status::not_found(&GroupResource::new(rbac::GROUP, plural), name))?;
        Ok(if plural == "clusterroles" {
            rbac::cluster_role_rules(&role, &reader.list(rbac::GROUP, "clusterroles", None))
        } else {
            rbac::rules_of(&role)
        })
    }
}

fn everything() -> Rule {
    let all = || vec!["*".to_owned()];
    Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() }
}
