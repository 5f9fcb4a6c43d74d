//! Deletion: at once, after a grace period, or when the last finalizer is gone.

use jiff::{SignedDuration, Timestamp};
use keelson_api::validation::FieldError;
use keelson_api::{GroupResource, GroupVersionKind, Object, ResourceInfo, Status};
use keelson_store::{Precondition, Revision};
use serde::Deserialize;

use super::strategy::{self, FOREGROUND, ORPHAN};
use super::{ATTEMPTS, Registry, Target, WriteFailure, WriteOptions};
use crate::admission::Operation;
use crate::cache;

/// `meta/v1` `DeleteOptions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    /// Seconds before the object is removed; for pods.
    pub grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation_policy: Option<String>,
    /// The older way to say `Orphan`.
    pub orphan_dependents: Option<bool>,
    /// What must hold of the object.
    pub preconditions: Option<Preconditions>,
    /// `["All"]` to change nothing.
    pub dry_run: Vec<String>,
}

impl DeleteOptions {
    /// Refuses what contradicts itself.
    pub(crate) fn validate(&self) -> Result<(), Status> {
        let mut errors = Vec::new();
        if let Some(policy) = self.propagation_policy.as_deref() {
            const PATH: &str = "propagationPolicy";
            if self.orphan_dependents.is_some() {
                let detail = "orphanDependents and deletionPropagation cannot be both set";
                errors.push(FieldError::invalid(PATH, policy, detail));
            }
            if !matches!(policy, "Background" | "Foreground" | "Orphan") {
                let known = ["Foreground", "Background", "Orphan", "nil"];
                errors.push(FieldError::not_supported(PATH, policy, &known));
            }
        }
        if self.dry_run.iter().any(|item| item != "All") {
            errors.push(FieldError::not_supported("dryRun", self.dry_run.clone(), &["All"]));
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(&GroupVersionKind::new("meta.k8s.io", "v1", "DeleteOptions"), "", &errors))
    }
}

/// What must hold of an object that is deleted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconditions {
    /// Its UID.
    pub uid: Option<String>,
    /// Its resource version.
    pub resource_version: Option<String>,
}

/// What came of a deletion.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// The object is gone; its UID.
    Gone {
        /// The UID it had.
        uid: String,
    },
    /// The object is still there, with a deletion timestamp.
    Ending(bytes::Bytes),
}

/// What to do with an object that is asked to go.
#[derive(Debug, PartialEq)]
enum Plan {
    Remove(Object),
    Mark(Object),
    Nothing,
}

fn check(options: &DeleteOptions, live: &Object, target: &Target) -> Result<(), Status> {
    let Some(preconditions) = &options.preconditions else { return Ok(()) };
    let about = GroupResource::new(&target.resource.group, &target.resource.kind);
    let failed = |what: &str, asked: &str, own: &str, why: &str| {
        let detail = format!(
            "the {what} in the precondition ({asked}) does not match the {what} in record ({own}). The object might have been {why}"
        );
        Err(Status::conflict(&about, &target.name, &detail))
    };
    let own = live.uid().unwrap_or_default();
    if let Some(uid) = preconditions.uid.as_deref().filter(|uid| *uid != own) {
        return failed("UID", uid, own, "deleted and then recreated");
    }
    let own = live.resource_version().unwrap_or_default();
    if let Some(version) = preconditions.resource_version.as_deref().filter(|version| *version != own) {
        return failed("ResourceVersion", version, own, "modified");
    }
    Ok(())
}

/// Only pods go gracefully.
fn is_graceful(resource: &ResourceInfo) -> bool {
    resource.group.is_empty() && resource.plural == "pods"
}

/// The period of a deletion that begins.
fn grace(resource: &ResourceInfo, options: &DeleteOptions, live: &Object) -> i64 {
    if !is_graceful(resource) {
        return 0;
    }
    let finished = matches!(live.get_str(&["status", "phase"]), Some("Succeeded" | "Failed"));
    let bound = live.get_str(&["spec", "nodeName"]).is_some_and(|node| !node.is_empty());
    if finished || !bound {
        return 0;
    }
    let own = live.get(&["spec", "terminationGracePeriodSeconds"]).and_then(serde_json::Value::as_i64);
    // A negative period means: at once, but by the node.
    let asked = options.grace_period_seconds.or(own).unwrap_or(0);
    if asked < 0 { 1 } else { asked }
}

