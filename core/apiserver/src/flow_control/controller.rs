//! Keeps what is in force as the stored schemas and levels say, and the objects that every cluster has as they should be.

use std::sync::Arc;

use http::HeaderValue;
use jiff::Timestamp;
use keelson_api::flow_control::{AUTO_UPDATE, Bootstrapped, GROUP, bootstrapped};
use keelson_api::object::format_time;
use keelson_api::{GroupResource, GroupVersionKind, Object, Status};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::level::{Level, LevelSpec};
use super::schema::{FlowSchema, FlowSchemaSpec};
use super::{Flow, FlowControl, InForce, allocation};
use crate::cache;
use crate::registry::delete::DeleteOptions;
use crate::registry::{Registry, Target, WriteOptions};
use crate::server::bootstrap::{ensure, options};

const LEVELS: &str = "prioritylevelconfigurations";
const SCHEMAS: &str = "flowschemas";
/// Who writes conditions.
const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";
/// Who writes the objects that every cluster has.
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";

/// An object as it is stored, and what it says.
struct Stored<T> {
    object: Object,
    uid: HeaderValue,
    spec: T,
}

fn read<T: DeserializeOwned>(registry: &Registry, plural: &str) -> Result<Vec<Stored<T>>, Status> {
    let listing = registry.resource(&GroupResource::new(GROUP, plural)).list();
    let mut found = Vec::with_capacity(listing.objects.len());
    for stored in listing.objects.values() {
        let object = cache::decode(&stored.bytes)?;
        let uid = HeaderValue::from_str(object.uid().unwrap_or_default()).map_err(Status::internal)?;
        match serde_json::from_value(object.get(&["spec"]).cloned().unwrap_or_default()) {
            Ok(spec) => found.push(Stored { object, uid, spec }),
            Err(error) => {
                tracing::warn!(kind = plural, name = object.name(), %error, "an object cannot be used");
            }
        }
    }
    Ok(found)
}

fn target(registry: &Registry, kind: &str, name: &str, subresource: &str) -> Result<Target, Status> {
    let gvk = GroupVersionKind::new(GROUP, "v1", kind);
    let resource = registry.catalog().find_kind(&gvk).cloned().ok_or_else(Status::path_not_found)?;
    let (name, subresource) = (name.to_owned(), subresource.to_owned());
    Ok(Target { resource, namespace: None, name, subresource })
}

fn by(manager: &str) -> WriteOptions {
    WriteOptions { manager: manager.to_owned(), ..options() }
}

/// Whether the server keeps what an object says: as it is told, else as long as nobody has changed it.
fn is_kept(live: &Object, mandatory: bool) -> bool {
    match live.annotation(AUTO_UPDATE) {
        _ if mandatory => true,
        Some(told) => told == "true",
        None => live.generation().is_none_or(|generation| generation <= 1),
    }
}

fn restored(live: &Object, wanted: &Bootstrapped) -> Object {
    let mut object = live.clone();
    object.set_annotation(AUTO_UPDATE, "true");
    // What the exempt level lends is its administrator's choice.
    if !(wanted.mandatory && wanted.name == "exempt" && wanted.kind == "PriorityLevelConfiguration") {
        object.set(&["spec"], wanted.spec.clone());
    }
    object
}

/// Makes the objects that every cluster has, and brings those that are kept into their form.
pub(crate) async fn produce(registry: &Registry) -> Result<(), Status> {
    let all = bootstrapped().map_err(Status::internal)?;
    futures::future::try_join_all(all.iter().map(|wanted| produce_one(registry, wanted))).await?;
    for (kind, plural) in [("FlowSchema", SCHEMAS), ("PriorityLevelConfiguration", LEVELS)] {
        for stored in read::<Value>(registry, plural)? {
            let name = stored.object.name().unwrap_or_default();
            let known = all.iter().any(|it| it.kind == kind && it.name == name);
            // What an earlier version had and this one has not.
            if !known && stored.object.annotation(AUTO_UPDATE) == Some("true") {
                let target = target(registry, kind, name, "")?;
                match registry.delete(&target, &DeleteOptions::default(), &by(PRODUCER)).await {
                    Err(status) if status.code != 404 => return Err(status),
                    Ok(_) | Err(_) => {}
                }
            }
        }
    }
    Ok(())
}

