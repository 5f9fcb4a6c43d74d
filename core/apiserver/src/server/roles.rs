//! The default roles and bindings, from `roles.yaml`.

use serde::Deserialize;
use serde_json::{Value, json};

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";
const ROLES: &str = include_str!("roles.yaml");

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Table {
    cluster_roles: Vec<Role>,
    roles: Vec<NamespacedRole>,
}

/// A role in a namespace, bound under its own name.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NamespacedRole {
    namespace: String,
    name: String,
    /// Groups.
    #[serde(default)]
    bind: Vec<String>,
    #[serde(default)]
    bind_users: Vec<String>,
    /// Accounts in `kube-system`.
    #[serde(default)]
    bind_accounts: Vec<String>,
    rules: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Role {
    name: String,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    aggregate: Vec<String>,
    #[serde(default)]
    bind: Vec<String>,
    #[serde(default)]
    bind_users: Vec<String>,
    rules: Option<Value>,
}

pub(super) fn metadata(name: &str, labels: &[String]) -> Value {
    let mut all = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    for label in labels {
        all[label] = "true".into();
    }
    json!({"name": name, "labels": all, "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}})
}

impl Role {
    fn role(&self) -> Value {
        let mut role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": metadata(&self.name, &self.labels), "rules": self.rules,
        });
        if !self.aggregate.is_empty() {
            let select = |label: &String| json!({"matchLabels": {label: "true"}});
            let selectors: Vec<Value> = self.aggregate.iter().map(select).collect();
            role["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
        }
        role
    }

    fn binding(&self) -> Option<Value> {
        let subject = |kind: &str, name: &String| json!({"apiGroup": GROUP, "kind": kind, "name": name});
        let groups = self.bind.iter().map(|name| subject("Group", name));
        let users = self.bind_users.iter().map(|name| subject("User", name));
        let subjects: Vec<Value> = groups.chain(users).collect();
        (!subjects.is_empty()).then(|| {
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": metadata(&self.name, &[]), "subjects": subjects,
                "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": self.name},
            })
        })
    }
}

impl NamespacedRole {
    fn documents(&self) -> [Value; 2] {
        let mut metadata = metadata(&self.name, &[]);
        metadata["namespace"] = self.namespace.as_str().into();
        let subject = |kind: &str, name: &String| json!({"apiGroup": GROUP, "kind": kind, "name": name});
        let groups = self.bind.iter().map(|name| subject("Group", name));
        let users = self.bind_users.iter().map(|name| subject("User", name));
        let accounts = self.bind_accounts.iter();
        let accounts =
            accounts.map(|name| json!({"kind": "ServiceAccount", "namespace": "kube-system", "name": name}));
        let subjects: Vec<Value> = groups.chain(users).chain(accounts).collect();
        let version = format!("{GROUP}/v1");
        [
            json!({"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": self.rules}),
            json!({"apiVersion": version, "kind": "RoleBinding", "metadata": metadata, "subjects": subjects,
                "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": self.name}}),
        ]
    }
}

/// All default roles, each followed by its binding where it has one.
pub(super) fn documents() -> Result<Vec<Value>, serde_yaml_ng::Error> {
    let table: Table = serde_yaml_ng::from_str(ROLES)?;
    Ok(table
        .cluster_roles
        .iter()
        .flat_map(|role| std::iter::once(role.role()).chain(role.binding()))
        .chain(table.roles.iter().flat_map(NamespacedRole::documents))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_read_and_binds_masters_to_cluster_admin() {
        let all = documents().unwrap();
        let bound = |role: &str, name: &str| {
            all.iter().any(|it| it["roleRef"]["name"] == role && it["subjects"][0]["name"] == name)
        };
        assert!(bound("cluster-admin", "system:masters"));
        assert!(bound("system:node-proxier", "system:kube-proxy"));
        assert!(!all.iter().any(|it| it["roleRef"]["name"] == "system:node"));
        let signer = |kind: &str| {
            all.iter().any(|it| {
                let metadata = &it["metadata"];
                it["kind"] == kind
                    && metadata["namespace"] == "kube-public"
                    && metadata["name"] == "system:controller:bootstrap-signer"
            })
        };
        assert!(signer("Role") && signer("RoleBinding"));
    }
}