/// Kinds of which dependents stay behind where nobody says otherwise: so they did before there was a word for it.
const ORPHANING: [(&str, &str); 2] = [("", "replicationcontrollers"), ("batch", "jobs")];

fn finalizers(resource: &ResourceInfo, options: &DeleteOptions, live: &Object) -> Vec<String> {
    let mut list: Vec<String> = live.finalizers().map(str::to_owned).collect();
    let is_garbage = |name: &String| name == FOREGROUND || name == ORPHAN;
    // Nothing depends on an event.
    if resource.plural == "events" && matches!(resource.group.as_str(), "" | "events.k8s.io") {
        list.retain(|name| !is_garbage(name));
        return list;
    }
    let wanted = match (options.propagation_policy.as_deref(), options.orphan_dependents) {
        (Some("Foreground"), _) => Some(FOREGROUND),
        (Some("Orphan"), _) | (None, Some(true)) => Some(ORPHAN),
        (Some("Background"), _) | (None, Some(false)) => None,
        (_, _) => {
            let orphans = ORPHANING.contains(&(resource.group.as_str(), resource.plural.as_str()));
            if orphans && !list.iter().any(is_garbage) {
                list.push(ORPHAN.to_owned());
            }
            return list;
        }
    };
    list.retain(|name| !is_garbage(name));
    list.extend(wanted.map(str::to_owned));
    list
}

/// Decides, without doing anything.
fn plan(resource: &ResourceInfo, options: &DeleteOptions, live: &Object, now: Timestamp) -> Plan {
    let mut object = live.clone();
    object.set_finalizers(finalizers(resource, options, live));
    let held = object.finalizers().next().is_some() || strategy::is_held_by_spec(resource, &object);
    if let Some(until) = live.deletion_timestamp() {
        let left = live.deletion_grace_period_seconds().unwrap_or(0);
        // A running deletion may only be shortened; its time counts from when it began.
        let asked = options.grace_period_seconds.map_or(left, |asked| if asked < 0 { 1 } else { asked });
        let grace = asked.min(left);
        if grace == 0 && !held {
            object.set_deletion_grace_period_seconds(Some(0));
            return Plan::Remove(object);
        }
        if grace == left && object.finalizers().eq(live.finalizers()) {
            return Plan::Nothing;
        }
        let sooner = SignedDuration::from_secs(left - grace);
        let until = until.parse::<Timestamp>().ok().and_then(|until| until.checked_sub(sooner).ok());
        object.set_deletion_timestamp(Some(until.unwrap_or(now)));
        object.set_deletion_grace_period_seconds(Some(grace));
        return Plan::Mark(object);
    }
    let grace = grace(resource, options, live);
    if let Some(generation) = live.generation().filter(|generation| *generation > 0) {
        object.set_generation(Some(generation + 1));
    }
    let after = SignedDuration::from_secs(grace);
    object.set_deletion_timestamp(Some(now.checked_add(after).unwrap_or(now)));
    object.set_deletion_grace_period_seconds(Some(grace));
    if grace == 0 && !held {
        return Plan::Remove(object);
    }
    if resource.group.is_empty() && resource.plural == "namespaces" {
        object.set(&["status", "phase"], "Terminating".into());
    }
    Plan::Mark(object)
}

