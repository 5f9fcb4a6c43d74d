//! Reads and writes objects of every resource by the same rules.
//!
//! What differs between resources is data of the catalog, or a line in [`strategy`]. Writes that do not name a
//! revision are retried on the newest state when another one came between.

use std::borrow::Cow;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use keelson_api::{
    Catalog, GroupResource, GroupVersionKind, Object, ResourceInfo, Schema, Status, apply, convert, defaults,
    validation, warnings,
};
use keelson_store::{Change, Key, Precondition, Revision, Store, Value};
use tokio::sync::watch;

use crate::admission::{Attributes, Chain, Operation, Remarks};
use crate::cache::{self, Cached, ResourceCache, WatchCache};
use crate::conversion::{self, Converter};
use crate::custom_resources::{self, creations};
use crate::identity::Identity;
use crate::remote::ServiceResolver;

mod commit;
pub mod delete;
pub mod eviction;
pub mod expiry;
pub mod list;
pub mod replace;
pub mod scale;
mod sealing;
pub mod strategy;
pub mod subresource;

/// How often a write without a revision is tried again.
const ATTEMPTS: usize = 16;

/// The registry of all resources.
pub struct Registry {
    store: Arc<dyn Store>,
    cache: Arc<WatchCache>,
    catalog: ArcSwap<Catalog>,
    /// Told whenever the catalog is another one.
    changes: watch::Sender<()>,
    admission: Chain,
    converter: Converter,
}

/// Which object, of which resource.
#[derive(Clone, Debug)]
pub struct Target {
    /// The resource.
    pub resource: Arc<ResourceInfo>,
    /// The namespace; `None` for cluster-scoped resources.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: String,
    /// The subresource written through; empty for the object itself.
    pub subresource: String,
}

impl Target {
    /// The group and resource, for messages.
    pub fn group_resource(&self) -> GroupResource {
        self.resource.group_resource()
    }

    pub(crate) fn cache_key(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.clone(),
        }
    }

    fn store_key(&self) -> Result<Key, Status> {
        Key::new(cache::key(&self.group_resource(), self.namespace.as_deref(), &self.name))
            .map_err(|error| Status::bad_request(error.to_string()))
    }
}

/// How a write is made.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Who writes.
    pub identity: Identity,
    /// The field manager.
    pub manager: String,
    /// The kind that the writer speaks, in its version; `None` where that is the stored one.
    pub served: Option<GroupVersionKind>,
    /// How managed fields are kept.
    pub record: Record,
    /// Do everything but the write.
    pub dry_run: bool,
    /// Whether admission has said yes already, to the document of a subresource that this write carries out.
    pub admitted: bool,
    /// What admission remarks about the request.
    pub remarks: Arc<Remarks>,
}

/// How the record of managed fields is kept in a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// What the write changes is its manager's.
    Track,
    /// The changed object has its record already.
    Kept,
}

/// What a write gave.
#[derive(Clone, Debug)]
pub struct Written {
    /// The document as it now stands.
    pub bytes: bytes::Bytes,
    /// Whether it was created.
    pub created: bool,
}

impl Registry {
    /// A registry over a store and the cache that observes it.
    pub fn new(store: Arc<dyn Store>, cache: Arc<WatchCache>, catalog: Catalog, admission: Chain) -> Self {
        let (catalog, changes) = (ArcSwap::from_pointee(catalog), watch::Sender::new(()));
        let converter = Converter::new(Arc::new(ServiceResolver::new(Arc::clone(&cache))));
        Registry { store, cache, catalog, changes, admission, converter }
    }

    /// Asks conversion webhooks.
    pub(crate) fn converter(&self) -> &Converter {
        &self.converter
    }

    /// Serves these resources from now on. A request that has begun ends with those of before.
    pub(crate) fn serve(&self, catalog: Catalog) {
        self.catalog.store(Arc::new(catalog));
        self.changes.send_replace(());
    }

    /// Tells when other resources are served.
    pub(crate) fn catalog_changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Drops what is kept of a resource without objects.
    pub(crate) fn forget(&self, resource: &GroupResource) {
        self.cache.forget(resource);
    }

