//! CustomResourceDefinitions at work: what they say becomes what is served.
//!
//! One task follows the stored definitions. It settles the names of each that is new or changed, has its resources
//! served, and only then writes its status, so that whoever reads that a definition is established can use its kind.
//! Who writes a definition is answered when this has been done ([`Settled`]). A definition that is deleted stays until
//! its objects are gone ([`cleanup`]).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keelson_api::custom_resource::definition::{self, Priority};
use keelson_api::custom_resource::names::{self, Taken};
use keelson_api::custom_resource::{CLEANUP, GROUP, PLURAL};
use keelson_api::{Catalog, GroupResource, Object, ResourceInfo, Status};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cache::{self, Cached, ResourceCache};
use crate::identity::{Identity, MASTERS};
use crate::registry::{Record, Registry, Target, WriteOptions};

mod cleanup;
pub(crate) mod creations;
pub(crate) mod rules;

/// After what time a definition that could not be taken up is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long the writer of a definition waits for it to be taken up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether a resource is that of definitions.
pub fn is_definitions(resource: &ResourceInfo) -> bool {
    resource.plural == PLURAL && resource.group == GROUP
}

pub(crate) fn definitions() -> GroupResource {
    GroupResource::new(GROUP, PLURAL)
}

fn options() -> WriteOptions {
    WriteOptions {
        identity: Identity::user("system:apiserver", &[MASTERS]),
        manager: "kube-apiserver".to_owned(),
        served: None,
        record: Record::Track,
        dry_run: false,
        admitted: false,
        remarks: Arc::default(),
    }
}

/// Tells how far the stored definitions have been taken up.
pub struct Settled {
    cache: Arc<ResourceCache>,
    revision: watch::Receiver<u64>,
}

impl Settled {
    /// Waits until every definition that is stored now is served as it says. A server in trouble lets nobody wait
    /// for long.
    pub async fn caught_up(&self) {
        let wanted = *self.cache.follow().borrow();
        let mut revision = self.revision.clone();
        let reached = revision.wait_for(|revision| *revision >= wanted);
        if !matches!(tokio::time::timeout(PATIENCE, reached).await, Ok(Ok(_))) {
            tracing::warn!(revision = wanted, "definitions of custom resources are not taken up in time");
        }
    }
}

/// What is known of one definition.
struct Known {
    revision: u64,
    group: String,
    /// Its `status.acceptedNames` alone.
    names: Object,
    /// Other definitions have names that it wants.
    waits: bool,
    resources: Vec<Arc<ResourceInfo>>,
    stored_as: GroupResource,
}

impl Known {
    fn read(definition: &Object, revision: u64) -> Self {
        let mut names = Object::default();
        if let Some(accepted) = definition.get(&["status", "acceptedNames"]) {
            names.set(&["status", "acceptedNames"], accepted.clone());
        }
        let group = definition.get_str(&["spec", "group"]).unwrap_or_default();
        let plural = definition.get_str(&["spec", "names", "plural"]).unwrap_or_default();
        Known {
            revision,
            group: group.to_owned(),
            names,
            waits: !names::is_true(definition, "NamesAccepted"),
            resources: Vec::new(),
            stored_as: GroupResource::new(group, plural),
        }
    }
}

/// The task.
pub struct CustomResources {
    registry: Arc<Registry>,
    cache: Arc<ResourceCache>,
    /// The resource of definitions.
    info: Arc<ResourceInfo>,
    builtin: Arc<Catalog>,
    known: BTreeMap<String, Known>,
    settled: watch::Sender<u64>,
    cleanups: JoinSet<String>,
    /// UIDs of definitions whose objects are being deleted.
    ending: HashSet<String>,
}

impl CustomResources {
    /// Serves what the store holds, and follows it until it is told to stop. The catalog of the registry is that of
    /// the built-in resources.
    pub async fn start(registry: &Arc<Registry>, stop: CancellationToken) -> Result<Settled, Status> {
        let builtin = registry.catalog();
        let info = builtin.find(GROUP, "v1", PLURAL).cloned().ok_or_else(Status::path_not_found)?;
        let cache = registry.resource(&definitions());
        let settled = watch::Sender::new(0);
        let handle = Settled { cache: Arc::clone(&cache), revision: settled.subscribe() };
        let mut task = CustomResources {
            registry: Arc::clone(registry),
            cache,
            info,
            builtin,
            known: BTreeMap::new(),
            settled,
            cleanups: JoinSet::new(),
            ending: HashSet::new(),
        };
        task.take_up().await?;
        tokio::spawn(task.run(stop));
        Ok(handle)
    }

