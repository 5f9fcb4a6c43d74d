//! ClusterRoles whose rules are those of other ClusterRoles, kept up to date: one follower, which sleeps until a
//! ClusterRole changes.

use std::sync::Arc;
use std::time::Duration;

use keelson_api::selector::LabelSelector;
use keelson_api::{GroupResource, GroupVersionKind, Object, Status};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::bootstrap::options;
use crate::cache;
use crate::registry::{Registry, Target};

/// How deep roles may be made of roles that are made of roles.
const DEPTH: usize = 10;
/// After a failure.
const PAUSE: Duration = Duration::from_secs(5);

fn resource() -> GroupResource {
    GroupResource::new("rbac.authorization.k8s.io", "clusterroles")
}

/// The rules that a role should have; `None` for a role that is not made of others.
fn rules(role: &Object, all: &[Object]) -> Option<Vec<Value>> {
    let selectors = role.get(&["aggregationRule", "clusterRoleSelectors"])?.as_array()?;
    let mut rules: Vec<Value> = Vec::new();
    for selector in selectors {
        // Validation has refused a selector that cannot be read: it selects nothing.
        let Ok(selector) = LabelSelector::from_value(selector) else { continue };
        let parts = all.iter().filter(|it| it.name() != role.name() && selector.matches(it.labels()));
        for rule in parts.filter_map(|it| it.get(&["rules"])?.as_array()).flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

/// Brings all roles up to date, once.
pub(super) async fn settle(registry: &Registry) -> Result<(), Status> {
    let gvk = GroupVersionKind::new("rbac.authorization.k8s.io", "v1", "ClusterRole");
    let info = registry.catalog().find_kind(&gvk).cloned().ok_or_else(Status::path_not_found)?;
    for _ in 0..DEPTH {
        let listing = registry.resource(&resource()).list();
        let all: Vec<Object> =
            listing.objects.values().map(|it| cache::decode(&it.bytes)).collect::<Result<_, _>>()?;
        let mut changed = false;
        for role in all.iter().filter(|role| role.deletion_timestamp().is_none()) {
            let Some(rules) = rules(role, &all) else { continue };
            let has = role.get(&["rules"]).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            if has == rules.as_slice() {
                continue;
            }
            changed = true;
            let target = Target {
                resource: Arc::clone(&info),
                namespace: None,
                name: role.name().unwrap_or_default().to_owned(),
                subresource: String::new(),
            };
            let change = |live: &Object| {
                let mut role = live.clone();
                role.set(&["rules"], rules.clone().into());
                Ok(role)
            };
            match registry.update(&target, &options(), change).await {
                Err(status) if status.code == 404 => {}
                outcome => drop(outcome?),
            }
        }
        if !changed {
            break;
        }
    }
    Ok(())
}

/// Follows the ClusterRoles until it is told to stop.
pub(super) async fn keep(registry: Arc<Registry>, stop: CancellationToken) {
    let mut newest = registry.resource(&resource()).follow();
    loop {
        newest.borrow_and_update();
        let settled = settle(&registry).await;
        let wait = async {
            match settled {
                Ok(()) => newest.changed().await.is_ok(),
                Err(error) => {
                    tracing::warn!(error = %error.message, "could not bring aggregated roles up to date");
                    tokio::time::sleep(PAUSE).await;
                    true
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            more = wait => if !more { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_role_has_the_rules_of_those_that_it_selects_each_once() {
        let role = |value: Value| Object::from_value(value).unwrap();
        let part = |name: &str, rules: Value| {
            role(json!({"metadata": {"name": name, "labels": {"in": "x"}}, "rules": rules}))
        };
        let whole =
            role(json!({"metadata": {"name": "whole", "labels": {"in": "x"}}, "rules": [{"verbs": ["old"]}],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"in": "x"}}]}}));
        let all = [
            part("a", json!([{"verbs": ["get"]}, {"verbs": ["list"]}])),
            part("b", json!([{"verbs": ["get"]}])),
            whole.clone(),
            role(json!({"metadata": {"name": "c"}, "rules": [{"verbs": ["*"]}]})),
        ];
        assert_eq!(rules(&whole, &all), Some(vec![json!({"verbs": ["get"]}), json!({"verbs": ["list"]})]));
        assert_eq!(rules(&all[0], &all), None);
    }
}