    /// The resources that are served now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.load_full()
    }

    /// The store, for health.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The resource by whose rules objects are written: that of the version in which they are stored. Versions of a
    /// custom resource each have their own rules, and differ in the stored form by name alone.
    pub fn stored(&self, resource: &Arc<ResourceInfo>) -> Result<Arc<ResourceInfo>, Status> {
        if resource.custom.is_some() || !convert::is_converted(resource) {
            return Ok(Arc::clone(resource));
        }
        let kind = convert::storage_kind(resource);
        let catalog = self.catalog();
        catalog.find_kind(&kind).cloned().ok_or_else(|| Status::internal(format!("{kind:?} is not served")))
    }

    /// The cache of a resource.
    pub fn resource(&self, resource: &GroupResource) -> Arc<ResourceCache> {
        self.cache.resource(resource)
    }

    /// The cache of a resource of which something was ever asked or stored.
    pub fn known(&self, resource: &GroupResource) -> Option<Arc<ResourceCache>> {
        self.cache.known(resource)
    }

    /// The newest revision that has been taken up.
    pub fn revision(&self) -> u64 {
        self.cache.revision()
    }

    /// One object, or 404.
    pub fn get(&self, target: &Target) -> Result<Arc<Cached>, Status> {
        self.find(target).ok_or_else(|| Status::not_found(&target.group_resource(), &target.name))
    }

    /// One object, if it is there.
    pub fn find(&self, target: &Target) -> Option<Arc<Cached>> {
        self.resource(&target.group_resource()).get(&target.cache_key())
    }

    /// Creates an object. `target.name` may be empty, where the object has a name or a `generateName`.
    pub async fn create(
        &self,
        mut target: Target,
        mut object: Object,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let pass = creations::begin(&target.resource, &self.catalog())?;
        let gvk = convert::storage_kind(&target.resource);
        if object.resource_version().is_some_and(|version| !version.is_empty()) {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let generated = strategy::take_name(&mut object, &mut target, |target| self.find(target).is_some())?;
        object.set_gvk(&gvk);
        object.set_uid(&uuid::Uuid::new_v4().to_string());
        let now = Timestamp::now();
        object.set_creation_timestamp(now);
        object.set_deletion_timestamp(None);
        object.set_deletion_grace_period_seconds(None);
        strategy::before_create(&target.resource, &mut object);
        strategy::settle(&target.resource, "", &mut object);
        // What the server adds from here on belongs to nobody.
        track(None, &mut object, &target, options, now);
        self.mutate(Operation::Create, &target, None, &mut object, options).await?;
        if let Some(name) = object.name().filter(|name| *name != target.name) {
            target.name = name.to_owned();
        }
        strategy::finish_create(&target.resource, &mut object, now);
        warnings::of(&gvk, &object, None).into_iter().for_each(|text| options.remarks.warn(text));
        let mut errors = validation::validate_create(&gvk, &object, target.resource.namespaced);
        custom_resources::rules::check(&gvk, &object, None, &mut errors);
        crate::devices::check(self, &target, &object, None, &mut errors);
        if let Some(custom) = &target.resource.custom {
            errors.extend(custom.validate(&object));
        }
        if !errors.is_empty() {
            return Err(Status::invalid(&gvk, &target.name, &errors));
        }
        self.validate(Operation::Create, &target, None, Some(&object), options).await?;
        if options.dry_run {
            if self.find(&target).is_some() {
                return Err(Status::already_exists(&target.group_resource(), &target.name));
            }
            return dry(object, true);
        }
        for _ in 0..ATTEMPTS {
            let absent = match &pass {
                Some(pass) => pass.absent(&self.resource(&custom_resources::definitions()))?,
                None => Precondition::Absent,
            };
            match self.put(&target, &object, absent).await {
                Ok(bytes) => return Ok(Written { bytes, created: true }),
                Err(WriteFailure::Conflict) if generated => return Err(strategy::name_collision(&target)),
                Err(WriteFailure::Conflict) => {
                    return Err(Status::already_exists(&target.group_resource(), &target.name));
                }
                // Its definition has changed meanwhile.
                Err(WriteFailure::Outdated) => {}
                Err(WriteFailure::Status(status)) => return Err(status),
            }
        }
        Err(Status::unavailable("the definition of the resource changes all the time"))
    }

    /// Changes an object by a function of its newest state. The function is called again when another write came
    /// between, unless its result names a revision: then that is a conflict.
    pub async fn update(
        &self,
        target: &Target,
        options: &WriteOptions,
        change: impl Fn(&Object) -> Result<Object, Status> + Send + Sync,
    ) -> Result<Written, Status> {
        let resource = target.group_resource();
        for _ in 0..ATTEMPTS {
            let found = self.get(target)?;
            let live = self.read(target, &found.bytes).await?;
            let mut object = change(&live)?;
            let named = object.resource_version().filter(|version| !version.is_empty());
            let pinned = named.is_some_and(|version| Some(version) != live.resource_version());
            if pinned {
                return Err(Status::modified(&resource, &target.name));
            }
            if let (Some(own), Some(asked)) = (live.uid(), object.uid().filter(|uid| !uid.is_empty()))
                && own != asked
            {
                let detail =
                    format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {own}");
                return Err(Status::conflict(&resource, &target.name, &detail));
            }
            strategy::check_identity(target, &object, &live)?;
            if self.settle(target, &live, &mut object, options).await? == Settled::Unchanged
                && !self.is_stale(target)
            {
                return Ok(Written { bytes: found.bytes.clone(), created: false });
            }
            if options.dry_run {
                return dry(object, false);
            }
            let at = Precondition::Unchanged(Revision::new(found.revision));
            let outcome = if strategy::is_finished(&target.resource, &object) {
                self.remove(target, &object, at).await
            } else {
                self.put(target, &object, at).await
            };
            match outcome {
                Ok(bytes) => return Ok(Written { bytes, created: false }),
                // What the change names as its base is compared with the newer state at the next attempt.
                Err(WriteFailure::Conflict | WriteFailure::Outdated) => {}
                Err(WriteFailure::Status(status)) => return Err(status),
            }
        }
        Err(Status::modified(&resource, &target.name))
    }

    /// Brings a changed object into the form in which it is stored.
    async fn settle(
        &self,
        target: &Target,
        live: &Object,
        object: &mut Object,
        options: &WriteOptions,
    ) -> Result<Settled, Status> {
        let gvk = convert::storage_kind(&target.resource);
        object.set_gvk(&gvk);
        strategy::before_update(target, object, live);
        strategy::settle(&target.resource, &target.subresource, object);
        track(Some(live), object, target, options, Timestamp::now());
        self.mutate(Operation::Update, target, Some(live), object, options).await?;
        if target.subresource.is_empty() {
            let found = warnings::of(&gvk, object, Some(live));
            found.into_iter().for_each(|text| options.remarks.warn(text));
        }
        let judge = |live: &Object| {
            let mut errors = validation::validate_update(&gvk, object, live);
            custom_resources::rules::check(&gvk, object, Some(live), &mut errors);
            crate::devices::check(self, target, object, Some(live), &mut errors);
            if let Some(custom) = &target.resource.custom {
                errors.extend(custom.validate_update(object, live));
            }
            errors.extend(validation::validate_change(&gvk, &target.subresource, object, live));
            errors
        };
        let mut errors = judge(live);
        if !errors.is_empty() && target.resource.custom.is_none() {
            // What was stored when there were other defaults has changed by those alone.
            let mut settled = live.clone();
            defaults::apply_defaults(&gvk, &mut settled);
            errors = judge(&settled);
        }
        if !errors.is_empty() {
            return Err(Status::invalid(&gvk, &target.name, &errors));
        }
        self.validate(Operation::Update, target, Some(live), Some(object), options).await?;
        strategy::set_generation(target, object, live);
        object.set_resource_version(live.resource_version());
        let is_same = *object == *live || apply::differ_in_times_alone(object, live);
        Ok(if is_same { Settled::Unchanged } else { Settled::Changed })
    }

    pub(crate) async fn mutate(
        &self,
        operation: Operation,
        target: &Target,
        old: Option<&Object>,
        object: &mut Object,
        options: &WriteOptions,
    ) -> Result<(), Status> {
        if options.admitted {
            return Ok(());
        }
        self.admission.mutate(self, Attributes::new(operation, target, old, options), object).await
    }

    pub(crate) async fn validate(
        &self,
        operation: Operation,
        target: &Target,
        old: Option<&Object>,
        object: Option<&Object>,
        options: &WriteOptions,
    ) -> Result<(), Status> {
        if options.admitted {
            return Ok(());
        }
        self.admission.validate(self, Attributes::new(operation, target, old, options), object).await
    }

    /// Asks admission about a document that is carried out rather than stored, such as a Binding, or the options of a
    /// connection; plugins may change it.
    pub async fn admit(
        &self,
        operation: Operation,
        target: &Target,
        object: &mut Object,
        options: &WriteOptions,
    ) -> Result<(), Status> {
        self.mutate(operation, target, None, object, options).await?;
        self.validate(operation, target, None, Some(object), options).await
    }

    /// A stored document in the form that is worked with.
    pub(crate) async fn read(&self, target: &Target, stored: &[u8]) -> Result<Object, Status> {
        let object = cache::decode(stored)?;
        self.in_version(&target.resource, object, &target.resource.gvk()).await
    }

    /// An object in the form in which it is stored.
    async fn stored_form<'a>(&self, target: &Target, object: &'a Object) -> Result<Cow<'a, Object>, Status> {
        let resource = &target.resource;
        if conversion::webhook(resource).is_none() {
            return Ok(Cow::Borrowed(object));
        }
        let stored = GroupVersionKind { version: resource.storage_version.clone(), ..resource.gvk() };
        self.in_version(resource, object.clone(), &stored).await.map(Cow::Owned)
    }

    async fn put(
        &self,
        target: &Target,
        object: &Object,
        precondition: Precondition,
    ) -> Result<bytes::Bytes, WriteFailure> {
        let stored = self.stored_form(target, object).await.map_err(WriteFailure::Status)?;
        self.write(target, Change::Put(value(&stored)?), precondition).await
    }

    async fn remove(
        &self,
        target: &Target,
        object: &Object,
        precondition: Precondition,
    ) -> Result<bytes::Bytes, WriteFailure> {
        let stored = self.stored_form(target, object).await.map_err(WriteFailure::Status)?;
        self.write(target, Change::Delete(value(&stored)?), precondition).await
    }
}

