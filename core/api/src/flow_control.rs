//! The FlowSchemas and PriorityLevelConfigurations that every cluster has, from `bootstrap.yaml`.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Value, json};

/// The API group of both kinds.
pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// The annotation that says whether the server keeps an object's `spec` as it should be.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

const TABLE: &str = include_str!("flow_control/bootstrap.yaml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    levels: Vec<Level>,
    schemas: Vec<Schema>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Level {
    name: String,
    #[serde(default)]
    mandatory: bool,
    shares: u32,
    lendable: u32,
    queues: Option<[u32; 3]>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Schema {
    name: String,
    #[serde(default)]
    mandatory: bool,
    level: String,
    precedence: u32,
    by: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    accounts: Vec<String>,
    resources: Option<Vec<Value>>,
    paths: Option<Vec<String>>,
}

/// An object that every cluster has.
#[derive(Clone, Debug)]
pub struct Bootstrapped {
    /// `FlowSchema` or `PriorityLevelConfiguration`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Whether it can be no other than this.
    pub mandatory: bool,
    /// What it says, with all defaults.
    pub spec: Value,
}

impl Bootstrapped {
    /// The object.
    pub fn document(&self) -> Value {
        json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": self.kind, "spec": self.spec,
            "metadata": {"name": self.name, "annotations": {AUTO_UPDATE: "true"}},
        })
    }
}

impl Level {
    fn spec(&self) -> Value {
        let mut own = json!({"nominalConcurrencyShares": self.shares, "lendablePercent": self.lendable});
        if self.name == "exempt" {
            return json!({"type": "Exempt", "exempt": own});
        }
        own["limitResponse"] = match self.queues {
            None => json!({"type": "Reject"}),
            Some([queues, hand, length]) => json!({"type": "Queue", "queuing": {
                "queues": queues, "handSize": hand, "queueLengthLimit": length,
            }}),
        };
        json!({"type": "Limited", "limited": own})
    }
}

impl Schema {
    fn spec(&self) -> Value {
        let users = self.users.iter().map(|name| json!({"kind": "User", "user": {"name": name}}));
        let accounts = self.accounts.iter().filter_map(|account| {
            let (namespace, name) = account.split_once('/')?;
            Some(json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}}))
        });
        let groups = self.groups.iter().map(|name| json!({"kind": "Group", "group": {"name": name}}));
        let mut rule = json!({"subjects": users.chain(accounts).chain(groups).collect::<Vec<Value>>()});
        if self.resources.is_none() && self.paths.is_none() {
            rule["resourceRules"] = json!([{
                "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"],
            }]);
            rule["nonResourceRules"] = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
        }
        if let Some(resources) = &self.resources {
            rule["resourceRules"] = json!(resources);
        }
        if let Some(paths) = &self.paths {
            rule["nonResourceRules"] = json!([{"verbs": ["get"], "nonResourceURLs": paths}]);
        }
        let mut spec = json!({
            "priorityLevelConfiguration": {"name": self.level}, "matchingPrecedence": self.precedence, "rules": [rule],
        });
        if let Some(by) = &self.by {
            spec["distinguisherMethod"] = json!({"type": by});
        }
        spec
    }
}

static OBJECTS: LazyLock<Result<Vec<Bootstrapped>, String>> = LazyLock::new(|| {
    let table: Table = serde_yaml_ng::from_str(TABLE).map_err(|error| error.to_string())?;
    let levels = table.levels.iter().map(|level| Bootstrapped {
        kind: "PriorityLevelConfiguration",
        name: level.name.clone(),
        mandatory: level.mandatory,
        spec: level.spec(),
    });
    let schemas = table.schemas.iter().map(|schema| Bootstrapped {
        kind: "FlowSchema",
        name: schema.name.clone(),
        mandatory: schema.mandatory,
        spec: schema.spec(),
    });
    Ok(levels.chain(schemas).collect())
});

/// All of them, levels first. The error is a fault of the table.
pub fn bootstrapped() -> Result<&'static [Bootstrapped], &'static str> {
    OBJECTS.as_deref().map_err(String::as_str)
}

/// What an object of that kind and name must say, if it is one that cannot be changed.
pub fn mandatory(kind: &str, name: &str) -> Option<&'static Value> {
    let all = bootstrapped().ok()?;
    all.iter().find(|it| it.mandatory && it.kind == kind && it.name == name).map(|it| &it.spec)
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;
    use crate::{GroupVersionKind, Object, defaults, validation};

    #[test]
    fn every_object_of_the_table_is_valid_and_has_all_defaults() {
        let all = bootstrapped().unwrap();
        assert_eq!(all.iter().filter(|it| it.mandatory).count(), 4);
        for it in all {
            let gvk = GroupVersionKind::new(GROUP, "v1", it.kind);
            let mut object = Object::from_value(it.document()).unwrap();
            let before = object.clone();
            defaults::apply_defaults(&gvk, &mut object);
            assert_eq!(object, before);
            assert_eq!(validation::validate_create(&gvk, &object, false), []);
        }
    }
}