    async fn run(mut self, stop: CancellationToken) {
        let mut newest = self.cache.follow();
        loop {
            newest.borrow_and_update();
            let failed = match self.take_up().await {
                Ok(()) => false,
                Err(error) => {
                    tracing::warn!(%error, "definitions of custom resources could not be taken up");
                    true
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = newest.changed() => if changed.is_err() { return },
                Some(ended) = self.cleanups.join_next(), if !self.cleanups.is_empty() => match ended {
                    Ok(uid) => drop(self.ending.remove(&uid)),
                    Err(error) => {
                        tracing::error!(%error, "the deletion of custom resources ended");
                        self.ending.clear();
                    }
                },
                () = tokio::time::sleep(RETRY), if failed => {}
            }
        }
    }

    /// Brings what is served up to what is stored.
    async fn take_up(&mut self) -> Result<(), Status> {
        let listing = self.cache.list();
        let mut gone = Vec::new();
        self.known.retain(|name, known| {
            let stays = listing.objects.contains_key(name.as_str());
            if !stays {
                gone.push(known.stored_as.clone());
            }
            stays
        });
        let mut read = Vec::new();
        for object in listing.objects.values() {
            if !self.is_news(object) {
                continue;
            }
            let definition = match cache::decode(&object.bytes) {
                Ok(definition) => definition,
                Err(error) => {
                    tracing::error!(%error, object = &*object.name, "a stored definition cannot be read");
                    continue;
                }
            };
            // Names that were given are kept, whoever comes first now.
            let mut known = Known::read(&definition, object.revision);
            if let Some(before) = self.known.get_mut(&*object.name) {
                known.resources = std::mem::take(&mut before.resources);
            }
            self.known.insert(object.name.to_string(), known);
            read.push((definition, object.revision));
        }
        let mut is_changed = !gone.is_empty();
        let (mut writes, mut ending) = (Vec::new(), Vec::new());
        for (definition, revision) in read {
            let taken = self.taken(&definition);
            let settled = settle(&definition, &taken);
            is_changed |= self.note(&settled, revision);
            if definition.deletion_timestamp().is_some() && definition.finalizers().any(|it| it == CLEANUP) {
                ending.push(definition.clone());
            }
            if settled != definition {
                writes.push((settled, taken));
            }
        }
        if is_changed {
            self.publish();
        }
        // From here on no creation begins of what is ending.
        for definition in ending {
            self.clean_up(&definition)?;
        }
        for resource in gone {
            self.registry.forget(&resource);
        }
        let mut outcome = Ok(());
        for (settled, taken) in writes {
            let Err(error) = self.write_status(&settled, &taken).await else { continue };
            outcome = Err(error);
            // It is looked at again, although it has not changed.
            if let Some(known) = settled.name().and_then(|name| self.known.get_mut(name)) {
                known.revision = 0;
            }
        }
        self.settled.send_replace(listing.revision);
        outcome
    }

    fn is_news(&self, object: &Cached) -> bool {
        let known = self.known.get(&*object.name);
        known.is_none_or(|known| known.waits || known.revision != object.revision)
    }

    /// The names that a definition cannot have.
    fn taken(&self, definition: &Object) -> Taken {
        let mut taken = Taken::default();
        let group = definition.get_str(&["spec", "group"]).unwrap_or_default();
        for resource in self.builtin.resources().iter().filter(|it| it.group == group) {
            taken.add_builtin(resource);
        }
        let own = definition.name().unwrap_or_default();
        for (_, known) in self.known.iter().filter(|(name, known)| *name != own && known.group == group) {
            taken.add_definition(&known.names);
        }
        taken
    }

    /// Notes what a definition has served; whether that is something else than before.
    fn note(&mut self, settled: &Object, revision: u64) -> bool {
        let name = settled.name().unwrap_or_default();
        let resources = definition::resources(settled).unwrap_or_else(|error| {
            tracing::error!(%error, object = name, "a definition cannot be served");
            Vec::new()
        });
        let mut known = Known::read(settled, revision);
        let before = self.known.remove(name).map(|known| known.resources).unwrap_or_default();
        let is_changed = before != resources;
        known.resources = if is_changed { rules::attach(resources, settled) } else { before };
        self.known.insert(name.to_owned(), known);
        is_changed
    }

    /// Has all that is known served, with the preferred version of a group first.
    fn publish(&self) {
        let mut catalog = Catalog::clone(&self.builtin);
        let mut custom: Vec<&Arc<ResourceInfo>> =
            self.known.values().flat_map(|known| &known.resources).collect();
        custom.sort_by_cached_key(|it| (it.group.clone(), Priority::of(&it.version), it.plural.clone()));
        for resource in custom {
            if catalog.find(&resource.group, &resource.version, &resource.plural).is_none() {
                catalog.insert(Arc::clone(resource));
            }
        }
        self.registry.serve(catalog);
    }

    async fn write_status(&self, settled: &Object, taken: &Taken) -> Result<(), Status> {
        let (target, options) = (self.target(settled, "status"), options());
        let written = self.registry.update(&target, &options, |live| {
            // Another definition has come under this name: it is taken up by itself.
            let mut object = if live.uid() == settled.uid() { settle(live, taken) } else { live.clone() };
            // Whoever writes in between has it tried again.
            object.set_resource_version(None);
            Ok(object)
        });
        match written.await {
            Err(status) if status.code != 404 => Err(status),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn target(&self, definition: &Object, subresource: &str) -> Target {
        Target {
            resource: Arc::clone(&self.info),
            namespace: None,
            name: definition.name().unwrap_or_default().to_owned(),
            subresource: subresource.to_owned(),
        }
    }

    /// Begins to delete the objects of a definition, once.
    fn clean_up(&mut self, definition: &Object) -> Result<(), Status> {
        let uid = definition.uid().unwrap_or_default().to_owned();
        let Some(resource) = definition::stored_resource(definition).map_err(Status::internal)? else {
            return Ok(());
        };
        if self.ending.insert(uid.clone()) {
            let (registry, target) = (Arc::clone(&self.registry), self.target(definition, ""));
            self.cleanups.spawn(async move {
                cleanup::run(&registry, &resource, &target, &uid).await;
                uid
            });
        }
        Ok(())
    }
}

fn settle(definition: &Object, taken: &Taken) -> Object {
    let mut settled = definition.clone();
    names::settle(&mut settled, taken, Timestamp::now());
    settled
}
