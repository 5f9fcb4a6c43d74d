//! An APIService for each group and version that this server serves itself, so that clients see all in one place.
//!
//! Those of built-in groups are made, and put right, when the server starts; those of custom resources come and go with
//! their definitions. What somebody else has made under such a name is left alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use keelson_api::{Catalog, GroupVersion, Object, Status};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{GROUP, PLURAL, api_services};
use crate::cache;
use crate::registry::{Registry, Target};
use crate::server::bootstrap;

const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Writes at a time.
const AT_ONCE: usize = 32;
/// After what time a failure is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The priorities of a custom resource's group and version.
const CUSTOM: (i64, i64) = (1000, 100);
/// Groups in the order of clients' preference; each is a hundred less than the one before.
const PRIORITIES: [(&str, i64); 22] = [
    ("", 18_000),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("apiextensions.k8s.io", 16_700),
    ("admissionregistration.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
    ("internal.apiserver.k8s.io", 16_000),
    ("resource.k8s.io", 15_900),
    ("storagemigration.k8s.io", 15_800),
];

fn priority(group_version: &GroupVersion) -> (i64, i64) {
    let group = PRIORITIES.iter().find(|(group, _)| *group == group_version.group);
    let version = match (group_version.group.as_str(), group_version.version.as_str()) {
        ("", _) => 1,
        ("autoscaling", "v2") => 30,
        ("flowcontrol.apiserver.k8s.io", "v1") => 21,
        (_, "v1") => 15,
        (_, _) => 9,
    };
    (group.map_or(15_700, |(_, priority)| *priority), version)
}

/// What there should be (pure): names, and their specs with the label's value.
fn wanted(catalog: &Catalog) -> BTreeMap<String, (Value, &'static str)> {
    let mut out = BTreeMap::new();
    for group_version in catalog.group_versions().into_iter().filter(|it| it.group != GROUP) {
        let mut resources = catalog.resources().iter();
        let is_builtin = resources.any(|it| it.custom.is_none() && it.group_version() == group_version);
        let (group, version) = if is_builtin { priority(&group_version) } else { CUSTOM };
        let spec = json!({
            "group": group_version.group, "version": group_version.version,
            "groupPriorityMinimum": group, "versionPriority": version,
        });
        let managed = if is_builtin { "onstart" } else { "true" };
        out.insert(format!("{}.{}", group_version.version, group_version.group), (spec, managed));
    }
    out
}

/// The condition of what this server serves itself.
fn local(now: Timestamp) -> Value {
    json!([{"type": "Available", "status": "True", "reason": "Local",
        "message": "Local APIServices are always available",
        "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}])
}

fn target(registry: &Registry, name: &str, subresource: &str) -> Result<Target, Status> {
    let catalog = registry.catalog();
    let resource = catalog.find(GROUP, "v1", PLURAL).cloned().ok_or_else(Status::path_not_found)?;
    Ok(Target { resource, namespace: None, name: name.to_owned(), subresource: subresource.to_owned() })
}

/// Replaces the conditions of an APIService.
pub(super) async fn set_conditions(
    registry: &Registry,
    name: &str,
    conditions: &Value,
) -> Result<(), Status> {
    let (target, options) = (target(registry, name, "status")?, bootstrap::options());
    let written = registry.update(&target, &options, |live| {
        let mut object = live.clone();
        object.set(&["status", "conditions"], conditions.clone());
        object.set_resource_version(None);
        Ok(object)
    });
    match written.await {
        Err(status) if status.code != 404 => Err(status),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Registers what the server serves.
pub struct Registration {
    registry: Arc<Registry>,
    /// Told when other resources are served.
    changes: watch::Receiver<()>,
    /// Those of built-in groups are as they should be.
    is_started: bool,
}

impl Registration {
    /// Registers what is served now, before anybody is answered.
    pub async fn start(registry: &Arc<Registry>) -> Self {
        let changes = registry.catalog_changes();
        let mut registration = Registration { registry: Arc::clone(registry), changes, is_started: false };
        registration.is_started = registration.register().await;
        registration
    }

    /// Keeps it so until it is told to stop.
    pub async fn keep(mut self, stop: CancellationToken) {
        let mut is_done = self.is_started;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if !is_done => {}
            }
            self.changes.borrow_and_update();
            is_done = self.register().await;
            self.is_started |= is_done;
        }
    }

    /// Brings all to what they should be; whether that went well.
    async fn register(&self) -> bool {
        let (registry, cache) = (&self.registry, self.registry.resource(&api_services()));
        let wanted = wanted(&registry.catalog());
        let mut work: Vec<Work> = Vec::new();
        let due = wanted.iter().filter(|(_, (_, managed))| !self.is_started || *managed == "true");
        for (name, (spec, managed)) in due {
            let found = cache.get(name).and_then(|stored| cache::decode(&stored.bytes).ok());
            work.extend(change(name, spec, managed, found.as_ref()));
        }
        for stored in cache.list().objects.values().filter(|stored| !wanted.contains_key(&*stored.name)) {
            let object = cache::decode(&stored.bytes).ok();
            if object.is_some_and(|it| it.get_str(&["metadata", "labels", MANAGED]).is_some()) {
                work.push(Work::Remove(stored.name.to_string()));
            }
        }
        let results = futures::stream::iter(work).map(|work| act(registry, work)).buffer_unordered(AT_ONCE);
        let failures: Vec<Status> =
            results.filter_map(|result| futures::future::ready(result.err())).collect().await;
        for error in &failures {
            tracing::warn!(%error, "an APIService could not be registered");
        }
        failures.is_empty()
    }
}

/// What there is to do.
#[derive(Debug, PartialEq)]
enum Work {
    Create(Value),
    Correct(String, Value),
    /// Its condition alone.
    Tell(String),
    Remove(String),
}

/// What brings an APIService to what it should be (pure).
fn change(name: &str, spec: &Value, managed: &str, found: Option<&Object>) -> Option<Work> {
    let Some(found) = found else {
        return Some(Work::Create(json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "APIService",
            "metadata": {"name": name, "labels": {MANAGED: managed}}, "spec": spec,
        })));
    };
    found.get_str(&["metadata", "labels", MANAGED])?;
    if found.get(&["spec"]) != Some(spec) {
        return Some(Work::Correct(name.to_owned(), spec.clone()));
    }
    let told =
        found.get(&["status", "conditions"]).is_some_and(|conditions| conditions[0]["reason"] == "Local");
    (!told).then(|| Work::Tell(name.to_owned()))
}

async fn act(registry: &Registry, work: Work) -> Result<(), Status> {
    let name = match work {
        Work::Remove(name) => {
            let target = target(registry, &name, "")?;
            let options = bootstrap::options();
            return match registry
                .delete(&target, &crate::registry::delete::DeleteOptions::default(), &options)
                .await
            {
                Err(status) if status.code != 404 => Err(status),
                Ok(_) | Err(_) => Ok(()),
            };
        }
        Work::Create(document) => {
            let object = Object::from_value(document).map_err(Status::internal)?;
            let name = object.name().unwrap_or_default().to_owned();
            match registry.create(target(registry, &name, "")?, object, &bootstrap::options()).await {
                Err(status) if status.reason != "AlreadyExists" => return Err(status),
                Ok(_) | Err(_) => name,
            }
        }
        Work::Correct(name, spec) => {
            let (target, options) = (target(registry, &name, "")?, bootstrap::options());
            let written = registry.update(&target, &options, |live| {
                let mut object = live.clone();
                object.set(&["spec"], spec.clone());
                object.set_resource_version(None);
                Ok(object)
            });
            written.await?;
            name
        }
        Work::Tell(name) => name,
    };
    set_conditions(registry, &name, &local(Timestamp::now())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_server_serves_has_upstreams_priorities() {
        let wanted = wanted(&Catalog::builtin());
        let priorities = |name: &str| {
            let spec = &wanted[name].0;
            (spec["groupPriorityMinimum"].as_i64().unwrap(), spec["versionPriority"].as_i64().unwrap())
        };
        assert_eq!(priorities("v1."), (18_000, 1));
        assert_eq!(priorities("v2.autoscaling"), (17_500, 30));
        assert_eq!(priorities("v1.apps"), (17_800, 15));
        assert!(!wanted.contains_key("v1.apiregistration.k8s.io"));
    }

    #[test]
    fn what_somebody_else_made_is_left_alone() {
        let spec = json!({"group": "g", "version": "v1"});
        let object = |labels: Value, spec: Value| {
            Object::from_value(json!({"metadata": {"name": "v1.g", "labels": labels}, "spec": spec})).unwrap()
        };
        assert!(matches!(change("v1.g", &spec, "true", None), Some(Work::Create(_))));
        let theirs = object(json!({}), json!({"group": "g", "version": "v1", "service": {}}));
        assert_eq!(change("v1.g", &spec, "true", Some(&theirs)), None);
        let bent = object(json!({MANAGED: "true"}), json!({}));
        assert_eq!(
            change("v1.g", &spec, "true", Some(&bent)),
            Some(Work::Correct("v1.g".into(), spec.clone()))
        );
        let untold = object(json!({MANAGED: "true"}), spec.clone());
        assert_eq!(change("v1.g", &spec, "true", Some(&untold)), Some(Work::Tell("v1.g".into())));
    }
}
