//! The roles of upstream's controllers, from `controller_roles.txt`.

use serde_json::{Value, json};

use super::roles::{GROUP, metadata};

const TABLE: &str = include_str!("controller_roles.txt");

fn list(text: &str) -> Vec<&str> {
    text.split(',').collect()
}

/// Reads `VERBS GROUPS RESOURCES [NAMES]`; `None` for a line that is no rule.
fn rule(text: &str) -> Option<Value> {
    if text == "events" {
        let verbs = ["create", "patch", "update"];
        return Some(json!({"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": verbs}));
    }
    let mut parts = text.split(' ');
    let (verbs, groups, resources, names) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
    let verbs: Vec<&str> = list(verbs)
        .into_iter()
        .flat_map(|verb| if verb == "r" { vec!["get", "list", "watch"] } else { vec![verb] })
        .collect();
    let groups: Vec<&str> =
        list(groups).into_iter().map(|group| if group == "core" { "" } else { group }).collect();
    let mut rule = json!({"apiGroups": groups, "resources": list(resources), "verbs": verbs});
    if let Some(names) = names {
        rule["resourceNames"] = json!(list(names));
    }
    Some(rule)
}

/// A role and its binding for each controller.
pub(super) fn documents() -> Vec<Value> {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(": "))
        .flat_map(|(account, rules)| {
            let name = format!("system:controller:{account}");
            let rules: Vec<Value> = rules.split("; ").filter_map(rule).collect();
            let role = json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                "metadata": metadata(&name, &[]), "rules": rules,
            });
            let binding = json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": metadata(&name, &[]),
                "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "kube-system"}],
                "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name},
            });
            [role, binding]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_a_role_with_all_its_rules() {
        let lines: Vec<&str> = TABLE.lines().filter(|line| !line.starts_with('#')).collect();
        let all = documents();
        assert_eq!(all.len(), 2 * lines.len());
        for (line, pair) in lines.iter().zip(all.chunks(2)) {
            assert_eq!(pair[0]["rules"].as_array().unwrap().len(), line.split(';').count(), "{line}");
        }
        let of = |name: &str| all.iter().find(|it| it["metadata"]["name"] == name).unwrap();
        assert_eq!(
            of("system:controller:clusterrole-aggregation-controller")["rules"][0],
            json!({"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"],
                "verbs": ["escalate", "get", "list", "watch", "update", "patch"]})
        );
    }
}
