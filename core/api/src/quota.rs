//! What objects count against a `ResourceQuota`, and which of them it is about.

use serde_json::{Map, Value};

use crate::kinds::GroupResource;
use crate::object::Object;
use crate::quantity::Amount;
use crate::resource_list::{self, ResourceList};

mod scope;
mod usage;

pub use scope::{Selector, selectors};
pub use usage::{missing, usage};

/// The name under which objects of a resource are counted: `count/deployments.apps`, `count/pods`.
pub fn count_name(resource: &GroupResource) -> String {
    format!("count/{resource}")
}

/// The limits of a quota.
pub fn hard(quota: &Object, part: &str) -> ResourceList {
    resource_list::read(quota.get(&[part, "hard"]))
}

/// What a quota says is used.
pub fn used(quota: &Object) -> ResourceList {
    resource_list::read(quota.get(&["status", "used"]))
}

/// Whether a quota is about an object: all of its scopes hold of it.
pub fn is_about(quota: &Object, resource: &GroupResource, object: &Object) -> bool {
    selectors(quota).iter().all(|selector| selector.holds(resource, object))
}

/// The part of a usage that a quota limits.
pub fn masked(usage: &ResourceList, hard: &ResourceList) -> ResourceList {
    usage.iter().filter(|(name, _)| hard.contains_key(*name)).map(|(name, it)| (name.clone(), *it)).collect()
}

/// What `new` uses more than `old`; nothing that is less.
pub fn increase(new: &ResourceList, old: &ResourceList) -> ResourceList {
    let less = |name: &String| old.get(name).copied().unwrap_or_default();
    let differences = new.iter().map(|(name, amount)| (name.clone(), amount.minus(less(name))));
    differences.filter(|(_, amount)| *amount > Amount::default()).collect()
}

/// What a quota lets be used in addition: the sums, or the names of what would be too much.
pub fn grant(
    hard: &ResourceList,
    used: &ResourceList,
    more: &ResourceList,
) -> Result<ResourceList, Vec<String>> {
    let mut sums = used.clone();
    resource_list::add(&mut sums, more);
    let exceeded = |name: &&String| match (hard.get(*name), sums.get(*name)) {
        (Some(limit), Some(sum)) => sum > limit,
        (Some(_) | None, _) => false,
    };
    let exceeded: Vec<String> = more.keys().filter(exceeded).cloned().collect();
    if exceeded.is_empty() { Ok(sums) } else { Err(exceeded) }
}

/// The text of a refusal: what is asked for, used and allowed of what is exceeded.
pub fn exceeded(
    quota: &str,
    names: &[String],
    more: &ResourceList,
    used: &ResourceList,
    hard: &ResourceList,
) -> String {
    let list = |of: &ResourceList| {
        let texts: Vec<String> = names
            .iter()
            .map(|name| format!("{name}={}", of.get(name).copied().unwrap_or_default()))
            .collect();
        texts.join(",")
    };
    format!(
        "exceeded quota: {quota}, requested: {}, used: {}, limited: {}",
        list(more),
        list(used),
        list(hard)
    )
}

/// The status of a quota that limits and uses this much.
pub fn status(hard: &ResourceList, used: &ResourceList) -> Value {
    let mut status = Map::new();
    status.insert("hard".to_owned(), resource_list::to_value(hard));
    status.insert("used".to_owned(), resource_list::to_value(used));
    status.into()
}

/// The resource that a `count/` name of a quota counts.
pub fn counted(name: &str) -> Option<GroupResource> {
    let name = name.strip_prefix("count/")?;
    let (resource, group) = name.split_once('.').unwrap_or((name, ""));
    (!resource.is_empty()).then(|| GroupResource::new(group, resource))
}

/// The resource whose objects count under a name.
pub fn source(name: &str) -> GroupResource {
    match name {
        "services" | "services.loadbalancers" | "services.nodeports" => GroupResource::new("", "services"),
        "configmaps" | "secrets" | "persistentvolumeclaims" | "replicationcontrollers" | "resourcequotas" => {
            GroupResource::new("", name)
        }
        "requests.storage" => GroupResource::new("", "persistentvolumeclaims"),
        other => match counted(other) {
            Some(resource) => resource,
            None if other.contains(".storageclass.storage.k8s.io/") => {
                GroupResource::new("", "persistentvolumeclaims")
            }
            None if other.ends_with(".deviceclass.resource.k8s.io/devices") => {
                GroupResource::new("resource.k8s.io", "resourceclaims")
            }
            None => GroupResource::new("", "pods"),
        },
    }
}

/// The resources whose objects a quota with these limits has to add up.
pub fn sources(hard: &ResourceList) -> Vec<GroupResource> {
    let mut found: Vec<GroupResource> = Vec::new();
    for source in hard.keys().map(|name| source(name)) {
        if !found.contains(&source) {
            found.push(source);
        }
    }
    found
}

#[cfg(test)]
mod tests;
