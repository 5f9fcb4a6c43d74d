//! The `scale` subresource: the number of replicas of any kind that has one, as `autoscaling/v1` `Scale`.

use jiff::Timestamp;
use keelson_api::apply::{ApplyError, Write, apply, scale_entries};
use keelson_api::validation::FieldError;
use keelson_api::{GroupVersionKind, Object, ResourceInfo, Status, convert, selector};
use serde_json::{Map, Value, json};

use super::{Record, Registry, Target, WriteOptions};

impl Registry {
    /// The scale of an object.
    pub async fn scale(&self, target: &Target) -> Result<Value, Status> {
        scale_of(&target.resource, &self.read(target, &self.get(target)?.bytes).await?)
    }

    /// Sets the number of replicas.
    pub async fn set_scale(
        &self,
        target: &Target,
        scale: &Object,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let replicas = wanted(scale)?.unwrap_or(0);
        let version = scale.resource_version().map(str::to_owned);
        let change = |live: &Object| {
            let mut object = live.clone();
            set(&target.resource, &mut object, replicas);
            object.set_resource_version(version.as_deref());
            Ok(object)
        };
        let written = self.update(target, options, change).await?;
        scale_of(&target.resource, &self.read(target, &written.bytes).await?)
    }

    /// Applies a number of replicas: whoever else manages it is in conflict, unless `force` takes it.
    pub async fn apply_scale(
        &self,
        target: &Target,
        scale: &Object,
        force: bool,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let Some(replicas) = wanted(scale)? else {
            return Err(Status::bad_request("spec.replicas: Required value"));
        };
        let gvk = options.served.clone().unwrap_or_else(|| target.resource.gvk());
        let mut config = Object::default();
        config.set_gvk(&gvk);
        config.set_name(&target.name);
        set(&target.resource, &mut config, replicas);
        let version = scale.resource_version().map(str::to_owned);
        let find = |gvk: &GroupVersionKind| super::schema(&target.resource, gvk);
        let change = |live: &Object| {
            let stored = live.gvk();
            let mut live = live.clone();
            convert::convert(&mut live, &gvk);
            let write = Write {
                manager: &options.manager,
                subresource: &target.subresource,
                has_status: true,
                schema_changes: target.resource.custom.as_ref().is_some_and(|custom| !custom.uniform),
                schemas: &find,
                now: Timestamp::now(),
            };
            let mut object =
                apply(Some(&live), &config, force, &write).map_err(|error| refused(error, &gvk))?;
            object.set_resource_version(version.as_deref());
            convert::convert(&mut object, &stored);
            Ok(object)
        };
        let options = WriteOptions { record: Record::Kept, ..options.clone() };
        let written = self.update(target, &options, change).await?;
        scale_of(&target.resource, &self.read(target, &written.bytes).await?)
    }
}

/// In the eyes of its writers a Scale has a version and fields of its own.
fn refused(error: ApplyError, gvk: &GroupVersionKind) -> Status {
    let error = match error {
        ApplyError::Conflicts(mut conflicts) => {
            for conflict in &mut conflicts {
                let (own, seen) = (format!(" using {}", gvk.api_version()), " using autoscaling/v1");
                conflict.manager = conflict.manager.replace(&own, seen);
                conflict.path = ".spec.replicas".to_owned();
            }
            ApplyError::Conflicts(conflicts)
        }
        other @ (ApplyError::ManagedFields | ApplyError::Configuration { .. }) => other,
    };
    error.to_status()
}

/// The number of replicas that a Scale asks for.
pub(crate) fn wanted(scale: &Object) -> Result<Option<i64>, Status> {
    let Some(replicas) = scale.get(&["spec", "replicas"]).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    match replicas.as_i64().filter(|number| (0..=i64::from(i32::MAX)).contains(number)) {
        Some(number) => Ok(Some(number)),
        None => {
            let detail = "must be greater than or equal to 0";
            let fault = FieldError::invalid("spec.replicas", replicas.clone(), detail);
            let gvk = GroupVersionKind::new("autoscaling", "v1", "Scale");
            Err(Status::invalid(&gvk, scale.name().unwrap_or_default(), &[fault]))
        }
    }
}

/// Sets the number of replicas.
pub(crate) fn set(resource: &ResourceInfo, object: &mut Object, replicas: i64) {
    match resource.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
        Some(paths) => paths.set(object, replicas.into()),
        None => object.set(&["spec", "replicas"], replicas.into()),
    }
}

/// The Scale of an object.
pub(crate) fn scale_of(resource: &ResourceInfo, object: &Object) -> Result<Value, Status> {
    let mut metadata: Map<String, Value> =
        ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"]
            .into_iter()
            .filter_map(|field| Some((field.to_owned(), object.metadata()?.get(field)?.clone())))
            .collect();
    let (spec, status, path) = match resource.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
        Some(paths) => {
            let (spec, status) = paths.scale(object).ok_or_else(|| {
                Status::internal(format!(
                    "the spec replicas field \".{}\" does not exist",
                    paths.spec.join(".")
                ))
            })?;
            (spec, status, paths.spec.iter().map(String::as_str).collect())
        }
        None => {
            let selector = object.get(&["spec", "selector"]).cloned().unwrap_or(Value::Null);
            let number =
                |path: &[&str], otherwise: i64| object.get(path).cloned().unwrap_or(otherwise.into());
            let status = json!({"replicas": number(&["status", "replicas"], 0), "selector": selector::query(&selector)});
            (json!({"replicas": number(&["spec", "replicas"], 1)}), status, vec!["spec", "replicas"])
        }
    };
    let entries = scale_entries(object.managed_fields(), &path);
    if !entries.is_empty() {
        metadata.insert("managedFields".to_owned(), entries.into());
    }
    Ok(
        json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status}),
    )
}
