//! The identity of an operator and what it may do (pure).

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
pub use keelson_operator_kit::OPERATOR_LABEL;
use keelson_operator_kit::{Definition, SYSTEM_NAMESPACE, rule};
use kube::api::ObjectMeta;

const GROUP: &str = "rbac.authorization.k8s.io";

/// What an operator acts as, and with which rights. All names follow from the operator's.
#[derive(Clone, Debug, PartialEq)]
pub struct Rights {
    /// Its account in [`SYSTEM_NAMESPACE`].
    pub account: ServiceAccount,
    /// What it may do in the whole cluster: what its definition says, and writing Events.
    pub cluster_role: ClusterRole,
    /// Gives it that.
    pub cluster_role_binding: ClusterRoleBinding,
    /// What it may do in [`SYSTEM_NAMESPACE`]: hold its Lease, and what its definition says.
    pub role: Role,
    /// Gives it that.
    pub role_binding: RoleBinding,
    /// What it brings for others.
    pub roles: Vec<ClusterRole>,
}

/// The name of an operator's roles and bindings.
pub fn role_name(operator: &str) -> String {
    format!("keelson:operator:{operator}")
}

/// The rights of an operator.
pub fn rights(definition: &Definition) -> Rights {
    let operator = definition.name;
    let name = role_name(operator);
    let mut rules = definition.rules.clone();
    rules.push(rule(&["", "events.k8s.io"], &["events"], &["create", "patch", "update"]));
    let lease = PolicyRule {
        resource_names: Some(vec![operator.to_owned()]),
        ..rule(&["coordination.k8s.io"], &["leases"], &["get", "update"])
    };
    // What is to be made has no name yet.
    let make_lease = rule(&["coordination.k8s.io"], &["leases"], &["create"]);
    let subjects = Some(vec![Subject {
        kind: "ServiceAccount".to_owned(),
        name: operator.to_owned(),
        namespace: Some(SYSTEM_NAMESPACE.to_owned()),
        api_group: None,
    }]);
    let role_ref =
        |kind: &str| RoleRef { api_group: Some(GROUP.to_owned()), kind: kind.to_owned(), name: name.clone() };
    Rights {
        account: ServiceAccount {
            metadata: metadata(operator, operator, Some(SYSTEM_NAMESPACE)),
            ..ServiceAccount::default()
        },
        cluster_role: ClusterRole {
            metadata: metadata(operator, &name, None),
            rules: Some(rules),
            aggregation_rule: None,
        },
        cluster_role_binding: ClusterRoleBinding {
            metadata: metadata(operator, &name, None),
            role_ref: role_ref("ClusterRole"),
            subjects: subjects.clone(),
        },
        role: Role {
            metadata: metadata(operator, &name, Some(SYSTEM_NAMESPACE)),
            rules: Some([vec![lease, make_lease], definition.own_rules.clone()].concat()),
        },
        role_binding: RoleBinding {
            metadata: metadata(operator, &name, Some(SYSTEM_NAMESPACE)),
            role_ref: role_ref("Role"),
            subjects,
        },
        roles: definition.roles.iter().map(|role| labelled(operator, role)).collect(),
    }
}

/// A role that goes with the operator.
fn labelled(operator: &str, role: &ClusterRole) -> ClusterRole {
    let mut role = role.clone();
    let name = role.metadata.name.clone().unwrap_or_default();
    let own = metadata(operator, &name, None).labels.unwrap_or_default();
    role.metadata.labels.get_or_insert_default().extend(own);
    role
}

fn metadata(operator: &str, name: &str, namespace: Option<&str>) -> ObjectMeta {
    let labels = [
        ("app.kubernetes.io/managed-by".to_owned(), "keelson".to_owned()),
        (OPERATOR_LABEL.to_owned(), operator.to_owned()),
    ];
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        labels: Some(labels.into()),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_gets_its_rules_events_and_its_own_lease() {
        let mut definition =
            Definition::new("thing", "Does things.").with_rules([rule(&[""], &["pods"], &["list"])]);
        definition.own_rules = vec![rule(&[""], &["services"], &["create"])];
        let metadata = ObjectMeta { name: Some("reader".to_owned()), ..ObjectMeta::default() };
        definition.roles = vec![ClusterRole { metadata, ..ClusterRole::default() }];
        let rights = rights(&definition);
        let rules = rights.cluster_role.rules.unwrap();
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[0], definition.rules[0]);
        assert_eq!(rules[1].resources.as_deref(), Some(&["events".to_owned()][..]));
        let leases = rights.role.rules.unwrap();
        assert_eq!(leases[0].resource_names.as_deref(), Some(&["thing".to_owned()][..]));
        assert_eq!(leases[1].verbs, ["create"]);
        assert_eq!(leases[2], definition.own_rules[0]);
        assert_eq!(rights.roles[0].metadata.labels.as_ref().unwrap()[OPERATOR_LABEL], "thing");
        assert_eq!(rights.role.metadata.namespace.as_deref(), Some(SYSTEM_NAMESPACE));
        assert_eq!(rights.cluster_role_binding.role_ref.name, "keelson:operator:thing");
    }
}