enum WriteFailure {
    Conflict,
    /// What the object belongs to has changed.
    Outdated,
    Status(Status),
}

fn value(object: &Object) -> Result<Value, WriteFailure> {
    let (bytes, stamp) = object.encode().map_err(|error| WriteFailure::Status(Status::internal(error)))?;
    if bytes.len() > MAX_OBJECT_BYTES {
        return Err(WriteFailure::Status(Status::too_large(format!(
            "Request entity too large: limit is {MAX_OBJECT_BYTES}"
        ))));
    }
    Ok(Value::stamped(bytes, stamp))
}

/// The largest object that is stored, as upstream's limit of a request body.
pub const MAX_OBJECT_BYTES: usize = 3 << 20;

fn track(
    live: Option<&Object>,
    object: &mut Object,
    target: &Target,
    options: &WriteOptions,
    now: Timestamp,
) {
    if options.record == Record::Kept {
        return;
    }
    let find = |gvk: &GroupVersionKind| schema(&target.resource, gvk);
    let write = apply::Write {
        manager: &options.manager,
        subresource: &target.subresource,
        has_status: target.resource.subresource("status").is_some(),
        schemas: &find,
        schema_changes: target.resource.custom.as_ref().is_some_and(|custom| !custom.uniform),
        now,
    };
    let Some(served) = options.served.as_ref().filter(|served| **served != object.gvk()) else {
        return apply::track(live, object, &write);
    };
    let convert = |object: &Object| {
        let mut object = object.clone();
        convert::convert(&mut object, served);
        object
    };
    let mut new = convert(object);
    apply::track(live.map(convert).as_ref(), &mut new, &write);
    object.set_managed_fields(new.managed_fields().to_vec());
}

/// The schema of a resource's kind in one of its versions. That a custom resource's versions each have a schema of
/// their own makes no difference to those who manage their fields: they are compared by the one that is written through.
pub(crate) fn schema(resource: &ResourceInfo, gvk: &GroupVersionKind) -> Option<Arc<Schema>> {
    if resource.custom.is_some() { resource.schema() } else { Schema::builtin(gvk) }
}

fn dry(object: Object, created: bool) -> Result<Written, Status> {
    let bytes = serde_json::to_vec(&object.into_value()).map_err(Status::internal)?;
    Ok(Written { bytes: bytes.into(), created })
}

/// Whether there is anything to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Changed,
    Unchanged,
}