async fn produce_one(registry: &Registry, wanted: &Bootstrapped) -> Result<(), Status> {
    let target = target(registry, wanted.kind, &wanted.name, "")?;
    let Some(found) = registry.find(&target) else { return ensure(registry, wanted.document()).await };
    let live = cache::decode(&found.bytes)?;
    if live.deletion_timestamp().is_some()
        || !is_kept(&live, wanted.mandatory)
        || restored(&live, wanted) == live
    {
        return Ok(());
    }
    match registry.update(&target, &by(PRODUCER), |live| Ok(restored(live, wanted))).await {
        Err(status) if status.code == 404 => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// The condition of a schema whose level is there, or is not.
fn condition(level: &str, is_there: bool) -> (&'static str, &'static str, String) {
    let start = "This FlowSchema references the PriorityLevelConfiguration object named";
    if is_there {
        ("False", "Found", format!("{start} {level:?} and it exists"))
    } else {
        ("True", "NotFound", format!("{start} {level:?} but there is no such object"))
    }
}

/// The schema with its condition; `None` if it has it already.
fn judged(live: &Object, level: &str, is_there: bool, now: Timestamp) -> Option<Object> {
    let (status, reason, message) = condition(level, is_there);
    let mut conditions =
        live.get(&["status", "conditions"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let at = conditions.iter().position(|condition| condition["type"] == "Dangling");
    let old = at.map(|at| conditions[at].clone());
    let is = |field: &str, value: &str| old.as_ref().is_some_and(|old| old[field] == value);
    if is("status", status) && is("reason", reason) && is("message", &message) {
        return None;
    }
    let since =
        if is("status", status) { old.as_ref().map(|old| old["lastTransitionTime"].clone()) } else { None };
    let since = since.unwrap_or_else(|| format_time(now).into());
    let new = json!({
        "type": "Dangling", "status": status, "reason": reason, "message": message, "lastTransitionTime": since,
    });
    match at {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
    let mut object = live.clone();
    object.set(&["status", "conditions"], conditions.into());
    Some(object)
}

/// Writes the conditions of all schemas.
async fn judge(registry: &Registry) -> Result<(), Status> {
    let levels = registry.resource(&GroupResource::new(GROUP, LEVELS));
    for stored in read::<FlowSchemaSpec>(registry, SCHEMAS)? {
        let level = &stored.spec.priority_level_configuration.name;
        let is_there = levels.get(level).is_some();
        let now = Timestamp::now();
        if judged(&stored.object, level, is_there, now).is_none() {
            continue;
        }
        let target = target(registry, "FlowSchema", stored.object.name().unwrap_or_default(), "status")?;
        let change = |live: &Object| Ok(judged(live, level, is_there, now).unwrap_or_else(|| live.clone()));
        match registry.update(&target, &by(MANAGER), change).await {
            Err(status) if status.code != 404 => return Err(status),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

impl FlowControl {
    /// Takes up what is stored.
    pub(crate) fn load(&self, registry: &Registry) -> Result<(), Status> {
        let (specs, before) = (read::<LevelSpec>(registry, LEVELS)?, self.in_force.load());
        let now = self.clock.now();
        let total =
            self.limits.max_requests_inflight.saturating_add(self.limits.max_mutating_requests_inflight);
        let shares: Vec<allocation::Shares> = specs.iter().map(|stored| stored.spec.shares()).collect();
        let mut levels = Vec::with_capacity(specs.len());
        for (stored, bounds) in specs.iter().zip(allocation::bounds(total, &shares)) {
            let name = stored.object.name().unwrap_or_default();
            let same = |level: &&Arc<Level>| level.name == name && level.uid == stored.uid;
            let level = before.levels.iter().find(same).cloned().unwrap_or_else(|| {
                Arc::new(Level::new(name, stored.uid.clone(), &stored.spec, self.metrics.level(name)))
            });
            level.configure(now, &stored.spec, bounds);
            levels.push(level);
        }
        let mut flows = Vec::new();
        for stored in read::<FlowSchemaSpec>(registry, SCHEMAS)? {
            let wanted = &stored.spec.priority_level_configuration.name;
            let Some(level) = levels.iter().find(|level| level.name == *wanted).cloned() else { continue };
            let name = stored.object.name().unwrap_or_default().to_owned();
            flows.push(Arc::new(Flow {
                metrics: self.metrics.flow(wanted, &name),
                seed: super::seed(&name),
                schema: FlowSchema { name, uid: stored.uid, spec: stored.spec },
                level,
            }));
        }
        flows.sort_by(|a, b| {
            let key = |flow: &Arc<Flow>| (flow.schema.spec.matching_precedence, flow.schema.name.clone());
            key(a).cmp(&key(b))
        });
        self.in_force.store(Arc::new(InForce { flows, levels }));
        Ok(())
    }

    /// Takes up every change, and puts right what is to be kept, until the server ends.
    pub(crate) async fn keep(self: Arc<Self>, registry: Arc<Registry>, stop: CancellationToken) {
        let of = |plural| registry.resource(&GroupResource::new(GROUP, plural)).follow();
        let (mut schemas, mut levels) = (of(SCHEMAS), of(LEVELS));
        loop {
            schemas.borrow_and_update();
            levels.borrow_and_update();
            let outcome = async {
                self.load(&registry)?;
                produce(&registry).await?;
                judge(&registry).await
            };
            if let Err(error) = outcome.await {
                tracing::warn!(%error, "flow schemas and priority levels could not be kept");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(std::time::Duration::from_secs(1)) => continue,
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = schemas.changed() => if changed.is_err() { return },
                changed = levels.changed() => if changed.is_err() { return },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_told_whether_its_level_is_there() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let schema = Object::from_value(json!({"metadata": {"name": "s"}})).unwrap();
        let found = judged(&schema, "l", true, now).unwrap();
        let condition = &found.get(&["status", "conditions"]).unwrap()[0];
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Found")));
        assert!(judged(&found, "l", true, now).is_none());
        let lost = judged(&found, "l", false, now).unwrap();
        assert_eq!(lost.get(&["status", "conditions"]).unwrap()[0]["status"], "True");
    }

    #[test]
    fn what_is_kept_is_said_by_its_annotation_and_by_who_has_changed_it() {
        let object = |told: Option<&str>, generation: i64| {
            let annotations = told.map_or(json!({}), |told| json!({AUTO_UPDATE: told}));
            let metadata = json!({"name": "s", "generation": generation, "annotations": annotations});
            Object::from_value(json!({"metadata": metadata})).unwrap()
        };
        assert!(is_kept(&object(Some("true"), 4), false));
        assert!(!is_kept(&object(Some("false"), 1), false));
        assert!(is_kept(&object(None, 1), false));
        assert!(!is_kept(&object(None, 2), false));
        assert!(is_kept(&object(Some("false"), 2), true));
    }
}