impl Registry {
    /// Deletes an object, or begins to.
    pub async fn delete(
        &self,
        target: &Target,
        delete: &DeleteOptions,
        options: &WriteOptions,
    ) -> Result<Deleted, Status> {
        delete.validate()?;
        for _ in 0..ATTEMPTS {
            let found = self.get(target)?;
            let live = cache::decode(&found.bytes)?;
            check(delete, &live, target)?;
            self.mutate(Operation::Delete, target, Some(&live), &mut Object::default(), options).await?;
            self.validate(Operation::Delete, target, Some(&live), None, options).await?;
            let uid = live.uid().unwrap_or_default().to_owned();
            let plan = plan(&target.resource, delete, &live, Timestamp::now());
            if options.dry_run {
                return match plan {
                    Plan::Nothing => Ok(Deleted::Ending(found.bytes.clone())),
                    Plan::Remove(_) => Ok(Deleted::Gone { uid }),
                    Plan::Mark(object) => super::dry(object, false).map(|it| Deleted::Ending(it.bytes)),
                };
            }
            let at = Precondition::Unchanged(Revision::new(found.revision));
            let outcome = match plan {
                Plan::Nothing => return Ok(Deleted::Ending(found.bytes.clone())),
                Plan::Remove(object) => self.remove(target, &object, at).await.map(|_| Deleted::Gone { uid }),
                Plan::Mark(object) => self.put(target, &object, at).await.map(Deleted::Ending),
            };
            match outcome {
                Ok(deleted) => return Ok(deleted),
                Err(WriteFailure::Conflict | WriteFailure::Outdated) => {}
                Err(WriteFailure::Status(status)) => return Err(status),
            }
        }
        Err(Status::modified(&target.group_resource(), &target.name))
    }
}

#[cfg(test)]
mod tests {
    use keelson_api::Catalog;
    use serde_json::json;

    use super::*;

    fn pod(extra: serde_json::Value) -> Object {
        let mut document = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "d", "uid": "1"},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}});
        if let Some(metadata) = extra.as_object() {
            for (field, value) in metadata {
                document["metadata"][field] = value.clone();
            }
        }
        Object::from_value(document).unwrap()
    }

    fn decide(object: &Object, options: &DeleteOptions) -> Plan {
        let catalog = Catalog::builtin();
        let resource = catalog.find("", "v1", "pods").unwrap();
        plan(resource, options, object, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_running_pod_gets_its_grace_period() {
        let Plan::Mark(object) = decide(&pod(json!({})), &DeleteOptions::default()) else { panic!() };
        assert_eq!(object.deletion_timestamp(), Some("2026-01-01T00:00:30Z"));
        assert_eq!(object.deletion_grace_period_seconds(), Some(30));
    }

    #[test]
    fn a_deletion_without_grace_removes_at_once_unless_a_finalizer_holds() {
        let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        assert!(matches!(decide(&pod(json!({})), &now), Plan::Remove(_)));
        assert!(matches!(decide(&pod(json!({"finalizers": ["a/b"]})), &now), Plan::Mark(_)));
    }

    #[test]
    fn asking_again_for_a_longer_period_changes_nothing() {
        let ending =
            pod(json!({"deletionTimestamp": "2026-01-01T00:00:10Z", "deletionGracePeriodSeconds": 10}));
        assert_eq!(decide(&ending, &DeleteOptions::default()), Plan::Nothing);
        let sooner = DeleteOptions { grace_period_seconds: Some(5), ..DeleteOptions::default() };
        let Plan::Mark(object) = decide(&ending, &sooner) else { panic!() };
        assert_eq!(object.deletion_timestamp(), Some("2026-01-01T00:00:05Z"));
        assert_eq!(object.deletion_grace_period_seconds(), Some(5));
        let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        assert!(matches!(decide(&ending, &now), Plan::Remove(_)));
    }

    #[test]
    fn the_pods_of_a_job_stay_unless_its_deletion_says_otherwise() {
        let catalog = Catalog::builtin();
        let jobs = catalog.find("batch", "v1", "jobs").unwrap();
        let decide = |policy: Option<&str>| {
            let options =
                DeleteOptions { propagation_policy: policy.map(str::to_owned), ..DeleteOptions::default() };
            plan(jobs, &options, &pod(json!({})), "2026-01-01T00:00:00Z".parse().unwrap())
        };
        let Plan::Mark(object) = decide(None) else { panic!() };
        assert_eq!(object.finalizers().collect::<Vec<_>>(), [ORPHAN]);
        assert!(matches!(decide(Some("Background")), Plan::Remove(_)));
    }

    #[test]
    fn the_propagation_policy_becomes_a_finalizer() {
        let foreground =
            DeleteOptions { propagation_policy: Some("Foreground".into()), ..DeleteOptions::default() };
        let Plan::Mark(object) = decide(&pod(json!({})), &foreground) else { panic!() };
        assert_eq!(object.finalizers().collect::<Vec<_>>(), [FOREGROUND]);
    }
}
