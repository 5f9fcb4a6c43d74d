//! The status that a quota is to have (pure).

use keelson_api::quantity::Amount;
use keelson_api::resource_list::{self, ResourceList};
use keelson_api::{GroupResource, Object, quota};
use serde_json::Value;

/// The status of a quota, from all objects of the kinds that it counts.
pub fn status(quota: &Object, objects: &[(GroupResource, Object)]) -> Value {
    let hard = quota::hard(quota, "spec");
    let mut used: ResourceList = hard.keys().map(|name| (name.clone(), Amount::default())).collect();
    for (resource, object) in objects {
        if quota::is_about(quota, resource, object) {
            resource_list::add(&mut used, &quota::masked(&quota::usage(resource, object), &hard));
        }
    }
    quota::status(&hard, &used)
}

/// Whether a quota has that status already.
pub fn has(quota: &Object, status: &Value) -> bool {
    let list = |part: &str| resource_list::read(status.get(part));
    quota::hard(quota, "status") == list("hard") && quota::used(quota) == list("used")
}

/// Whether a status says that less is used than the quota does.
pub fn is_less(quota: &Object, status: &Value) -> bool {
    let used = resource_list::read(status.get("used"));
    quota::used(quota).iter().any(|(name, before)| used.get(name).is_some_and(|now| now < before))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_that_is_limited_has_a_number() {
        let object = |document: Value| Object::from_value(document).unwrap();
        let quota =
            object(json!({"spec": {"hard": {"pods": "5", "requests.cpu": "2", "count/configmaps": "3"}}}));
        let pods = GroupResource::new("", "pods");
        let pod = |phase: &str| {
            let containers = json!([{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]);
            (pods.clone(), object(json!({"spec": {"containers": containers}, "status": {"phase": phase}})))
        };
        let status = status(&quota, &[pod("Running"), pod("Running"), pod("Failed")]);
        let expected = json!({
            "hard": {"pods": "5", "requests.cpu": "2", "count/configmaps": "3"},
            "used": {"pods": "2", "requests.cpu": "1", "count/configmaps": "0"},
        });
        assert_eq!(status, expected);
        assert!(!has(&quota, &status));
        let mut written = quota.clone();
        written.set(&["status"], status.clone());
        assert!(has(&written, &status) && !is_less(&written, &status));
        written.set(&["status", "used", "pods"], "3".into());
        assert!(is_less(&written, &status));
    }
}
