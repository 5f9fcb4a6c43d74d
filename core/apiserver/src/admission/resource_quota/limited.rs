//! Resources that may be used only where a quota says how much.

use keelson_api::quota::{self, Selector};
use keelson_api::resource_list::ResourceList;
use keelson_api::{GroupResource, Object};
use serde::Deserialize;

/// One entry of `limitedResources`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct LimitedResource {
    api_group: String,
    resource: String,
    match_contains: Vec<String>,
    match_scopes: Vec<MatchScope>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct MatchScope {
    scope_name: String,
    operator: String,
    values: Vec<String>,
}

impl MatchScope {
    fn selector(&self) -> Selector {
        let operator = if self.operator.is_empty() { "Exists" } else { &self.operator };
        Selector {
            scope: self.scope_name.clone(),
            operator: operator.to_owned(),
            values: self.values.clone(),
        }
    }
}

/// The text of a refusal, where no quota covers what is limited.
pub(super) fn insufficient(
    limited: &[LimitedResource],
    resource: &GroupResource,
    object: &Object,
    more: &ResourceList,
    about: &[&Object],
) -> Option<String> {
    let own: Vec<&LimitedResource> = limited
        .iter()
        .filter(|it| it.api_group == resource.group && it.resource == resource.resource)
        .collect();
    if own.is_empty() {
        return None;
    }
    let is_limited = |name: &&String| {
        own.iter().flat_map(|it| &it.match_contains).any(|part| name.contains(part.as_str()))
    };
    let is_covered =
        |name: &&String| about.iter().any(|quota| quota::hard(quota, "status").contains_key(*name));
    let names: Vec<&str> =
        more.keys().filter(|name| is_limited(name) && !is_covered(name)).map(String::as_str).collect();
    if !names.is_empty() {
        return Some(format!("insufficient quota to consume: {}", names.join(",")));
    }
    let held =
        own.iter().flat_map(|it| &it.match_scopes).filter(|scope| scope.selector().holds(resource, object));
    let uncovered = |scope: &&MatchScope| {
        !about.iter().any(|quota| quota::selectors(quota).iter().any(|it| it.scope == scope.scope_name))
    };
    let texts: Vec<String> = held
        .filter(uncovered)
        .map(|scope| format!("{{{} {} [{}]}}", scope.scope_name, scope.operator, scope.values.join(" ")))
        .collect();
    (!texts.is_empty()).then(|| format!("insufficient quota to match these scopes: [{}]", texts.join(" ")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_limited_needs_a_quota() {
        let entry = json!({"resource": "pods", "matchContains": ["cpu"],
            "matchScopes": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]});
        let limited = [serde_json::from_value::<LimitedResource>(entry).unwrap()];
        let pods = &GroupResource::new("", "pods");
        let object = |document: Value| Object::from_value(document).unwrap();
        let pod = object(json!({"spec": {"priorityClassName": "high", "containers": [
            {"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}));
        let more = quota::usage(pods, &pod);
        assert_eq!(
            insufficient(&limited, pods, &pod, &more, &[]).as_deref(),
            Some("insufficient quota to consume: cpu,requests.cpu")
        );
        let hard = json!({"cpu": "1", "requests.cpu": "1"});
        let plain = object(json!({"spec": {"hard": hard}, "status": {"hard": hard}}));
        assert_eq!(
            insufficient(&limited, pods, &pod, &more, &[&plain]).as_deref(),
            Some("insufficient quota to match these scopes: [{PriorityClass In [high]}]")
        );
        let scoped = object(json!({"spec": {"scopes": ["PriorityClass"]}, "status": {"hard": hard}}));
        assert_eq!(insufficient(&limited, pods, &pod, &more, &[&scoped]), None);
    }
}
